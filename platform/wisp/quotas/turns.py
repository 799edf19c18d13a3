"""What a request holds of its tenant's quotas from its turn to its end, and where: one desk for each tenant in use."""

from __future__ import annotations

import asyncio
import secrets

from wisp.names import FunctionName, TenantName
from wisp.policy.schema import Quota
from wisp.quotas.allowances import Allowance, Reservation
from wisp.quotas.gates import Gate
from wisp.wire.outcome import Receipt


class Desk:
    """One tenant on this node: what it may use, who runs, and the lease that is being asked for."""

    __slots__ = ("allowance", "flight", "gate", "name")

    def __init__(self, tenant: TenantName, quota: Quota) -> None:
        self.name = secrets.token_hex(8)
        """Under which the leases stand: new with each desk, since what is said to be used begins at nothing."""
        self.allowance = Allowance(tenant, quota)
        self.gate = Gate(self.allowance)
        self.flight: asyncio.Task[None] | None = None


class Turn:
    """One request that was let in. `leave` in any case; `settle` before it where the guest has ended, after it where
    the caller went away first."""

    __slots__ = ("_desk", "_function", "_infers", "_left", "_reservation", "_settled", "waited_ns")

    def __init__(
        self, desk: Desk, function: FunctionName, reservation: Reservation, infers: bool, waited_ns: int
    ) -> None:
        self._desk = desk
        self._function = function
        self._reservation = reservation
        self._infers = infers
        self._settled = False
        self._left = False
        self.waited_ns = waited_ns

    def settle(self, receipt: Receipt, bytes_out: int) -> None:
        """Once. What an inference costs is charged beside the guest's own fuel; of that, a nanosecond of CPU counts as
        one at least: host calls use none, and some traps report none."""
        fuel = max(receipt.fuel - receipt.nn_fuel, receipt.cpu_ns) + receipt.nn_fuel
        allowance, reserved = self._desk.allowance, self._reservation
        if self._left:
            allowance.charge_more(fuel=fuel - int(reserved.fuel), nn_ns=receipt.nn_ns - int(reserved.nn_ns))
            return
        self._settled = True
        allowance.settle(reserved, fuel=fuel, nn_ns=receipt.nn_ns, bytes_out=bytes_out, infers=self._infers)

    def leave(self) -> None:
        """What has no receipt yet is charged what it had reserved."""
        self._left = True
        if not self._settled:
            reserved = self._reservation
            self._desk.allowance.settle(
                reserved, fuel=int(reserved.fuel), nn_ns=int(reserved.nn_ns), bytes_out=0, infers=self._infers
            )
        self._desk.gate.leave(self._function)

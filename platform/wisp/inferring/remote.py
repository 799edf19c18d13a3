"""Models that another machine serves, asked by callers themselves: at once, or not at all, and never twice.

What is in flight is held against the node's byte budget in the tenant's name, as callers' bodies are.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from wisp.egress.remote import Remotes
from wisp.egress.remotemodels import Broken, Busy, RemoteModel, Unreachable, parse_source
from wisp.errors import (
    InvalidRequest,
    Overloaded,
    RemoteFailed,
    RemoteTimeout,
    RemoteUnavailable,
    TooManyInflight,
    WispError,
)
from wisp.inferring.access import Access, Asked, Ran
from wisp.names import TenantName
from wisp.oip.messages import MAX_JSON_BYTES, Tensor
from wisp.registry.keys import model_field
from wisp.registry.records import Model
from wisp.scheduling.budget import ByteBudget
from wisp.wire.meters import Metered

AT_ONCE: Final = 256
"""Such inferences on one node: each has a connection."""
NS: Final = 1_000_000_000


class Places:
    """`AT_ONCE` of them; a tenant may have no more than it leaves to others."""

    def __init__(self) -> None:
        self._taken: dict[TenantName, int] = {}
        self._free = AT_ONCE

    def take(self, tenant: TenantName) -> None:
        """Raises `Overloaded`, `TooManyInflight`."""
        if not self._free:
            raise Overloaded("this node asks other machines as much as it may; try again", limit=AT_ONCE, used=AT_ONCE)
        taken = self._taken.get(tenant, 0)
        if taken >= self._free:
            raise TooManyInflight("this tenant's inferences on other machines have its share of the places; try again")
        self._taken[tenant] = taken + 1
        self._free -= 1

    def give_back(self, tenant: TenantName) -> None:
        self._free += 1
        self._taken[tenant] -= 1
        if not self._taken[tenant]:
            del self._taken[tenant]


class Held:
    """Bytes of one inference; in a `with`, at whose end they are given back."""

    def __init__(self, budget: ByteBudget, tenant: TenantName) -> None:
        self._budget = budget
        self._tenant = tenant
        self._bytes = 0

    def take(self, count: int) -> None:
        """Raises `Overloaded`, `TooManyInflight`."""
        self._budget.take(count, self._tenant)
        self._bytes += count

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.give_back(self._bytes, self._tenant)


class RemoteInference:
    """Belongs to one event loop."""

    def __init__(self, remotes: Remotes, budget: ByteBudget) -> None:
        self._remotes = remotes
        self._budget = budget
        self._places = Places()

    async def make_ready(self, access: Access, model: Model) -> None:
        """Returns when its machine says that it is. Raises `RemoteUnavailable`, `RemoteTimeout`, `RemoteFailed`,
        `RegistryUnavailable`."""
        time_ns = min(access.timeout_ns(None), access.ceilings.ceiling.models.max_time)
        try:
            async with asyncio.timeout(time_ns / NS):
                await self._remotes.ask_ready(remote_model(model, time_ns))
        except (TimeoutError, Unreachable, Broken) as error:
            raise _failure(error, time_ns) from error

    async def infer(self, asked: Asked) -> Ran:
        """Raises `Overloaded`, `TooManyInflight`, `RegistryUnavailable`. Cancelling it closes the connection."""
        tenant = asked.access.tenant.name
        self._places.take(tenant)
        try:
            return await self._infer(asked)
        finally:
            self._places.give_back(tenant)

    async def _infer(self, asked: Asked) -> Ran:
        """What goes wrong there is measured and charged like what goes well."""
        began_ns = time.monotonic_ns()
        outputs: tuple[Tensor, ...] = ()
        failure: WispError | None = None
        with Held(self._budget, asked.access.tenant.name) as held:
            try:
                async with asyncio.timeout(asked.time_ns / NS):
                    outputs = await self._remotes.infer(
                        remote_model(asked.model, asked.time_ns),
                        asked.inputs,
                        asked.access.response_bytes + MAX_JSON_BYTES,
                        held.take,
                    )
            except (TimeoutError, Unreachable, Broken) as error:
                failure = _failure(error, asked.time_ns)
            except InvalidRequest as error:
                failure = error
        size = sum(len(tensor.data) for tensor in (*asked.inputs, *outputs))
        metered = Metered(nn_ns=time.monotonic_ns() - began_ns, inferences=1, tensor_bytes=size)
        return Ran(outputs=outputs, failure=failure, metered=metered)


def remote_model(model: Model, time_ns: int) -> RemoteModel:
    """As one request may use it."""
    return RemoteModel(
        name=model_field(model.name, model.version),
        source=parse_source(model.source),
        inputs=model.inputs,
        outputs=model.outputs,
        max_inferences=1,
        max_time_ns=time_ns,
        binary=model.binary,
    )


def _failure(error: TimeoutError | Unreachable | Broken, time_ns: int) -> WispError:
    which = "the machine that serves this model"
    match error:
        case TimeoutError():
            return RemoteTimeout(f"{which} did not answer in time", limit=time_ns // 1_000_000)
        case Unreachable() | Busy():
            return RemoteUnavailable(f"{which} does not serve it now: {error}; try again")
        case _:
            return RemoteFailed(f"{which} gave no answer that is one: {error}")

"""Canaries under watch: how the candidates of a guarded traffic fare, and the return to the stable version.

A request costs an addition here. About once a second what came together goes to the registry, where all nodes' counts
meet in one sliding window; it judges, and returns the function to its stable version, in the same step.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Final

from wisp.errors import RegistryUnavailable
from wisp.names import FunctionName, RequestId, TenantName
from wisp.plans import Plan
from wisp.registry.functions import Functions
from wisp.registry.history import Change
from wisp.tenantlog import Stream, TenantLog
from wisp.wire.exchange import Response
from wisp.wire.outcome import Outcome

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
NO_FAULT: Final = frozenset({Outcome.OK, Outcome.CHILD_LOST})
"""Every other outcome is the version's own doing."""
FIRST_ERROR_STATUS: Final = 500

Watched = tuple[TenantName, FunctionName, int]
"""A function and the id of the traffic that was in force when the request was sent its way."""


def failed(outcome: Outcome, response: Response | None) -> bool:
    """Whether the version is to blame: an outcome that is its own, or an answer that says so itself (5xx)."""
    return outcome not in NO_FAULT or (response is not None and response.status >= FIRST_ERROR_STATUS)


class Guards:
    """`on_rollback` is called for a function that goes back to its stable version by this node's count."""

    def __init__(
        self,
        functions: Functions,
        tenantlog: TenantLog,
        on_rollback: Callable[[TenantName, FunctionName], None],
    ) -> None:
        self._functions = functions
        self._tenantlog = tenantlog
        self._on_rollback = on_rollback
        self._counts: dict[Watched, dict[int, tuple[int, int]]] = {}

    def note(self, plan: Plan, outcome: Outcome, response: Response | None) -> None:
        """One request to a candidate of a guarded traffic came to its end."""
        function = plan.entry.function
        assert function.traffic is not None
        counts = self._counts.setdefault((function.tenant, function.name, function.traffic.id), {})
        requests, errors = counts.get(plan.version, (0, 0))
        counts[plan.version] = (requests + 1, errors + failed(outcome, response))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """What cannot be told now is forgotten: a count that may have arrived is never told twice."""
        counts, self._counts = self._counts, {}
        for (tenant, function, traffic), found in counts.items():
            try:
                change = await self._functions.judge(tenant, function, traffic, found)
            except RegistryUnavailable as error:
                log.warning("a guard's counts are lost: %s", error)
                continue
            if change is not None:
                self._tell(tenant, function, change)

    def _tell(self, tenant: TenantName, function: FunctionName, change: Change) -> None:
        self._on_rollback(tenant, function)
        assert change.version is not None
        self._tenantlog.add(
            tenant,
            function,
            request_id=RequestId(secrets.token_hex(8)),
            version=change.version,
            stream=Stream.PLATFORM,
            text=f"rollback: {change.message}; version {change.active} answers alone again",
        )

"""Refused capabilities as events: what each function of this node was refused of late, bounded, and how often.

They say to a tenant which policy line to ask for; a caller hears `capability_denied` and nothing more.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import StrEnum

from wisp.names import FunctionName, RequestId, TenantName
from wisp.wire.outcome import Denial

MAX_EVENTS = 200
"""Kept of one function; the oldest go first."""
MAX_FUNCTIONS = 2000


class Capability(StrEnum):
    """The policy key that a denial is about: a closed set, for it labels a metric."""

    MODELS = "models"
    INLINE_MODELS = "inline_models"
    FILES = "files"
    CLOCK = "clock"
    ALLOWED_OUTBOUND_HOSTS = "allowed_outbound_hosts"
    BLOCKED_NETWORKS = "blocked_networks"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class DenialEvent:
    """`time` in Unix seconds."""

    time: float
    request_id: RequestId
    version: int
    capability: Capability
    denial: Denial


def capability_of(denial: Denial) -> Capability:
    key = denial.allow.partition(":")[0]
    return Capability(key) if key in set(Capability) else Capability.OTHER


class Denials:
    """Belongs to one event loop. `counts` are since the start, of all functions."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {capability.value: 0 for capability in Capability}
        self._functions: OrderedDict[tuple[TenantName, FunctionName], deque[DenialEvent]] = OrderedDict()

    def add(
        self, tenant: TenantName, function: FunctionName, *, request_id: RequestId, version: int, denial: Denial
    ) -> None:
        capability = capability_of(denial)
        self.counts[capability.value] += 1
        events = self._functions.setdefault((tenant, function), deque(maxlen=MAX_EVENTS))
        self._functions.move_to_end((tenant, function))
        events.append(
            DenialEvent(time=time.time(), request_id=request_id, version=version, capability=capability, denial=denial)
        )
        if len(self._functions) > MAX_FUNCTIONS:
            self._functions.popitem(last=False)

    def events(self, tenant: TenantName, function: FunctionName) -> list[DenialEvent]:
        """Oldest first."""
        return list(self._functions.get((tenant, function), ()))

    def forget(self, tenant: TenantName, function: FunctionName) -> None:
        self._functions.pop((tenant, function), None)

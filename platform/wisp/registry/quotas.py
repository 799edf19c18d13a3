"""Leases on a tenant's quotas: one script, one round trip, safe to repeat.

A lease says how much of each resource one node may use without asking. A node always tells the same two things: all
that it has used since it started, and how much it wants to hold from now on; so a lease whose answer was lost needs no
undoing, the next one replaces it. Leases are numbered: one that arrives late, after its successor, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from wisp.errors import RegistryUnavailable
from wisp.names import TenantName
from wisp.registry.connection import Connection
from wisp.registry.keys import Kind, keys
from wisp.registry.quotascripts import LEASE
from wisp.registry.refusals import accepted


class Resource(IntEnum):
    """What quotas count; the order is the script's."""

    REQUESTS = 0
    INFLIGHT = 1
    FUEL = 2
    NN_NS = 3
    BYTES_IN = 4
    BYTES_OUT = 5


UNITS: Final = {Resource.FUEL: 1000, Resource.NN_NS: 1000}
"""Kept in Redis in coarser units, rounded up: its scripts count in doubles, which are exact to 2^53."""
NEVER: Final = 2**52
"""More than any quota, and still exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One resource of a lease. `spent`: since the node started; `acknowledged`: that much of it the registry has heard.

    `keep` of `want` is in use already and is not to be divided anew. `limit`: None is unlimited.
    """

    limit: int | None
    keep: int
    want: int
    spent: int
    acknowledged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """`granted` replaces what was held. `used`: of the limit, by all nodes. `contended`: another got too little."""

    granted: int
    used: int
    contended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """`nodes`: those that hold a lease of this tenant's, this one included."""

    nodes: int
    day_left_s: int
    grants: tuple[Grant, ...]


class Quotas:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def lease(
        self, tenant: TenantName, *, holder: str, number: int, length_s: float, rate: int, asks: tuple[Ask, ...]
    ) -> Lease:
        """`asks` by `Resource`; the limit of requests is the burst, `rate` how fast it fills again, per second.

        With a `length_s` of 0 everything goes back. Raises `NotFound` without the tenant, and `RegistryUnavailable`:
        then it may have been granted or not, and the next lease, with a greater number, settles it.
        """
        words: list[int] = []
        for resource, ask in zip(Resource, asks, strict=True):
            unit = UNITS.get(resource, 1)
            limit = -1 if ask.limit is None else min(ask.limit // unit, NEVER)
            keep, want = ask.keep // unit, -(-ask.want // unit)
            words += (limit, keep, min(want, NEVER), -(-ask.spent // unit), -(-ask.acknowledged // unit))
        answer = await self.connection.run(
            LEASE,
            keys(tenant, Kind.TENANT, Kind.QUOTAS),
            holder,
            number,
            int(length_s * 1e6),
            rate,
            " ".join(map(str, words)),
        )
        if answer[0] == b"stale":
            raise RegistryUnavailable("a later lease was granted already")
        (said,) = accepted(answer, tenant)
        nodes, day_left_s, *rest = map(int, said.split())
        grants = tuple(
            Grant(
                granted=rest[3 * resource] * UNITS.get(resource, 1),
                used=rest[3 * resource + 1] * UNITS.get(resource, 1),
                contended=rest[3 * resource + 2] == 1,
            )
            for resource in Resource
        )
        return Lease(nodes=nodes, day_left_s=day_left_s, grants=grants)

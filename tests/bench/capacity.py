"""How the load on each resource follows from what is asked of a platform and from what one of each costs: arithmetic.

Redis' costs are CPU time of its one thread. A node's router is one thread, too. Everything is per second unless its
name says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from wisp.ledger import INTERVAL_S
from wisp.quotas.allowances import DRY_S, LEAST_BURST, LEAST_REQUESTS
from wisp.quotas.leasedpools import HORIZON_S
from wisp.quotas.quotas import IDLE_S, RENEW_S, SWEEP_S
from wisp.registry.following import COMPARE_EVERY_S
from wisp.registry.snapshot import CAPACITY

ROUTER_TARGET: Final = 0.6
"""Nodes are added until a router's core is not busier with requests than this."""
FULL: Final = 0.7
"""What a resource may be used before it counts as full: beyond, waiting grows faster than load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Microseconds of CPU, in Redis (`redis_…`) and in a router or sandbox. A lease costs `redis_lease_us` and
    `redis_holder_us` for each node that has one of the same tenant."""

    redis_write_us: float
    redis_event_us: float
    redis_entry_us: float
    redis_generation_us: float
    redis_lease_us: float
    redis_holder_us: float
    redis_usage_us: float
    router_request_us: float
    sandbox_request_us: float
    router_event_us: float
    router_entry_us: float
    router_generation_us: float
    router_lease_us: float
    router_usage_us: float
    compile_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`requests` and `writes` of the whole platform; requests are spread evenly over tenants and nodes, but for
    `busiest`: the requests of one tenant. `deploys` are those of the writes that bring a new module."""

    tenants: int
    functions: int
    requests: float
    writes: float
    deploys: float
    busiest: float
    blob_bytes: float
    primaries: int
    cores: int
    store_bytes: float
    """What the object store delivers."""

    def scaled(self, factor: int) -> Workload:
        """More of everything that is asked, the same machines."""
        return replace(
            self,
            tenants=self.tenants * factor,
            functions=self.functions * factor,
            requests=self.requests * factor,
            writes=self.writes * factor,
            deploys=self.deploys * factor,
            busiest=self.busiest * factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`share`: of what the resource can do; 1 is all of it. `amount` in `unit`."""

    resource: str
    amount: float
    unit: str
    share: float


def lease_rate(requests: float, burst: int = 0) -> float:
    """Leases that one node asks for one tenant, if its requests come at random and the quota is not short. `burst`: of
    the quota; unless it is large, it says nothing.

    Two for each that follows a silence of `IDLE_S` (one is given back, one is asked for); else one whenever half of
    what was granted is used, and one every `RENEW_S` of a lease that is used again. A sweep every `SWEEP_S` finds both.
    """
    silence_s, renewed_s = IDLE_S + SWEEP_S / 2, RENEW_S + SWEEP_S / 2
    if requests <= 0:
        return 0.0
    silent = math.exp(-requests * silence_s)
    half_s = max((max(LEAST_REQUESTS, burst // LEAST_BURST) / 2 + 1) / requests, HORIZON_S / 2)
    return 2 * requests * silent + (1 - silent) ** 2 / min(renewed_s, half_s)


def short_lease_rate(nodes: int) -> float:
    """At most, of one tenant that asks for more than its quota: every node asks again as soon as it may, and once more
    where it was granted a little."""
    return 2 * nodes / DRY_S


def nodes_needed(workload: Workload, costs: Costs) -> int:
    """By the requests alone; three at least."""
    router = workload.requests * costs.router_request_us / 1e6 / ROUTER_TARGET
    sandboxes = workload.requests * costs.sandbox_request_us / 1e6 / ROUTER_TARGET / max(1, workload.cores - 1)
    return max(3, math.ceil(router), math.ceil(sandboxes))


def delivered(workload: Workload, nodes: int) -> float:
    """Events, to all subscribers together."""
    return workload.writes * nodes


def loads(workload: Workload, costs: Costs, nodes: int, *, homes: int | None = None) -> tuple[Load, ...]:
    """The fullest first. `homes`: how many nodes a tenant's requests go to; all of them unless the balancer knows."""
    homes = nodes if homes is None else min(homes, nodes)
    remembered = min(workload.tenants * homes / nodes, CAPACITY)
    pairs = workload.tenants * homes
    per_pair = workload.requests / pairs
    leases = pairs * lease_rate(per_pair)
    told = pairs * min(1 / INTERVAL_S, per_pair)
    generations = nodes * remembered / COMPARE_EVERY_S
    known = min(1.0, CAPACITY / max(workload.functions * homes / nodes, 1))
    renewed = workload.writes * homes * known
    events = delivered(workload, nodes)
    missed = workload.requests * (1 - known)
    redis_us = (
        workload.writes * costs.redis_write_us
        + events * costs.redis_event_us
        + (renewed + missed) * costs.redis_entry_us
        + generations * costs.redis_generation_us
        + leases * (costs.redis_lease_us + homes * costs.redis_holder_us)
        + told * costs.redis_usage_us
    )
    own_us = (
        short_lease_rate(homes) * (costs.redis_lease_us + homes * costs.redis_holder_us)
        + homes / INTERVAL_S * costs.redis_usage_us
    )
    router_us = (
        workload.requests / nodes * costs.router_request_us
        + workload.writes * costs.router_event_us
        + (renewed + missed) / nodes * costs.router_entry_us
        + remembered / COMPARE_EVERY_S * costs.router_generation_us
        + leases / nodes * costs.router_lease_us
        + told / nodes * costs.router_usage_us
    )
    following_us = remembered / COMPARE_EVERY_S * costs.router_generation_us
    sandbox_us = workload.requests / nodes * costs.sandbox_request_us + workload.deploys * costs.compile_us
    blob_bytes = workload.deploys * nodes * workload.blob_bytes
    found = (
        Load(resource="router", amount=router_us / 1e6, unit="cores a node", share=router_us / 1e6),
        Load(
            resource="of it, generations compared",
            amount=remembered / COMPARE_EVERY_S,
            unit="1/s a node",
            share=following_us / 1e6,
        ),
        Load(
            resource="sandboxes and compilers",
            amount=sandbox_us / 1e6,
            unit="cores a node",
            share=sandbox_us / 1e6 / max(1, workload.cores - 1),
        ),
        Load(
            resource="Redis, a primary",
            amount=redis_us / workload.primaries / 1e6,
            unit="cores",
            share=redis_us / workload.primaries / 1e6,
        ),
        Load(
            resource="of it, leases",
            amount=leases,
            unit="1/s",
            share=leases * (costs.redis_lease_us + homes * costs.redis_holder_us) / workload.primaries / 1e6,
        ),
        Load(
            resource="of it, generations",
            amount=generations,
            unit="1/s",
            share=generations * costs.redis_generation_us / workload.primaries / 1e6,
        ),
        Load(
            resource="of it, usage",
            amount=told,
            unit="1/s",
            share=told * costs.redis_usage_us / workload.primaries / 1e6,
        ),
        Load(
            resource="of it, events delivered",
            amount=events,
            unit="1/s",
            share=events * costs.redis_event_us / workload.primaries / 1e6,
        ),
        Load(resource="Redis, one slot whose tenant is short", amount=own_us / 1e6, unit="cores", share=own_us / 1e6),
        Load(
            resource="blobs fetched",
            amount=blob_bytes / 1e6,
            unit="MB/s",
            share=blob_bytes / workload.store_bytes,
        ),
    )
    return tuple(sorted(found, key=lambda load: -load.share))


def first_full(found: tuple[Load, ...]) -> Load | None:
    """The whole resource that is fullest, if any is too full."""
    whole = [load for load in found if not load.resource.startswith("of it")]
    return whole[0] if whole[0].share > FULL else None

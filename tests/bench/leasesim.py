"""Nodes that lease a tenant's rate, on a virtual clock: real allowances and the real script in a real Redis.

Only what carries them is simulated: requests that come at random or as a crowd, the way to Redis and back, the sweeps.
A request that finds too little waits for a lease, as in `wisp.quotas`. Everything random comes from one seed.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from unittest import mock

from quota_nodes import ACME, FREE, HELD_CLOCK, MIDDAY_S, redis_running, set_clock
from wisp.policy.schema import Quota
from wisp.quotas.allowances import LEASE_S, Allowance
from wisp.quotas.quotas import IDLE_S, RENEW_S, SWEEP_S
from wisp.registry import quotas as registry_quotas
from wisp.registry.quotas import Ask, Lease
from wisp.registry.registry import Registry

WAY_S = 0.0005
"""To Redis, and as long back."""
FUEL = 50_000


def quota(rate: int, burst: int) -> Quota:
    """Only the rate is short."""
    return Quota(
        requests_per_second=rate,
        burst=burst,
        max_inflight=10_000,
        fuel_per_day=10**15,
        nn_seconds_per_day=10**6,
        storage=2**30,
        functions=10,
        models=10,
    )


@dataclass(slots=True)
class Outcome:
    """`most`: what burst and rate allow in that time."""

    leases: int = 0
    accepted: int = 0
    refused: int = 0
    most: float = 0
    lasted_s: float = 0

    @property
    def leases_per_s(self) -> float:
        return self.leases / self.lasted_s


class Kind(StrEnum):
    REQUEST = "request"
    SWEEP = "sweep"
    ASKED = "asked"
    ANSWERED = "answered"


@dataclass(slots=True, kw_only=True)
class Flight:
    """A lease on its way."""

    sent_at: float
    asks: tuple[Ask, ...]
    give_back: bool
    lease: Lease | None = None


@dataclass(slots=True)
class SimulatedNode:
    name: int
    rate: float
    allowance: Allowance
    life: int = 0
    number: int = 0
    flight: Flight | None = None
    waiting: list[int] = field(default_factory=list)
    """Of each request that waits: how many leases it may still wait for."""


class Simulation:
    """`steady`: requests come at even intervals, as from clients that pace themselves; else at random (Poisson)."""

    def __init__(self, registry: Registry, terms: Quota, rates: Sequence[float], *, seed: int, steady: bool) -> None:
        self.outcome = Outcome()
        self._registry, self._terms, self._steady = registry, terms, steady
        self._random = random.Random(seed)
        self._order = itertools.count()
        self._events: list[tuple[float, int, Kind, SimulatedNode]] = []
        self._nodes = [SimulatedNode(at, rate, Allowance(ACME, terms)) for at, rate in enumerate(rates)]

    async def run(self, lasts_s: float) -> Outcome:
        for node in self._nodes:
            if node.rate:
                self._at(self._gap(node) * self._random.random(), Kind.REQUEST, node)
            self._at(self._random.random() * SWEEP_S, Kind.SWEEP, node)
        while self._events and self._events[0][0] < lasts_s:
            now, _, kind, node = heapq.heappop(self._events)
            match kind:
                case Kind.REQUEST:
                    self._at(now + self._gap(node), Kind.REQUEST, node)
                    self._request(node, now, 2)
                case Kind.SWEEP:
                    self._at(now + SWEEP_S, Kind.SWEEP, node)
                    self._sweep(node, now)
                case Kind.ASKED:
                    await self._carry_out(node, now)
                case Kind.ANSWERED:
                    self._answered(node, now)
        self.outcome.lasted_s = lasts_s
        self.outcome.most = self._terms.burst + self._terms.requests_per_second * lasts_s
        return self.outcome

    def _gap(self, node: SimulatedNode) -> float:
        return 1 / node.rate if self._steady else self._random.expovariate(node.rate)

    def _at(self, moment: float, kind: Kind, node: SimulatedNode) -> None:
        heapq.heappush(self._events, (moment, next(self._order), kind, node))

    def _request(self, node: SimulatedNode, now: float, leases: int) -> None:
        allowance = node.allowance
        allowance.expect(FUEL)
        reservation = allowance.enter(now, fuel=FUEL, infers=False, bytes_in=0)
        if reservation is not None:
            self.outcome.accepted += 1
            allowance.settle(reservation, fuel=FUEL // 10, nn_ns=0, bytes_out=100, infers=False)
            if not node.flight and allowance.running_low(now):
                self._ask(node, now)
        elif leases and now >= allowance.dry_until:
            allowance.used_at = now
            node.waiting.append(leases - 1)
            if not node.flight:
                self._ask(node, now)
        else:
            self.outcome.refused += 1

    def _sweep(self, node: SimulatedNode, now: float) -> None:
        if node.flight or not node.number:
            return
        if node.allowance.idle(now, IDLE_S):
            self._ask(node, now, give_back=True)
        elif now - node.allowance.asked_at >= RENEW_S:
            self._ask(node, now)

    def _ask(self, node: SimulatedNode, now: float, *, give_back: bool = False) -> None:
        node.number += 1
        asks = node.allowance.nothing() if give_back else node.allowance.asks(now)
        node.flight = Flight(sent_at=now, asks=asks, give_back=give_back)
        self._at(now + WAY_S, Kind.ASKED, node)

    async def _carry_out(self, node: SimulatedNode, now: float) -> None:
        flight = node.flight
        assert flight is not None
        await set_clock(self._registry, MIDDAY_S + now)
        flight.lease = await self._registry.quotas.lease(
            ACME,
            holder=f"{node.name}-{node.life}",
            number=node.number,
            length_s=0 if flight.give_back else LEASE_S,
            rate=self._terms.requests_per_second,
            asks=flight.asks,
        )
        self.outcome.leases += 1
        self._at(now + WAY_S, Kind.ANSWERED, node)

    def _answered(self, node: SimulatedNode, now: float) -> None:
        flight, node.flight = node.flight, None
        assert flight is not None
        assert flight.lease is not None
        node.allowance.take_over(flight.lease, flight.sent_at, now)
        if flight.give_back:
            node.allowance, node.number = Allowance(ACME, self._terms), 0
            node.life += 1
        waited, node.waiting = node.waiting, []
        for leases in waited:
            self._request(node, now, leases)


async def simulated(
    terms: Quota, rates: Sequence[float], *, lasts_s: float, seed: int = 1, steady: bool = False
) -> Outcome:
    with redis_running() as url, mock.patch.object(registry_quotas, "LEASE", HELD_CLOCK):
        registry = Registry(url)
        try:
            await registry.prepare()
            await registry.tenants.create(ACME, FREE)
            return await Simulation(registry, terms, rates, seed=seed, steady=steady).run(lasts_s)
        finally:
            await registry.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOut:
    """`healed_s`: how long a node that missed an event did not know, on average and at most."""

    delivered: int
    lost: int
    healed_s: float
    longest_s: float


def fanned_out(*, nodes: int, writes: float, loss: float, lasts_s: float, every_s: float, seed: int = 1) -> FanOut:
    """Writes at random, each told to every node; some of the messages are lost, and found out by comparing."""
    chance = random.Random(seed)
    phases = [chance.random() * every_s for _ in range(nodes)]
    now, delivered, waits = chance.expovariate(writes), 0, []
    while now < lasts_s:
        for phase in phases:
            if chance.random() < loss:
                waits.append(every_s - (now - phase) % every_s)
            else:
                delivered += 1
        now += chance.expovariate(writes)
    return FanOut(
        delivered=delivered,
        lost=len(waits),
        healed_s=sum(waits) / len(waits) if waits else 0.0,
        longest_s=max(waits, default=0.0),
    )


def simulate(terms: Quota, rates: Sequence[float], **more: float) -> Outcome:
    return asyncio.run(simulated(terms, rates, **more))  # type: ignore[arg-type]

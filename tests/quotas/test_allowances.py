"""Quotas are never overspent past what is stated: lost answers, crashes, jumping clocks, against a real Redis."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quota_nodes import ACME, FREE, HELD_CLOCK, MIDDAY_S, QUOTA, redis_running, set_clock
from wisp.errors import RegistryUnavailable
from wisp.quotas.allowances import DRY_S, LEASE_S, Allowance, Reservation
from wisp.registry import quotas as registry_quotas
from wisp.registry.quotas import Ask, Grant, Lease, Resource
from wisp.registry.registry import Registry

FUEL_LIMIT = 50_000


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with redis_running() as running:
        yield running


@dataclass
class Node:
    """A router as far as quotas go. `clock` is its own."""

    name: str
    clock: float
    allowance: Allowance = field(default_factory=lambda: Allowance(ACME, QUOTA))
    running: list[Reservation] = field(default_factory=list)
    late: tuple[int, tuple[Ask, ...]] | None = None
    used: int = 0
    lease_ends_s: float = math.inf
    """By Redis' clock; what was leased is anybody's from then on."""
    lapsed: list[Reservation] = field(default_factory=list)
    """Of requests that outlive the lease under which they began."""

    @property
    def unheard(self) -> int:
        return self.used - self.allowance.fuel.acknowledged


class World:
    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.redis_s = float(MIDDAY_S)
        self.passed_s = 0.0
        self.requests = 0
        self.level = float(QUOTA.burst)
        """Of the token bucket that the quota means."""
        self.fuel = 0
        self.beyond = 0.0
        """Fuel that requests used past what they had reserved, or after the lease in which they had; that nodes had
        used of a lease and not told of when it ended, or could still use of it since the server's clock had jumped."""
        self.jumps_s: list[float] = []
        """When it jumped forward."""
        self.names = itertools.count()
        self.numbers = itertools.count(1)
        self.nodes = [self.make() for _ in range(3)]

    def make(self) -> Node:
        return Node(name=f"n{next(self.names)}", clock=1000.0 + self.passed_s)

    def begin(self, node: Node) -> None:
        allowance = node.allowance
        allowance.expect(FUEL_LIMIT)
        if allowance.inflight >= allowance.slots:
            return
        reservation = allowance.enter(node.clock, fuel=FUEL_LIMIT, infers=False, bytes_in=100)
        if reservation is not None:
            allowance.take_slot()
            node.running.append(reservation)
            self.requests += 1
            self.level -= 1

    def end(self, node: Node, used: int) -> None:
        while node.running:
            reservation = node.running.pop(0)
            node.allowance.inflight -= 1
            node.allowance.settle(reservation, fuel=used, nn_ns=0, bytes_out=10, infers=False)
            node.used += used
            self.fuel += used
            self.beyond += used if reservation in node.lapsed else max(0.0, used - reservation.fuel)

    async def send(self, node: Node, number: int, asks: tuple[Ask, ...], length_s: float = LEASE_S) -> object:
        await set_clock(self.registry, self.redis_s)
        for each in self.nodes:
            self.lapse(each)
        return await self.registry.quotas.lease(
            ACME, holder=node.name, number=number, length_s=length_s, rate=QUOTA.requests_per_second, asks=asks
        )

    async def renew(self, node: Node, fate: str) -> None:
        asks, number, at = node.allowance.asks(node.clock), next(self.numbers), node.clock
        if fate == "late" and node.late is None:
            node.late = (number, asks)
        elif fate in ("heard", "answer lost"):
            lease = await self.send(node, number, asks)
            node.lease_ends_s = self.redis_s + LEASE_S
            if fate == "heard":
                assert isinstance(lease, registry_quotas.Lease)
                node.allowance.take_over(lease, at, node.clock)
            if node.late is not None:  # the former one comes only now
                late, node.late = node.late, None
                with pytest.raises(RegistryUnavailable):
                    await self.send(node, *late)

    async def give_back(self, node: Node) -> None:
        if not node.running:
            await self.send(node, next(self.numbers), node.allowance.nothing(), 0)
            node.lease_ends_s = math.inf
            node.allowance.fuel.acknowledged = node.allowance.fuel.sent
            for pool in node.allowance.pools:
                pool.acknowledged = pool.sent

    def crash(self, node: Node) -> None:
        self.beyond += node.unheard
        self.nodes[self.nodes.index(node)] = self.make()

    def lapse(self, node: Node) -> None:
        """Its lease has ended, unless it has not."""
        if self.redis_s >= node.lease_ends_s:
            node.lease_ends_s = math.inf
            node.lapsed = list(node.running)
            self.beyond += node.unheard
            if node.clock < node.allowance.trusted_until:
                self.beyond += max(0.0, node.allowance.fuel.left)

    def advance(self, seconds: float) -> None:
        self.redis_s += seconds
        self.passed_s += seconds
        self.fill(seconds)
        for pace, node in zip((0.9, 1.0, 1.1), self.nodes, strict=True):
            node.clock += seconds * pace

    def fill(self, seconds: float) -> None:
        self.level = min(QUOTA.burst, self.level + QUOTA.requests_per_second * seconds)

    def check(self) -> None:
        trusted = [node for node in self.nodes if node.clock < node.allowance.trusted_until]
        assert self.level >= -0.001  # no more in any stretch of time than the burst and the rate allow
        again = sum(self.passed_s - at < 2 * LEASE_S for at in self.jumps_s)
        assert sum(node.allowance.slots for node in trusted) <= QUOTA.max_inflight * (1 + again)
        assert self.fuel <= QUOTA.fuel_per_day + self.beyond + 1000 * len(self.nodes)


NODES = st.integers(0, 2)
FATES = st.sampled_from(["heard", "heard", "heard", "question lost", "answer lost", "late"])
STEPS = st.one_of(
    st.tuples(st.just("begin"), NODES, st.integers(1, 12)),
    st.tuples(st.just("begin"), NODES, st.integers(1, 12)),
    st.tuples(st.just("end"), NODES, st.integers(0, FUEL_LIMIT)),
    st.tuples(st.just("renew"), NODES, FATES),
    st.tuples(st.just("renew"), NODES, FATES),
    st.tuples(st.just("advance"), st.floats(0.01, 6), st.none()),
    st.tuples(st.just("crash"), NODES, st.none()),
    st.tuples(st.just("give back"), NODES, st.none()),
)
JUMPS = st.tuples(st.just("jump"), st.floats(-100, 100), st.none())


async def play(url: str, steps: list[tuple[str, float, object]]) -> World:
    registry = Registry(url)
    await registry.connection.command("FLUSHALL")
    await registry.tenants.create(ACME, FREE)
    world = World(registry)
    for verb, subject, argument in steps:
        if verb == "advance":
            world.advance(subject)
        elif verb == "jump":
            world.redis_s += subject
            world.fill(max(subject, 0))
            if subject > 0:
                world.jumps_s.append(world.passed_s)
            for node in world.nodes:
                world.lapse(node)
        else:
            node = world.nodes[int(subject)]
            if verb == "begin":
                assert isinstance(argument, int)
                for _ in range(argument):
                    world.begin(node)
            elif verb == "end":
                assert isinstance(argument, int)
                world.end(node, argument)
            elif verb == "renew":
                await world.renew(node, str(argument))
            elif verb == "crash":
                world.crash(node)
            else:
                await world.give_back(node)
        world.check()
    await registry.aclose()
    return world


HELD = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@HELD
@given(steps=st.lists(STEPS, max_size=60))
def test_no_interleaving_of_nodes_overspends(url: str, steps: list[tuple[str, float, object]]) -> None:
    """Beyond what requests used past their reservations, and what crashed nodes had not told yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry_quotas, "LEASE", HELD_CLOCK)
        asyncio.run(play(url, steps))


@HELD
@given(steps=st.lists(st.one_of(STEPS, JUMPS), max_size=60))
def test_a_jumping_clock_gives_no_more_than_the_time_it_pretends(
    url: str, steps: list[tuple[str, float, object]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry_quotas, "LEASE", HELD_CLOCK)
        asyncio.run(play(url, steps))


async def test_what_nodes_use_together_is_the_quota_and_not_much_less(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A greedy and a patient node, for a minute at ten requests per second and a burst of twenty."""
    monkeypatch.setattr(registry_quotas, "LEASE", HELD_CLOCK)
    steps: list[tuple[str, float, object]] = []
    for _ in range(600):
        for node in (0, 1):
            steps += [
                ("renew", node, "heard"),
                ("begin", node, 3),
                ("end", node, 5),
                ("end", node, 5),
                ("end", node, 5),
            ]
        steps.append(("advance", 0.1, None))
    world = await play(url, steps)
    most = QUOTA.burst + QUOTA.requests_per_second * 60
    assert most * 0.9 <= world.requests <= most


async def test_a_dead_nodes_lease_returns_by_itself(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_quotas, "LEASE", HELD_CLOCK)
    registry = Registry(url)
    await registry.connection.command("FLUSHALL")
    await registry.tenants.create(ACME, FREE)
    world = World(registry)
    dead, alive, _ = world.nodes
    dead.allowance.waiting = alive.allowance.waiting = 8
    await world.renew(dead, "heard")
    await world.renew(alive, "heard")
    assert (dead.allowance.slots, alive.allowance.slots) == (8, 0)
    world.advance(LEASE_S / 2)
    await world.renew(alive, "heard")
    assert alive.allowance.slots == 0
    world.advance(LEASE_S)
    await world.renew(alive, "heard")
    assert alive.allowance.slots == 8
    world.redis_s -= 1000  # the server's clock goes back: what is held then still ends
    dead = world.nodes[2]
    dead.allowance.waiting = 8
    await world.renew(dead, "heard")
    assert dead.allowance.slots == 0
    world.advance(LEASE_S + 0.1)
    await world.renew(dead, "heard")
    assert dead.allowance.slots == 8
    await registry.aclose()


async def test_two_nodes_in_want_share_the_slots(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_quotas, "LEASE", HELD_CLOCK)
    registry = Registry(url)
    await registry.connection.command("FLUSHALL")
    await registry.tenants.create(ACME, FREE)
    world = World(registry)
    first, second, _ = world.nodes
    first.allowance.waiting = second.allowance.waiting = 8
    for _ in range(3):
        await world.renew(first, "heard")
        await world.renew(second, "heard")
        world.advance(1)
    assert (first.allowance.slots, second.allowance.slots) == (4, 4)
    await registry.aclose()


def test_without_leases_a_node_goes_on_at_its_share() -> None:
    """A quarter of ten requests per second, where nothing was ever leased: the burst's quarter at most at once."""
    allowance, begun = Allowance(ACME, QUOTA.model_copy(update={"fuel_per_day": 10**12})), 0
    allowance.expect(1000)
    allowance.cut_off(100.0)
    for tick in range(600):
        now = 100.0 + tick / 10
        for _ in range(3):
            if (reservation := allowance.enter(now, fuel=1000, infers=False, bytes_in=0)) is not None:
                allowance.settle(reservation, fuel=10, nn_ns=0, bytes_out=0, infers=False)
                begun += 1
    share = QUOTA.requests_per_second / 4
    assert share * 59 <= begun <= QUOTA.burst / 4 + share * 60
    assert allowance.slots == math.ceil(QUOTA.max_inflight / 4)


def test_without_leases_a_days_budget_goes_on_at_its_average() -> None:
    allowance, used = Allowance(ACME, QUOTA.model_copy(update={"requests_per_second": 1000, "burst": 1000})), 0
    allowance.expect(1000)
    allowance.cut_off(100.0)
    for tick in range(2000):
        if (reservation := allowance.enter(100.0 + tick / 10, fuel=1000, infers=False, bytes_in=0)) is not None:
            allowance.settle(reservation, fuel=1000, nn_ns=0, bytes_out=0, infers=False)
            used += 1000
    average = QUOTA.fuel_per_day / 86_400 / 4
    assert average * 199 - 1000 <= used <= average * 202 + 1000


def granted_whole(asks: tuple[Ask, ...]) -> Lease:
    grants = tuple(Grant(granted=ask.want, used=0, contended=False) for ask in asks)
    return Lease(nodes=1, day_left_s=1000, grants=grants)


def test_a_lease_that_was_long_under_way_and_is_used_up_refuses_nobody_by_itself() -> None:
    allowance = Allowance(ACME, QUOTA)
    allowance.expect(1000)
    asks = allowance.asks(100.0)
    allowance.requests.spent += asks[Resource.REQUESTS].want + 5  # while it was under way, without a lease
    allowance.take_over(granted_whole(asks), 100.0, 104.0)
    assert allowance.requests.left < 1
    assert allowance.dry_until < 104.0, "the next request asks for the next lease"


def test_a_lease_that_brought_less_than_was_wanted_is_used_before_the_next_is_asked_for() -> None:
    allowance = Allowance(ACME, QUOTA)
    lease = granted_whole(allowance.asks(100.0))
    few = replace(lease.grants[Resource.REQUESTS], granted=2)
    grants = tuple(few if at is Resource.REQUESTS else grant for at, grant in zip(Resource, lease.grants, strict=True))
    allowance.take_over(replace(lease, grants=grants), 100.0, 100.01)
    entered = [allowance.enter(100.02, fuel=1, infers=False, bytes_in=0) is not None for _ in range(3)]
    assert entered == [True, True, False]
    assert allowance.dry_until == 100.0 + DRY_S, "until then requests are refused without asking"


def test_a_lease_is_asked_for_all_who_wait_for_it() -> None:
    quota = QUOTA.model_copy(update={"requests_per_second": 1000, "burst": 1000})
    allowance = Allowance(ACME, quota)
    allowance.short = 64
    assert allowance.asks(100.0)[Resource.REQUESTS].want >= 64


def test_the_order_of_resources_is_the_scripts() -> None:
    assert [resource.value for resource in Resource] == list(range(6))
    assert [resource.name for resource in Resource] == [
        "REQUESTS",
        "INFLIGHT",
        "FUEL",
        "NN_NS",
        "BYTES_IN",
        "BYTES_OUT",
    ]


async def test_bucket_and_leases_together_are_never_more_than_the_burst(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_quotas, "LEASE", HELD_CLOCK)
    registry = Registry(url)
    await registry.connection.command("FLUSHALL")
    await registry.tenants.create(ACME, FREE)
    world = World(registry)
    for _ in range(3):
        for node in world.nodes:
            await world.renew(node, "heard")
        world.advance(2.5)  # the bucket would be full again
    assert sum(node.allowance.requests.left for node in world.nodes) == QUOTA.burst
    for _ in range(40):
        for node in world.nodes:
            world.begin(node)
            world.end(node, 0)
            world.check()
    await registry.aclose()


async def test_a_days_budget_is_divided_not_multiplied(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_quotas, "LEASE", HELD_CLOCK)
    registry = Registry(url)
    await registry.connection.command("FLUSHALL")
    await registry.tenants.create(ACME, FREE)
    world = World(registry)
    for node in world.nodes:
        node.allowance.fuel.estimate = QUOTA.fuel_per_day / 8  # so that each wants half of it
        await world.renew(node, "heard")
    assert sum(node.allowance.fuel.left for node in world.nodes) <= QUOTA.fuel_per_day
    for _ in range(30):
        for node in world.nodes:
            world.begin(node)
            world.end(node, int(QUOTA.fuel_per_day / 8))
        for node in world.nodes:
            await world.renew(node, "heard")
        world.advance(1)
        world.check()
    assert world.fuel >= QUOTA.fuel_per_day
    await registry.aclose()

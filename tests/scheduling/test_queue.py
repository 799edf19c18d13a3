"""Tenants share by time and weight; bounds hold; who leaves gives the place back; nobody banks, nor owes for ever."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.errors import Overloaded, TooManyInflight
from wisp.scheduling.queue import DEBT_NS, FairQueue, Waiter
from wisp.scheduling.runtimes import RunTime

MS = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1

    def __call__(self) -> int:
        return self.now_ns


def queue_of(
    *, per_tenant: int = 1000, total: int = 4000, clock: Callable[[], int] | None = None
) -> FairQueue[Waiter[str]]:
    return FairQueue(per_tenant=per_tenant, total=total, clock_ns=clock or Clock())


def waiter(tenant: str, *, brief: bool = True, expected_ns: int = 0) -> Waiter[str]:
    runtime = RunTime()
    if expected_ns:
        for _ in range(200):
            runtime.note(expected_ns)
    return Waiter(tenant, runtime, asyncio.get_running_loop(), brief=brief)


def anybody(_: str, __: bool) -> bool:
    return True


def serve(queue: FairQueue[Waiter[str]], cost_ns: int) -> str:
    found = queue.pop(anybody)
    assert found is not None
    queue.charge(found.tenant, cost_ns)
    return found.tenant


async def test_a_tenant_with_many_waiting_delays_another_by_one_turn() -> None:
    queue = queue_of()
    greedy = [waiter("greedy") for _ in range(50)]
    for each in greedy:
        queue.push(each)
    assert serve(queue, 2 * MS) == "greedy"
    queue.push(waiter("modest"))
    assert [serve(queue, 2 * MS) for _ in range(3)] == ["greedy", "modest", "greedy"]
    assert queue.pop(anybody) is greedy[3]


async def test_each_tenant_keeps_its_order() -> None:
    queue = queue_of()
    waiters = {name: [waiter(name) for _ in range(3)] for name in "abc"}
    for own in waiters.values():
        for each in own:
            queue.push(each)
    popped: dict[str, list[Waiter[str]]] = {name: [] for name in "abc"}
    for _ in range(9):
        found = queue.pop(anybody)
        assert found is not None
        queue.charge(found.tenant, 2 * MS)
        popped[found.tenant].append(found)
    assert popped == waiters
    assert queue.pop(anybody) is None
    assert queue.length == 0


@pytest.mark.parametrize(("costs", "weights"), [((50, 1), (1, 1)), ((3, 3), (1, 4)), ((20, 5), (2, 1))])
async def test_time_is_shared_by_weight_whatever_a_turn_costs(costs: tuple[int, int], weights: tuple[int, int]) -> None:
    queue = queue_of(per_tenant=5000, total=10_000)
    for tenant, weight in zip("ab", weights, strict=True):
        for _ in range(4000):
            queue.push(waiter(tenant), weight)
    used: Counter[str] = Counter()
    while sum(used.values()) < 3000:
        tenant = serve(queue, 0)
        cost_ms = costs["ab".index(tenant)]
        queue.charge(tenant, cost_ms * MS)
        used[tenant] += cost_ms
    assert used["a"] / used["b"] == pytest.approx(weights[0] / weights[1], rel=0.1)


async def test_what_a_turn_cost_is_charged_when_it_has_ended() -> None:
    """Charged too little beforehand, it makes up for it by waiting."""
    queue = queue_of()
    for tenant in "ab":
        for _ in range(10):
            queue.push(waiter(tenant))
    assert serve(queue, 2 * MS) == "a"
    queue.charge("a", 8 * MS)  # it took ten
    assert [serve(queue, 2 * MS) for _ in range(5)] == ["b", "b", "b", "b", "b"]
    assert serve(queue, 2 * MS) == "a"


async def test_a_debt_is_bounded_and_paid_off_by_staying_away() -> None:
    clock = Clock()
    queue = queue_of(clock=clock)
    queue.charge("late", 100 * DEBT_NS)
    queue.push(waiter("late"))
    queue.push(waiter("other"))
    assert serve(queue, MS) == "other"
    assert serve(queue, MS) == "late"  # alone it need not wait at all
    queue.charge("late", 100 * DEBT_NS)
    clock.now_ns += DEBT_NS
    queue.push(waiter("late"))
    queue.push(waiter("other"))
    assert serve(queue, MS) == "late"


async def test_who_has_nothing_waiting_banks_nothing() -> None:
    clock = Clock()
    queue = queue_of(clock=clock)
    queue.push(waiter("saver"))
    assert serve(queue, 0) == "saver"
    clock.now_ns += 3600 * 1000 * MS
    for tenant in ("saver", "other"):
        for _ in range(100):
            queue.push(waiter(tenant))
    served = Counter(serve(queue, 2 * MS) for _ in range(20))
    assert served == {"saver": 10, "other": 10}


async def test_who_may_not_take_it_is_passed_over_and_keeps_the_place() -> None:
    queue = queue_of()
    long, brief, other = waiter("a", brief=False), waiter("a"), waiter("b", brief=False)
    for each in (long, brief, other):
        queue.push(each)
    assert queue.pop(lambda _, brief: brief) is brief
    assert queue.pop(lambda _, brief: brief) is None
    assert queue.pop(lambda tenant, _: tenant == "b") is other
    assert queue.pop(anybody) is long


async def test_it_tells_whether_anybody_waits_of_whom_something_holds() -> None:
    queue = queue_of()
    queue.push(waiter("a", brief=True))
    queue.push(waiter("a", brief=False))
    queue.push(waiter("b", brief=True))
    assert queue.any_waits(lambda tenant, brief: tenant == "a" and not brief)
    assert not queue.any_waits(lambda tenant, brief: tenant == "b" and not brief)
    assert queue.length == 3


async def test_bounds_are_the_tenants_then_the_nodes() -> None:
    queue = queue_of(per_tenant=2, total=3)
    queue.push(waiter("a"))
    queue.push(waiter("a"))
    with pytest.raises(TooManyInflight) as tenant_full:
        queue.push(waiter("a"))
    assert tenant_full.value.limit == 2
    queue.push(waiter("b"))
    with pytest.raises(Overloaded):
        queue.push(waiter("c"))
    assert queue.length == 3


async def test_a_waiter_that_left_is_passed_over() -> None:
    queue = queue_of()
    gone, cancelled, stays = waiter("a", expected_ns=5 * MS), waiter("a"), waiter("a", expected_ns=7 * MS)
    for each in (gone, cancelled, stays):
        queue.push(each)
    assert queue.ahead_ns("a") == queue.waiting_ns == pytest.approx(12 * MS, rel=0.01)
    queue.discard(gone)
    cancelled.granted.cancel()
    assert queue.length == 2
    assert queue.pop(anybody) is stays
    assert queue.length == queue.waiting_ns == queue.ahead_ns("a") == 0
    queue.discard(stays)  # no longer there: nothing happens


async def test_weights_are_of_those_that_wait() -> None:
    queue = queue_of()
    queue.push(waiter("a"), 4)
    queue.push(waiter("b"), 2)
    assert queue.weights("c", 1) == 7
    assert queue.weights("a", 4) == 6


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 500)), max_size=60))
async def test_whatever_happens_the_books_balance_and_someone_is_served(steps: list[tuple[str, bool, int]]) -> None:
    clock = Clock()
    queue = queue_of(clock=clock)
    waiting = 0
    for tenant, arrives, cost_ms in steps:
        clock.now_ns += cost_ms * MS
        if arrives:
            queue.push(waiter(tenant), 1 + cost_ms % 3)
            waiting += 1
        elif waiting:
            serve(queue, cost_ms * MS)
            waiting -= 1
        assert queue.length == waiting
    while waiting:
        serve(queue, MS)
        waiting -= 1
    assert queue.pop(anybody) is None


async def test_the_next_of_a_tenant_goes_only_in_its_turn() -> None:
    queue = queue_of()
    first, second, other = waiter("one"), waiter("one"), waiter("two")
    queue.push(first)
    queue.push(second)
    assert queue.next_of("two", lambda _: True) is None
    assert queue.next_of("one", lambda _: False) is None
    assert queue.next_of("one", lambda _: True) is first
    queue.push(other)
    assert queue.next_of("one", lambda _: True) is None  # its turn is to be found first, among two
    assert serve(queue, 3 * MS) == "one"
    assert queue.length == 1


async def test_what_is_put_back_is_the_next_of_its_tenant_whatever_the_bounds() -> None:
    queue = queue_of(per_tenant=2, total=2)
    first, second, third = waiter("one"), waiter("one"), waiter("one")
    queue.push(first)
    queue.push(second)
    assert queue.pop(anybody) is first
    queue.push(third)
    queue.put_back(first)
    assert [queue.pop(anybody) for _ in range(4)] == [first, second, third, None]
    queue.put_back(first)
    queue.discard(first)
    assert (queue.length, queue.waiting_ns) == (0, 0)

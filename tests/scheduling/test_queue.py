"""Tenants take turns; bounds hold; whoever leaves gives its place back."""

from __future__ import annotations

import pytest

from wisp.errors import Overloaded, TooManyInflight
from wisp.scheduling.queue import FairQueue, Waiter


async def test_a_tenant_with_many_waiting_delays_another_by_one_turn() -> None:
    queue: FairQueue[str] = FairQueue(per_tenant=100, total=200)
    greedy: list[Waiter[str]] = [Waiter() for _ in range(50)]
    for waiter in greedy:
        queue.push("greedy", waiter)
    modest: Waiter[str] = Waiter()
    queue.push("modest", modest)
    assert queue.pop() is greedy[0]
    assert queue.pop() is modest
    assert queue.pop() is greedy[1]


async def test_each_tenant_keeps_its_order_and_turns_alternate() -> None:
    queue: FairQueue[str] = FairQueue(per_tenant=10, total=100)
    waiters: dict[str, list[Waiter[str]]] = {name: [Waiter() for _ in range(3)] for name in "abc"}
    for name, own in waiters.items():
        for waiter in own:
            queue.push(name, waiter)
    popped = [queue.pop() for _ in range(9)]
    assert popped == [waiters[name][turn] for turn in range(3) for name in "abc"]
    assert queue.pop() is None
    assert queue.length == 0


async def test_bounds_are_the_tenants_then_the_nodes() -> None:
    queue: FairQueue[str] = FairQueue(per_tenant=2, total=3)
    queue.push("a", Waiter())
    queue.push("a", Waiter())
    with pytest.raises(TooManyInflight) as tenant_full:
        queue.push("a", Waiter())
    assert tenant_full.value.limit == 2
    queue.push("b", Waiter())
    with pytest.raises(Overloaded):
        queue.push("c", Waiter())
    assert queue.length == 3


async def test_a_waiter_that_left_is_passed_over() -> None:
    queue: FairQueue[str] = FairQueue(per_tenant=5, total=5)
    gone, cancelled, stays = Waiter[str](), Waiter[str](), Waiter[str]()
    for waiter in (gone, cancelled, stays):
        queue.push("a", waiter)
    queue.discard("a", gone)
    cancelled.granted.cancel()
    assert queue.length == 2
    assert queue.pop() is stays
    assert queue.length == 0
    queue.discard("a", stays)  # no longer there: nothing happens

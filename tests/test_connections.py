"""Callers take turns by address, and none has all connections."""

from __future__ import annotations

import asyncio

from wisp.connections import Connections, Turns


async def test_nobody_waits_where_nobody_else_is() -> None:
    turns = Turns()
    for _ in range(3):
        await asyncio.wait_for(turns.take("a"), 10)
        await asyncio.sleep(0)


async def test_a_crowd_from_one_address_delays_another_by_one_turn() -> None:
    turns, order = Turns(), list[str]()

    async def caller(address: str) -> None:
        await turns.take(address)
        order.append(address)

    crowd = [asyncio.create_task(caller("crowd")) for _ in range(50)]
    await asyncio.sleep(0)
    single = asyncio.create_task(caller("single"))
    await asyncio.wait_for(asyncio.gather(*crowd, single), 10)
    assert order.index("single") <= 4
    assert len(order) == 51


async def orders(turns: Turns, *waiting: str) -> tuple[list[str], asyncio.Event]:
    """Who had a turn so far, of those that wait in this order, and when all have."""
    order, done = list[str](), asyncio.Event()

    def queue(address: str) -> None:
        def begin() -> bool:
            order.append(address)
            if len(order) == len(waiting):
                done.set()
            return True

        turns.queue(address, begin)

    for address in waiting:
        queue(address)
    return order, done


async def test_who_comes_seldom_goes_before_those_that_always_wait() -> None:
    turns = Turns()
    for _ in range(3):
        crowd, crowds_end = await orders(turns, *"abcd" * 5)
        while len(crowd) < 10:
            await asyncio.sleep(0)
        at = len(crowd)
        _, singles_end = await orders(turns, "single")
        await asyncio.wait_for(singles_end.wait(), 10)
        assert len(crowd) - at <= 2
        await asyncio.wait_for(crowds_end.wait(), 10)
        assert sorted(crowd) == sorted("abcd" * 5)


async def test_who_is_always_new_has_every_other_turn() -> None:
    """One of endless addresses takes no more from those in rotation."""
    turns = Turns()
    order, done = await orders(turns, *["a"] * 10, *(f"new{number}" for number in range(10)))
    await asyncio.wait_for(done.wait(), 10)
    assert [index for index, address in enumerate(order) if address == "a"][1:] == list(range(1, 18, 2))


async def test_one_thing_after_the_other_is_not_new_each_time() -> None:
    """Two addresses have always much waiting; the third sends its next when its last had its turn."""
    turns, order = Turns(), list[str]()
    left = {"a": 40, "b": 40}
    ended = asyncio.Event()

    def again(address: str) -> bool:
        order.append(address)
        if len(order) >= 30:
            ended.set()
        else:
            turns.queue(address, lambda: again(address))
        return True

    for address in left:
        for _ in range(2):
            turns.queue(address, lambda address=address: again(address))  # type: ignore[misc]
    turns.queue("stepwise", lambda: again("stepwise"))
    await asyncio.wait_for(ended.wait(), 10)
    assert order[6:30].count("stepwise") <= 9  # a third, not half


async def test_what_is_queued_where_nobody_waits_is_begun() -> None:
    turns, begun = Turns(), asyncio.Event()

    def begin() -> bool:
        begun.set()
        return True

    turns.queue("a", lambda: False)
    turns.queue("a", begin)
    await asyncio.wait_for(begun.wait(), 10)
    await asyncio.sleep(0)
    await asyncio.wait_for(turns.take("b"), 10)


async def test_who_goes_away_passes_the_turn_on() -> None:
    turns = Turns()
    await turns.take("a")
    gone, stays = (asyncio.create_task(turns.take("a")) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait_for(stays, 10)
    await asyncio.sleep(0)
    await asyncio.wait_for(turns.take("b"), 10)


def test_an_address_has_half_of_all_connections_at_most() -> None:
    connections = Connections(10)
    assert [connections.enter("a") for _ in range(6)] == [True] * 5 + [False]
    assert [connections.enter("b") for _ in range(6)] == [True] * 5 + [False]
    assert not connections.enter("c")
    connections.leave("a")
    assert connections.enter("c")
    assert connections.open == 10

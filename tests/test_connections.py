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

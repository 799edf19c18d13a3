"""Bytes of a connection come in turns, each once, and nothing but its end ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from wisp.connections import Callers
from wisp.http1.stream import AHEAD_BYTES, BURST_BYTES, Stream

PATIENCE_S = 30.0


@pytest.fixture
async def stream() -> AsyncIterator[Stream]:
    """One side of a real connection; whoever is at the other says nothing, and stays."""
    callers, made = Callers(10), list[Stream]()

    def make() -> Stream:
        made.append(Stream(callers))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async with asyncio.timeout(PATIENCE_S):
        while not made or not callers.connections.open:
            await asyncio.sleep(0)
    yield made[0]
    server.close()
    writer.close()
    made[0].transport.abort()
    async with asyncio.timeout(PATIENCE_S):
        await made[0].lost
    assert callers.connections.open == 0


async def rounds(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_turn_that_comes_late_is_no_end(stream: Stream) -> None:
    taking = asyncio.create_task(stream.take())
    await rounds(5)
    stream.data_received(b"a")  # in the turn of this round
    stream.data_received(b"b")
    async with asyncio.timeout(PATIENCE_S):
        assert [await taking, await stream.take()] == [b"a", b"b"]
    taking = asyncio.create_task(stream.take())
    await rounds(10)
    assert not taking.done()
    stream.data_received(b"c")
    async with asyncio.timeout(PATIENCE_S):
        assert await taking == b"c"


async def test_who_stops_waiting_loses_nothing(stream: Stream) -> None:
    assert stream.callers.turns.free()  # somebody else's, so that this one's is queued
    taking = asyncio.create_task(stream.take())
    await rounds(1)
    stream.data_received(b"a")
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    await rounds(5)
    async with asyncio.timeout(PATIENCE_S):
        assert await stream.take() == b"a"
    assert stream.lying_bytes == 0


async def test_what_came_before_the_end_is_taken_first(stream: Stream) -> None:
    stream.data_received(b"a")
    leaving = asyncio.create_task(stream.left())
    await rounds(1)
    stream.eof_received()
    async with asyncio.timeout(PATIENCE_S):
        await leaving
        assert [await stream.take(), await stream.take()] == [b"a", b""]


async def test_a_write_that_was_given_up_spoils_no_other(stream: Stream) -> None:
    stream.pause_writing()
    writing = asyncio.create_task(stream.write([b"a"]))
    await rounds(3)
    assert not writing.done()
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    writing = asyncio.create_task(stream.write([b"b"]))
    await rounds(3)
    assert not writing.done()
    stream.resume_writing()
    async with asyncio.timeout(PATIENCE_S):
        await writing


PIECE = bytes(AHEAD_BYTES)


async def test_what_nobody_has_asked_for_stops_the_reading(stream: Stream) -> None:
    room_bytes = stream.callers.burst_room_bytes
    stream.data_received(PIECE)
    assert not stream.transport.is_reading()
    assert stream.callers.burst_room_bytes == room_bytes
    async with asyncio.timeout(PATIENCE_S):
        assert await stream.take() == PIECE
    assert stream.transport.is_reading()


async def test_what_was_asked_for_may_come_in_one_go_up_to_a_bound(stream: Stream) -> None:
    room_bytes = stream.callers.burst_room_bytes
    taking = asyncio.create_task(stream.take())
    await rounds(5)
    for _ in range(BURST_BYTES // len(PIECE) - 1):
        stream.data_received(PIECE)
    assert stream.transport.is_reading()
    assert stream.callers.burst_room_bytes == room_bytes - BURST_BYTES
    stream.data_received(PIECE)
    assert not stream.transport.is_reading()
    async with asyncio.timeout(PATIENCE_S):
        assert await taking == PIECE
        while stream.lying_bytes:
            assert await stream.take() == PIECE
    assert stream.transport.is_reading()
    assert stream.callers.burst_room_bytes == room_bytes


async def test_without_room_for_more_the_reading_stops_as_if_nobody_had_asked(stream: Stream) -> None:
    stream.callers.burst_room_bytes = BURST_BYTES - 1
    taking = asyncio.create_task(stream.take())
    await rounds(5)
    stream.data_received(PIECE)
    stream.data_received(PIECE)
    assert not stream.transport.is_reading()
    async with asyncio.timeout(PATIENCE_S):
        assert [await taking, await stream.take()] == [PIECE, PIECE]
    assert stream.callers.burst_room_bytes == BURST_BYTES - 1


async def test_who_leaves_gives_its_room_back(stream: Stream) -> None:
    room_bytes = stream.callers.burst_room_bytes
    taking = asyncio.create_task(stream.take())
    await rounds(5)
    stream.data_received(PIECE)
    stream.data_received(PIECE)
    assert stream.callers.burst_room_bytes == room_bytes - BURST_BYTES
    stream.transport.abort()
    async with asyncio.timeout(PATIENCE_S):
        await stream.lost
        await taking
    assert stream.callers.burst_room_bytes == room_bytes


async def test_of_small_pieces_one_goes_along_with_the_piece_before_it(stream: Stream) -> None:
    for piece in (b"a", b"b", b"c"):
        stream.data_received(piece)
    turns = 0
    taken = stream.turn

    async def turn() -> None:
        nonlocal turns
        turns += 1
        await taken()

    stream.turn = turn  # type: ignore[method-assign]
    async with asyncio.timeout(PATIENCE_S):
        assert [await stream.take() for _ in range(3)] == [b"a", b"b", b"c"]
    assert turns == 2

"""Both servers under the bounds of `wisp.connections`: real sockets, with shorter waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from http_callers import SERVERS, read_all, running
from wisp import connections
from wisp.connections import Callers
from wisp.http1.stream import SLICE_BYTES, Stream

ANSWER = bytes(16 << 20)
"""More than all buffers between the two take."""
REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


@pytest.fixture(params=SERVERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(ANSWER))]})
    await send({"type": "http.response.body", "body": ANSWER})


async def test_who_does_not_take_an_answer_loses_the_connection(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(connections, "STALLED_S", 0.2)
    monkeypatch.setattr(connections, "SLOWEST_BYTES_S", 1 << 40)
    async with running(monkeypatch, kind, app) as server:
        # A reader's limit keeps asyncio from reading on by itself.
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(REQUEST)
        await server.connections(1)
        await server.connections(0)
        assert len(await read_all(reader)) < len(ANSWER)
        writer.close()


async def test_who_takes_it_in_time_gets_all_of_it(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async with running(monkeypatch, kind, app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(REQUEST)
        assert len(await read_all(reader)) > len(ANSWER)
        writer.close()


class Taker(asyncio.Transport):
    """Takes everything at once, and notes how much that was and in which round of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.round = 0
        self.taken: list[tuple[int, int]] = []
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.round += 1
        self._loop.call_soon(self._turn)

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.taken.append((self.round, len(data)))


async def test_between_two_slices_of_a_large_answer_everybody_else_is_served() -> None:
    stream, taker = Stream(Callers(4)), Taker()
    stream.connection_made(taker)
    await stream.write([b"head", bytes(4 * SLICE_BYTES + 1)])
    assert [size for _, size in taker.taken] == [4, *[SLICE_BYTES] * 4, 1]
    rounds = [number for number, _ in taker.taken]
    assert len(set(rounds)) == len(rounds)
    await stream.write([b"head", b"small"])
    assert taker.taken[6:] == [(taker.round, 9)]


async def test_one_connection_too_many_of_an_address_is_closed(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async with running(monkeypatch, kind, app, most=4) as server:
        kept = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        await server.connections(2)
        refused, third = await asyncio.open_connection("127.0.0.1", server.port)
        assert await read_all(refused) == b""
        third.close()
        for _, writer in kept:
            writer.close()
        await server.connections(0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(REQUEST)
        assert len(await read_all(reader)) > len(ANSWER)
        writer.close()

"""Hypercorn under the bounds of `wisp.connections`: real sockets, with shorter waits."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import hypercorn.asyncio.run
import pytest
from hypercorn.asyncio import serve
from hypercorn.config import Config

from wisp import connections
from wisp.connections import Connections, FairServer, Turns

PATIENCE_S = 30.0
ANSWER = bytes(16 << 20)
"""More than all buffers between the two take."""
REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(ANSWER))]}
        )
        await send({"type": "http.response.body", "body": ANSWER})


@asynccontextmanager
async def server(monkeypatch: pytest.MonkeyPatch, most: int = 100) -> AsyncIterator[int]:
    """Its port."""
    monkeypatch.setattr(hypercorn.asyncio.run, "TCPServer", FairServer)
    monkeypatch.setattr(FairServer, "turns", Turns(), raising=False)
    monkeypatch.setattr(FairServer, "connections", Connections(most), raising=False)
    config, over = Config(), asyncio.Event()
    config.errorlog = config.accesslog = None
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = int(bound.getsockname()[1])
        config.bind = [f"fd://{bound.detach()}"]
    running = asyncio.create_task(serve(app, config, shutdown_trigger=over.wait))  # type: ignore[arg-type]
    try:
        yield port
    finally:
        over.set()
        async with asyncio.timeout(PATIENCE_S):
            await running


async def open_connections(expected: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while FairServer.connections.open != expected:
            await asyncio.sleep(0.01)


async def read_all(reader: asyncio.StreamReader) -> int:
    size = 0
    async with asyncio.timeout(PATIENCE_S):
        try:
            while chunk := await reader.read(1 << 16):
                size += len(chunk)
        except ConnectionError:
            pass
    return size


async def test_who_does_not_take_an_answer_loses_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALLED_S", 0.2)
    monkeypatch.setattr(connections, "SLOWEST_BYTES_S", 1 << 40)
    async with server(monkeypatch) as port:
        # A reader's limit keeps asyncio from reading on by itself.
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(REQUEST)
        await open_connections(1)
        await open_connections(0)
        assert await read_all(reader) < len(ANSWER)
        writer.close()


async def test_who_takes_it_in_time_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with server(monkeypatch) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        assert await read_all(reader) > len(ANSWER)
        writer.close()


async def test_one_connection_too_many_of_an_address_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with server(monkeypatch, most=4) as port:
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await open_connections(2)
        refused, third = await asyncio.open_connection("127.0.0.1", port)
        assert await read_all(refused) == 0
        third.close()
        for _, writer in kept:
            writer.close()
        await open_connections(0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        assert await read_all(reader) > len(ANSWER)
        writer.close()

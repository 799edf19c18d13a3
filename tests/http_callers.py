"""The default HTTP server around an application of a test's own, and what callers say to it on real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import hypercorn.asyncio.run
import pytest
from hypercorn.asyncio import serve
from hypercorn.config import Config

from wisp.connections import Callers
from wisp.hypercornserver import FairServer

PATIENCE_S = 30.0
App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


@asynccontextmanager
async def hypercorn_server(monkeypatch: pytest.MonkeyPatch, app: App, most: int = 100) -> AsyncIterator[int]:
    """Its port."""

    async def with_lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)

    monkeypatch.setattr(hypercorn.asyncio.run, "TCPServer", FairServer)
    monkeypatch.setattr(FairServer, "callers", Callers(most), raising=False)
    config, over = Config(), asyncio.Event()
    config.errorlog = config.accesslog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = 8 * 1024
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = int(bound.getsockname()[1])
        config.bind = [f"fd://{bound.detach()}"]
    running = asyncio.create_task(serve(with_lifespan, config, shutdown_trigger=over.wait))  # type: ignore[arg-type]
    try:
        yield port
    finally:
        FairServer.callers.end()
        over.set()
        async with asyncio.timeout(PATIENCE_S):
            await running


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Until the server closes, or breaks off."""
    said = bytearray()
    async with asyncio.timeout(PATIENCE_S):
        try:
            while chunk := await reader.read(1 << 16):
                said += chunk
        except ConnectionError:
            pass
    return bytes(said)


async def say(port: int, *what: bytes) -> bytes:
    """All that is answered on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in what:
        writer.write(part)
        await writer.drain()
    answer = await read_all(reader)
    writer.close()
    return answer

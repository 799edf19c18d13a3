"""The HTTP servers around an application of a test's own, and what callers say to it on real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import hypercorn.asyncio.run
import pytest

from wisp import hypercornserver, uvicornserver
from wisp.connections import Callers
from wisp.http1.connection import Bounds, Service
from wisp.settings import Settings

SERVERS = ("hypercorn", "uvicorn")
HEAD_BYTES = 8 * 1024
PATIENCE_S = 30.0
App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that answers; `end` begins its graceful end."""

    port: int
    callers: Callers
    end: Callable[[], None]

    async def connections(self, expected: int) -> None:
        """Returns when so many are open."""
        async with asyncio.timeout(PATIENCE_S):
            while self.callers.connections.open != expected:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    app: App,
    most: int = 100,
    head_s: float = 20,
    requests: int = 10_000,
    **flags: str,
) -> AsyncIterator[Running]:
    """`most`: connections; `requests`: of one; `flags`: settings. As the platform runs it, with smaller bounds."""

    async def with_lifespan(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)

    # Hypercorn makes connections by a name that wisp replaces; it is put back afterwards.
    monkeypatch.setattr(hypercorn.asyncio.run, "TCPServer", hypercorn.asyncio.run.TCPServer)  # type: ignore[attr-defined]
    settings = Settings.load({"drain_timeout": "20s", **flags}, environ={"WISP_OPERATOR_KEY": "k" * 32})
    callers, over = Callers(most), asyncio.Event()
    bound = socket.create_server(("127.0.0.1", 0))  # what comes before the server accepts waits in its queue
    port = int(bound.getsockname()[1])
    bounds = Bounds(head_s=head_s, head_bytes=HEAD_BYTES, requests=requests)
    service = Service(app=with_lifespan, bounds=bounds, callers=callers)
    if kind == "uvicorn":
        serving = uvicornserver.serve(uvicornserver.make_config(service, settings, backlog=100), bound, over.wait)
    else:
        config = hypercornserver.make_config(settings, backlog=100)
        serving = hypercornserver.serve(service, config, bound, over.wait)
    task = asyncio.create_task(serving)
    try:
        yield Running(port=port, callers=callers, end=over.set)
    finally:
        over.set()
        async with asyncio.timeout(PATIENCE_S):
            await task
        bound.close()


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

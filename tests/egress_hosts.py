"""A host on loopback for guests to ask, and what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Host:
    """`heads`: of each request, request line first, in lower case; `bodies` beside them; `hung_up`: callers that left
    before they had an answer."""

    port: int = 0
    heads: list[list[str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    hung_up: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def answer(body: bytes = b"", *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


@asynccontextmanager
async def host(replies: dict[str, bytes | None], *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Host]:
    """Answers by path; None never answers, and an unknown path is a 404."""
    asked = Host()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")[:-2]
            lengths = [int(line.partition(":")[2]) for line in head if line.startswith("content-length:")]
            body = await reader.readexactly(lengths[0] if lengths else 0)
            asked.heads.append(head)
            asked.bodies.append(body)
            reply = replies.get(head[0].split()[1].partition("?")[0], answer(status="404 Not Found"))
            if reply is None:
                await reader.read()
                asked.hung_up += 1
            else:
                writer.write(reply)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    asked.port = server.sockets[0].getsockname()[1]
    try:
        yield asked
    finally:
        server.close()

"""A caller that misbehaves below what an HTTP client can do: bodies in pieces, that stop, or whose sender leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message

LEAVE = None
"""In place of a piece: the caller closes its connection."""


@dataclass(slots=True)
class Spoken:
    """What the application answered; `status` is 0 if it did not."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])


async def speak(
    app: ASGIApp,
    method: str,
    path: str,
    *,
    headers: dict[str, str] | None = None,
    pieces: Sequence[bytes | None] = (),
    complete: bool = True,
    query: str = "",
    http_version: str = "1.1",
) -> Spoken:
    """Sends `pieces`, the end of the body only if `complete`, and afterwards is silent but stays."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    headers = {name.lower(): value for name, value in (headers or {}).items()}
    if pieces and "content-length" not in headers:
        headers["transfer-encoding"] = "chunked"  # as any HTTP/1.1 client must say
    for piece in pieces:
        if piece is LEAVE:
            inbox.put_nowait({"type": "http.disconnect"})
        else:
            inbox.put_nowait({"type": "http.request", "body": piece, "more_body": True})
    if complete:
        inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    spoken = Spoken()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert spoken.status == 0
            spoken.status = message["status"]
            spoken.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            spoken.body += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.1"},
        "http_version": http_version,
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("wisp", 80),
        "state": {},
        "extensions": {},
    }
    async with asyncio.timeout(30):
        await app(scope, inbox.get, send)
    return spoken

"""HTTP/1.1 on one connection: heads are read, an application answers them one after the other.

One task serves a connection, and the application runs in it. Nothing is parsed that nobody asks for: a body lies until
the application wants it, and so does what was sent ahead behind it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import unquote

from wisp.connections import Callers
from wisp.http1.exchange import Exchange, Message, refuse
from wisp.http1.heads import HEAD_END, Refused, RequestHead, read_head, refuse_hopeless
from wisp.http1.stream import Stream
from wisp.names import LINES

log = logging.getLogger(__name__)

Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """`head_s`: from the connection or the last answer until a request's head is there. `requests`: of a connection."""

    head_s: float
    head_bytes: int
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What is the same for every connection of one server."""

    app: Application
    bounds: Bounds
    callers: Callers


class Http1Connection:
    """The stream's connection has been made."""

    def __init__(self, service: Service, stream: Stream) -> None:
        self._app = service.app
        self._bounds = service.bounds
        self._callers = service.callers
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._head_until = math.inf
        self._timer: asyncio.TimerHandle | None = None
        transport = stream.transport
        peer, server = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self._scope: Message = {
            "type": "http",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "scheme": "http" if transport.get_extra_info("ssl_object") is None else "https",
            "root_path": "",
            "client": peer[:2] if stream.address else None,
            "server": server[:2] if isinstance(server, tuple) else None,
        }

    async def serve(self) -> None:
        """Until the connection is gone: the caller ended it, or nothing may follow."""
        transport = self._stream.transport
        try:
            await self._answer_all()
            transport.close()
            await self._stream.lost
        except asyncio.CancelledError:
            transport.abort()
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def _answer_all(self) -> None:
        left = self._bounds.requests
        while (head := await self._head()) is not None:
            left -= 1
            exchange = Exchange(self._stream, head, self._bounds.head_bytes, last=not left)
            try:
                await self._app(self._scope_of(head), exchange.receive, exchange.send)
            except Exception:  # the HTTP boundary: whatever it was stays inside
                log.exception("the application failed")
            if not await exchange.finish():
                return

    async def _head(self) -> RequestHead | None:
        """The next request's; None where the connection is to end instead."""
        self._callers.idle.add(self._stream.transport)
        self._head_until = self._loop.time() + self._bounds.head_s
        if self._timer is None:
            self._timer = self._loop.call_at(self._head_until, self._look_at_time)
        try:
            return await self._read_head()
        except Refused as refused:
            self._callers.idle.discard(self._stream.transport)
            await refuse(self._stream, refused.status)
            return None
        finally:
            self._head_until = math.inf
            self._callers.idle.discard(self._stream.transport)

    async def _read_head(self) -> RequestHead | None:
        stream, most_bytes, looked = self._stream, self._bounds.head_bytes, 0
        begun, stream.rest = stream.rest, b""
        if begun:  # it came together with the one before
            await stream.turn()
        while not self._callers.ending:
            if begun:
                found = begun.find(HEAD_END, max(0, looked - 3))
                end = found + len(HEAD_END)
                if (end if found >= 0 else len(begun)) > most_bytes:
                    raise Refused(431)
                if found >= 0:
                    stream.rest = begun[end:]
                    return read_head(begun[:end])
                refuse_hopeless(begun, looked)
                looked = len(begun)
            piece = await stream.take()
            if not piece:
                return None
            begun += piece
        return None

    def _look_at_time(self) -> None:
        """One timer for many heads: it only looks whether one is overdue."""
        self._timer = None
        if self._head_until == math.inf:
            return
        if self._loop.time() >= self._head_until:
            self._stream.transport.close()
        else:
            self._timer = self._loop.call_at(self._head_until, self._look_at_time)

    def _scope_of(self, head: RequestHead) -> Message:
        path, _, query = head.target.partition(b"?")
        return {
            **self._scope,
            "http_version": head.version,
            "method": head.method,
            "path": unquote(path.decode("ascii")) if b"%" in path else path.decode("ascii"),
            "raw_path": path,
            "query_string": query,
            "headers": head.headers,
            "state": {},
            "extensions": {LINES: {}},
        }

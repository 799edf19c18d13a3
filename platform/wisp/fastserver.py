"""The optional faster HTTP server (`--server uvicorn`): uvicorn with httptools, under the bounds of the other one.

uvicorn by itself bounds neither a request's head nor the time that one takes to arrive, nor a connection on which
nothing comes, nor how many requests one may send ahead; `BoundedProtocol` does, and has callers take turns by address.
`Exchange` writes a small answer at once, and gives up a caller that does not take a large one. HTTP/1.1 only.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from uvicorn import Config, Server
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from wisp.connections import SMALL_BYTES, Callers, slowest_s
from wisp.http1 import DATES, parted
from wisp.settings import Settings

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

LINGER_S: Final = 1.0
TURN_BYTES: Final = 32 * 1024
"""What is parsed in one turn."""
SENT_AHEAD: Final = 32
"""Requests of one connection that may wait for the one before them."""
TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Exchange(RequestResponseCycle):
    """One request and its answer."""

    _status = 0
    _lines = b""

    async def send(self, message: Any) -> None:
        """What is sent after the caller has gone is dropped. Raises `ValueError` for headers that are none, and
        `RuntimeError` for what ASGI does not allow here."""
        if self.disconnected or self.transport.is_closing():
            self.disconnected = True
            return
        kind = message["type"]
        if kind == "http.response.start" and not self._status:
            framing, self._lines = parted(message.get("headers", ()))
            self._status = message["status"]
            self.waiting_for_100_continue = False
            self._frame(framing)
        elif kind == "http.response.body" and self._status and not self.response_complete:
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind}: not in its place")

    def _frame(self, framing: list[tuple[bytes, bytes]]) -> None:
        """How long the body is, or how its end is told: a length, chunks, or the connection's end (RFC 9112 §6.3)."""
        self.chunked_encoding = False
        self.expected_content_length = -1
        for name, value in framing:
            if name == b"content-length":
                if not value.isdigit() or self.expected_content_length >= 0:
                    raise ValueError("no Content-Length, or two")
                self.expected_content_length = int(value)
                self._lines += b"content-length: %b\r\n" % value
            elif name == b"connection" and b"close" in value.lower():
                self.keep_alive = False
        if self.expected_content_length < 0 and self.scope["method"] != "HEAD" and self._status not in (204, 304):
            if self.scope["http_version"] == "1.1":
                self.chunked_encoding = True
                self._lines += b"transfer-encoding: chunked\r\n"
            else:
                self.keep_alive = False

    async def _send_body(self, content: bytes, *, more: bool) -> None:
        parts = []
        if not self.response_started:
            closing = b"" if self.keep_alive else b"connection: close\r\n"
            parts.append(b"%b%b%b%b\r\n" % (STATUS_LINE[self._status], DATES.line(), self._lines, closing))
        if self.scope["method"] == "HEAD" or self._status in (204, 304):
            self.expected_content_length = 0
        elif self.chunked_encoding:
            if content:
                parts += (b"%x\r\n" % len(content), content, b"\r\n")
            if not more:
                parts.append(b"0\r\n\r\n")
        elif self.expected_content_length >= 0:
            self.expected_content_length -= len(content)
            if self.expected_content_length < 0:
                raise RuntimeError("more of a body than its Content-Length")
            parts.append(content)
        else:
            parts.append(content)
        self.response_started = True
        await self._write(parts)
        if not more:
            self._complete()

    async def _write(self, parts: list[bytes]) -> None:
        """Waits for the caller where much is waiting for it, and gives it up if it is too slow."""
        if sum(map(len, parts)) <= SMALL_BYTES:
            self.transport.write(b"".join(parts))
        else:
            for part in parts:
                self.transport.write(part)
        waiting = self.transport.get_write_buffer_size()
        if waiting > SMALL_BYTES:
            try:
                async with asyncio.timeout(slowest_s(waiting)):
                    await self.flow.drain()
            except TimeoutError:
                self.transport.abort()

    def _complete(self) -> None:
        if self.expected_content_length > 0:
            raise RuntimeError("less of a body than its Content-Length")
        self.response_complete = True
        self.message_event.set()
        if self.more_body or not self.keep_alive:  # what is left of a body would have to be read first
            self.transport.close()
        self.on_response()

    async def send_500_response(self) -> None:
        self._status = 0  # of an answer that was begun and not sent
        await super().send_500_response()


class Flow(FlowControl):
    """Reading stops while an application has enough to read, or while bytes wait for their turn to be parsed."""

    held = False

    def pause_reading(self) -> None:
        if self.held:
            self.read_paused = True
        else:
            super().pause_reading()

    def resume_reading(self) -> None:
        if self.held:
            self.read_paused = False
        else:
            super().resume_reading()

    def hold(self) -> None:
        if not (self.held or self.read_paused):
            self._transport.pause_reading()
        self.held = True

    def release(self) -> None:
        self.held = False
        if not (self.read_paused or self._transport.is_closing()):
            self._transport.resume_reading()


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Its class is made anew for a server, with that server's bounds."""

    head_s: float
    head_bytes: int
    callers: Callers

    _address = ""
    _entered = False
    _head_used = 0
    _in_head = True
    _refused = False
    _head_timer: asyncio.TimerHandle | None = None
    _first = True
    _parsing = False
    _unread: deque[bytes]
    flow: Flow

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport)
        self._unread = deque()
        self._address = self.client[0] if self.client else ""
        self._entered = self.callers.connections.enter(self._address)
        if self._entered:
            self._head_timer = self.loop.call_later(self.head_s, transport.close)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._unread.clear()
        if self._entered:
            self.callers.connections.leave(self._address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parsed in this address's turns; meanwhile nothing more is read."""
        if self._unread or len(data) > TURN_BYTES or not self.callers.turns.free():
            if not self._unread:
                self.flow.hold()
                self.callers.turns.queue(self._address, self._parse_one)
            self._unread.extend(data[at : at + TURN_BYTES] for at in range(0, len(data), TURN_BYTES))
        else:
            self._parse(data)

    def _parse_one(self) -> bool:
        if not self._unread:  # the connection has gone
            return False
        self._parse(self._unread.popleft())
        if self._unread:
            self.callers.turns.queue(self._address, self._parse_one)
        else:
            self.flow.release()
        return True

    def _parse(self, data: bytes) -> None:
        """What arrives before a head is complete is of the head; a body that begins in the same read is let off."""
        if self._refused or self.transport.is_closing():
            return
        if self._in_head:
            self._head_used += len(data)
        self._first = self._parsing = True
        super().data_received(data)
        self._parsing = False
        if self._in_head and self._head_used:
            if self._head_used > self.head_bytes:
                self._refuse()
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(self.head_s, self.transport.close)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_head = False
        if (self._head_used > self.head_bytes or not self._first) and self._head_size() > self.head_bytes:
            self._refuse()
            raise ValueError("the head is too large")  # ends the parsing; nothing is called for this request
        if len(self.pipeline) >= SENT_AHEAD:
            self._refused = True
            self.transport.abort()
            raise ValueError("too many requests were sent ahead")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._head_used, self._first = True, 0, False

    def _head_size(self) -> int:
        return sum(len(name) + len(value) for name, value in self.headers) + len(self.url)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """One that was sent ahead, and is next now, takes a turn of its own."""
        if self._parsing or self.callers.turns.free():
            super()._start_asgi_task(cycle, app)
        else:
            self.callers.turns.queue(self._address, partial(self._start_late, cycle, app))

    def _start_late(self, cycle: RequestResponseCycle, app: ASGI3Application) -> bool:
        if self.transport.is_closing():
            return False
        super()._start_asgi_task(cycle, app)
        return True

    def _refuse(self) -> None:
        """Closing at once would reset the connection under the answer while the rest of the head still arrives."""
        if not self._refused and not self.transport.is_closing():
            self._refused = True
            self.transport.write(TOO_LARGE)
            self.loop.call_later(LINGER_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        if not self._refused and not self.transport.is_closing():
            super().send_400_response(msg)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class QuietServer(Server):
    """Signals are the platform's own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_config(
    app: object, settings: Settings, callers: Callers, *, backlog: int, head_s: float, head_bytes: int
) -> Config:
    """Raises `RuntimeError` where uvicorn is not the one that these bounds are made for."""
    if getattr(httptools_impl, "RequestResponseCycle", None) not in (RequestResponseCycle, Exchange):
        raise RuntimeError("this uvicorn is not the one whose answers wisp knows how to bound")
    httptools_impl.RequestResponseCycle = Exchange  # type: ignore[misc]
    bounds = {"head_s": head_s, "head_bytes": head_bytes, "callers": callers}
    protocol = type("Protocol", (BoundedProtocol,), bounds)
    return Config(
        app,  # type: ignore[arg-type]
        http=protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        loop="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=backlog,
        timeout_keep_alive=int(head_s),
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )


async def serve(config: Config, bound: socket.socket, drained: Callable[[], Awaitable[object]]) -> None:
    """Until `drained` returns, then until what is in flight has ended or outlasted the drain. Closes `bound`."""
    server = QuietServer(config)

    async def end() -> None:
        await drained()
        server.should_exit = True

    ending = asyncio.create_task(end())
    try:
        await server.serve(sockets=[bound])
    finally:
        ending.cancel()
        with suppress(asyncio.CancelledError):
            await ending

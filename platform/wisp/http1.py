"""HTTP/1.1 on one connection: h11 reads what the caller says and frames what is answered, an ASGI application between.

One task serves a connection, and the application runs in it. Nothing is read that nobody asks for: a body stays in the
socket until the application wants it, and so does what is pipelined behind it. Of an answer's head h11 sees the headers
that frame it; the others are joined to them after a check, and a small answer leaves in one write.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Final
from urllib.parse import unquote

import h11

from wisp.connections import SMALL_BYTES, Callers, slowest_s

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

READ_BYTES: Final = 64 * 1024
EVENTS_A_TURN: Final = 32
LINGER_S: Final = 1.0
LINGER_BYTES: Final = 1024 * 1024
"""What is still read, and thrown away, after a head that was refused: a reset would lose the refusal."""
FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection"})
LINES: Final = re.compile(rb"(?:[a-z0-9!#$%&'*+.^_`|~-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")
"""RFC 9110 §5.5 and §5.6.2, names in lower case as ASGI has them."""
GONE: Final[Message] = {"type": "http.disconnect"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """`head_s`: from the connection or the last answer until a request's head is there."""

    head_s: float
    head_bytes: int
    requests: int


class Dates:
    """The `date` header, made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._line = b""

    def line(self) -> bytes:
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self._line = b"date: %b\r\n" % formatdate(now, usegmt=True).encode()
        return self._line


DATES: Final = Dates()


class Http1Connection:
    """`scope`: what is the same in every request of this connection."""

    def __init__(
        self,
        app: Application,
        bounds: Bounds,
        callers: Callers,
        address: str,
        scope: Message,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.parser = h11.Connection(h11.SERVER, max_incomplete_event_size=bounds.head_bytes)
        self.ended = False
        """The caller has closed its side, or is taken to have."""
        self._app = app
        self._bounds = bounds
        self._callers = callers
        self._address = address
        self._scope = scope
        self._reader = reader
        self._writer = writer
        self._transport = writer.transport
        self._reading = asyncio.Lock()
        self._left = bounds.requests
        self._in_turn = False
        self._events = 0

    async def serve(self) -> None:
        """Until either side ends it; closes nothing."""
        while (request := await self._head()) is not None:
            exchange = Exchange(self, request, last=self._left <= 1)
            try:
                await self._app(self._scope_of(request), exchange.receive, exchange.send)
            except Exception:  # the HTTP boundary: whatever it was stays inside
                log.exception("the application failed")
            self._left -= 1
            if not await exchange.finish() or self._callers.ending:
                return
            self.parser.start_next_cycle()

    async def _head(self) -> h11.Request | None:
        """The next request; None where the connection is to end instead."""
        timer = asyncio.get_running_loop().call_later(self._bounds.head_s, self._transport.close)
        self._callers.idle.add(self._transport)
        try:
            while not self._callers.ending:
                event = self.parser.next_event()
                if event is h11.NEED_DATA:
                    await self.read()
                elif type(event) is h11.Request:
                    if not self._in_turn:  # it came together with the one before
                        await self.turn()
                    self._in_turn = False
                    return event
                else:
                    return None
        except h11.RemoteProtocolError as error:
            await self.refuse(error.error_status_hint)
        finally:
            timer.cancel()
            self._callers.idle.discard(self._transport)
        return None

    def _scope_of(self, request: h11.Request) -> Message:
        path, _, query = request.target.partition(b"?")
        return {
            **self._scope,
            "type": "http",
            "http_version": request.http_version.decode(),
            "method": request.method.decode("ascii").upper(),
            "path": unquote(path.decode("ascii")) if b"%" in path else path.decode("ascii"),
            "raw_path": path,
            "query_string": query,
            "headers": list(request.headers),
            "state": {},
            "extensions": {},
        }

    async def read(self) -> None:
        """Gives the parser what comes next: bytes in this address's turn, or the end."""
        async with self._reading:  # who watches for the caller's leaving may still be about to stop
            try:
                data = await self._reader.read(READ_BYTES)
            except OSError:  # also what TLS calls an error
                data = b""
            self.parser.receive_data(data)
            if not data:
                self.ended = True
                return
            await self.turn()

    async def turn(self) -> None:
        if not self._callers.turns.free():
            await self._callers.turns.wait(self._address)
        self._in_turn, self._events = True, 0

    async def next_event(self) -> object:
        """As the parser's, but a body in a thousand pieces takes several turns."""
        self._events += 1
        if self._events > EVENTS_A_TURN:
            await self.turn()
        return self.parser.next_event()

    async def left(self) -> None:
        """Returns when the caller has closed. What it sends meanwhile is kept for afterwards, up to a bound."""
        while not self.ended:
            if len(self.parser.trailing_data[0]) >= READ_BYTES:
                await asyncio.get_running_loop().create_future()  # until whoever waits here is stopped
            await self.read()

    async def write(self, parts: list[bytes]) -> None:
        """Waits for the caller where much is waiting for it, and gives it up if it is too slow."""
        if self._transport.is_closing():
            self.ended = True
            return
        if len(parts) == 1 or sum(map(len, parts)) > SMALL_BYTES:
            for part in parts:
                self._transport.write(part)
        else:
            self._transport.write(b"".join(parts))
        waiting = self._transport.get_write_buffer_size()
        if waiting <= SMALL_BYTES:
            return
        try:
            async with asyncio.timeout(slowest_s(waiting)):
                await self._writer.drain()
        except TimeoutError:
            self._transport.abort()
            self.ended = True
        except ConnectionError:
            self.ended = True

    async def refuse(self, status: int) -> None:
        """Says what is wrong where nothing has been said yet, and takes in a little of what follows."""
        if self.parser.our_state not in (h11.IDLE, h11.SEND_RESPONSE) or self._transport.is_closing():
            return
        closing = [(b"content-length", b"0"), (b"connection", b"close")]
        head = self.parser.send(h11.Response(status_code=status, headers=closing)) or b""
        self.parser.send(h11.EndOfMessage())
        await self.write([head[:-2] + DATES.line() + b"\r\n"])
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_S):
                while left > 0 and (data := await self._reader.read(READ_BYTES)):
                    left -= len(data)
        except OSError:  # TimeoutError is one
            self.ended = True


class Exchange:
    """One request and its answer, as ASGI speaks of them."""

    __slots__ = (
        "_connection", "_framing", "_last", "_lines", "_method", "_over", "_parser", "_started", "_status", "_taken",
    )  # fmt: skip

    def __init__(self, connection: Http1Connection, request: h11.Request, *, last: bool) -> None:
        self._connection = connection
        self._parser = connection.parser
        self._method = request.method
        self._last = last
        self._taken = False
        self._over = False
        self._started = False
        self._status = 0
        self._framing: list[tuple[bytes, bytes]] = []
        self._lines = b""

    async def receive(self) -> Message:
        while not (self._over or self._taken):
            if self._parser.they_are_waiting_for_100_continue:
                await self._connection.write([self._parser.send(CONTINUE) or b""])
            try:
                event = await self._connection.next_event()
                if event is h11.NEED_DATA:
                    await self._connection.read()
                    continue
            except h11.RemoteProtocolError as error:
                await self._connection.refuse(error.error_status_hint)
                self._connection.ended = self._over = True
                return GONE
            if isinstance(event, h11.Data):
                return {"type": "http.request", "body": bytes(event.data), "more_body": True}
            self._taken = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if not self._over:
            await self._connection.left()
        return GONE

    async def send(self, message: Message) -> None:
        """What is sent after the caller has gone is dropped. Raises `ValueError` for headers that are none, and
        `RuntimeError` for what ASGI does not allow here."""
        if self._over or self._connection.ended:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self._status:
            self._framing, self._lines = parted(message.get("headers", ()))
            self._status = int(message["status"])
        elif kind == "http.response.body" and self._status:
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind}: not in its place")

    async def _send_body(self, content: bytes, *, more: bool) -> None:
        parts = []
        if not self._started:
            parts.append(self._head())
            self._started = True
        if content and self._method != b"HEAD" and self._status not in (204, 304):
            parts += self._parser.send_with_data_passthrough(h11.Data(data=content)) or ()
        if not more:
            parts += self._parser.send_with_data_passthrough(h11.EndOfMessage()) or ()
            self._over = True
        await self._connection.write(parts)

    def _head(self) -> bytes:
        if self._last:
            self._framing.append((b"connection", b"close"))
        head = self._parser.send(h11.Response(status_code=self._status, headers=self._framing)) or b""
        return b"%b%b%b\r\n" % (head[:-2], DATES.line(), self._lines)

    async def finish(self) -> bool:
        """Once the application has returned: whether another request may follow."""
        connection, parser = self._connection, self._parser
        if not self._started and not connection.ended:
            self._status, self._framing, self._lines = 500, [(b"content-length", b"0"), (b"connection", b"close")], b""
            await self._send_body(b"", more=False)
        complete, self._over = self._over, True
        if not complete or connection.ended:
            return False
        try:
            while parser.their_state is h11.SEND_BODY:
                if parser.next_event() is h11.NEED_DATA:  # of a body that nobody wanted
                    return False
        except h11.RemoteProtocolError:
            return False
        return parser.our_state is h11.DONE and parser.their_state is h11.DONE


def parted(headers: Iterable[tuple[bytes, bytes]]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The headers that frame a message, and the lines of all others. Raises `ValueError` where HTTP has no such."""
    framing, lines = [], []
    for name, value in headers:
        if name in FRAMING:
            framing.append((name, value))
        else:
            lines.append(b"%b: %b\r\n" % (name, value))
    others = b"".join(lines)
    if LINES.fullmatch(others) is None or others.count(b"\n") != len(lines):
        raise ValueError("a header whose name or value HTTP does not allow")
    return framing, others


CONTINUE: Final = h11.InformationalResponse(status_code=100, headers=[])

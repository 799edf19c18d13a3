"""The optional faster HTTP server (`--server uvicorn`): uvicorn with httptools, under the bounds of the other one.

uvicorn by itself bounds neither a request's head nor the time that one takes to arrive, nor a connection on which
nothing comes; `BoundedProtocol` does. HTTP/1.1 only.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from wisp.settings import Settings

LINGER_S: Final = 1.0
TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Its class is made anew for a server, with that server's bounds."""

    head_s: float
    head_bytes: int

    _head_used = 0
    _in_head = True
    _refused = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_s, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """What arrives before a head is complete is of the head; a body that begins in the same read is let off."""
        if self._refused:
            return
        if self._in_head:
            self._head_used += len(data)
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(self.head_s, self.transport.close)
        super().data_received(data)
        if self._in_head and self._head_used > self.head_bytes:
            self._refuse()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_head = False
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > self.head_bytes:
            self._refuse()
            raise ValueError("the head is too large")  # ends the parsing; nothing is called for this request
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._head_used = True, 0

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


def make_config(app: object, settings: Settings, *, backlog: int, head_s: float, head_bytes: int) -> Config:
    protocol = type("Protocol", (BoundedProtocol,), {"head_s": head_s, "head_bytes": head_bytes})
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

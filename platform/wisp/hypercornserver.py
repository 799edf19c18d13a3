"""The default HTTP server: Hypercorn's sockets, TLS and graceful end around connections of wisp's own (`http1.py`).

HTTP/1.1 only: Hypercorn by itself offers cleartext HTTP/2 by upgrade and by prior knowledge, and bounds neither its
streams' resets nor their number over time. Here an `Upgrade` is ignored (RFC 9110 §7.8 allows it), and the HTTP/2
preface is a request of version 2.0, which the application answers with 505.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, cast

import hypercorn.asyncio.run
from hypercorn.asyncio import serve as serve_http
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.typing import Framework

from wisp.connections import Callers
from wisp.errors import InvalidSettings
from wisp.http1 import Application, Bounds, Http1Connection
from wisp.settings import Settings

REQUESTS_A_CONNECTION: Final = 100_000
TLS_HANDSHAKE_S: Final = 10.0


class FairServer(TCPServer):
    """One connection, made by Hypercorn in a task of its own."""

    callers: Callers

    async def run(self) -> None:
        peer = self.writer.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        if not self.callers.connections.enter(address):
            self.writer.transport.abort()
            return
        try:
            await self.callers.turns.take(address)
            await self._serve(address, peer)
        finally:
            try:
                await self._close()
            finally:
                self.callers.connections.leave(address)

    async def _serve(self, address: str, peer: Any) -> None:
        server = self.writer.get_extra_info("sockname")
        secure = self.writer.get_extra_info("ssl_object") is not None
        scope = {
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "scheme": "https" if secure else "http",
            "root_path": "",
            "client": peer[:2] if address else None,
            "server": server[:2] if isinstance(server, tuple) else None,
        }
        bounds = Bounds(
            head_s=self.config.keep_alive_timeout,
            head_bytes=self.config.h11_max_incomplete_size,
            requests=self.config.keep_alive_max_requests,
        )
        app = cast(Application, self._answer)
        await Http1Connection(app, bounds, self.callers, address, scope, self.reader, self.writer).serve()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Hypercorn wraps an application, for threads that no ASGI application asks for."""
        await self.app(scope, receive, send, _no_threads, _no_threads)


def _no_threads(*_: object) -> None:
    raise NotImplementedError


def keep_connections_fair(callers: Callers) -> None:
    """Hypercorn makes a connection by this name; raises if it does not any more."""
    known = (TCPServer, FairServer)
    if getattr(hypercorn.asyncio.run, "TCPServer", None) not in known:
        raise RuntimeError("this hypercorn is not the one whose connections wisp knows how to replace")
    FairServer.callers = callers
    hypercorn.asyncio.run.TCPServer = FairServer  # type: ignore[attr-defined]


def make_config(settings: Settings, *, backlog: int, head_s: float, head_bytes: int) -> Config:
    """Without where to listen. Raises `InvalidSettings` if the certificate and key are none or do not fit together."""
    config = Config()
    config.alpn_protocols = ["http/1.1"]
    config.include_server_header = False
    config.errorlog = logging.getLogger("hypercorn.error")
    config.accesslog = None
    config.backlog = backlog
    config.keep_alive_timeout = head_s
    config.keep_alive_max_requests = REQUESTS_A_CONNECTION
    config.h11_max_incomplete_size = head_bytes
    config.ssl_handshake_timeout = TLS_HANDSHAKE_S
    config.graceful_timeout = settings.drain_timeout_s
    if settings.tls_cert is not None:
        config.certfile, config.keyfile = str(settings.tls_cert), str(settings.tls_key)
        try:
            config.create_ssl_context()
        except (OSError, ssl.SSLError) as error:
            raise InvalidSettings("--tls-cert, --tls-key: not a PEM certificate and its private key") from error
    return config


async def serve(
    app: Framework,
    config: Config,
    callers: Callers,
    bound: socket.socket,
    drained: Callable[[], Awaitable[object]],
) -> None:
    """Until `drained` returns, then until what is in flight has ended or outlasted the drain. Closes `bound`."""
    keep_connections_fair(callers)

    async def end() -> None:
        await drained()
        callers.end()

    config.bind = [f"fd://{bound.detach()}"]
    with suppress(asyncio.CancelledError):  # Hypercorn's own, where requests outlast the drain
        await serve_http(app, config, shutdown_trigger=end, mode="asgi")

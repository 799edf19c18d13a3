"""The default HTTP server: Hypercorn's sockets, TLS and graceful end around connections of wisp's own (`http1/`).

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
from typing import Final, cast

import hypercorn.asyncio.run
from hypercorn.asyncio import serve as serve_http
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.config import Config
from hypercorn.typing import Framework

from wisp.errors import InvalidSettings
from wisp.http1.connection import Http1Connection, Service
from wisp.http1.stream import Stream
from wisp.settings import Settings

READ_BYTES: Final = 64 * 1024
TLS_HANDSHAKE_S: Final = 10.0


class FairServer(TCPServer):
    """One connection, made by Hypercorn in a task of its own, and taken over from its reader and writer."""

    service: Service

    async def run(self) -> None:
        transport = self.writer.transport
        if transport.is_closing():
            return
        said, over = lying(self.reader)
        callers = self.service.callers
        stream = Stream(callers)
        transport.set_protocol(stream)
        stream.connection_made(transport)
        if said:
            stream.data_received(said)
        if over:
            stream.eof_received()
        if not transport.is_closing():
            await callers.turns.take(stream.address)
            await Http1Connection(self.service, stream).serve()


def lying(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """What has come already, and whether that is all there will be: what reading gives without waiting."""
    said = bytearray()
    while True:
        reading = reader.read(READ_BYTES)
        try:
            reading.send(None)
        except StopIteration as stopped:
            if not stopped.value:
                return bytes(said), True
            said += stopped.value
        except OSError:
            return bytes(said), True
        else:
            reading.close()
            return bytes(said), False


def take_over_connections(service: Service) -> None:
    """Hypercorn makes a connection by this name; raises if it does not any more."""
    known = (TCPServer, FairServer)
    if getattr(hypercorn.asyncio.run, "TCPServer", None) not in known:
        raise RuntimeError("this hypercorn is not the one whose connections wisp knows how to take over")
    FairServer.service = service
    hypercorn.asyncio.run.TCPServer = FairServer  # type: ignore[attr-defined]


def make_config(settings: Settings, *, backlog: int) -> Config:
    """Without where to listen. Raises `InvalidSettings` if the certificate and key are none or do not fit together."""
    config = Config()
    config.alpn_protocols = ["http/1.1"]
    config.include_server_header = False
    config.errorlog = logging.getLogger("hypercorn.error")
    config.accesslog = None
    config.backlog = backlog
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
    service: Service, config: Config, bound: socket.socket, drained: Callable[[], Awaitable[object]]
) -> None:
    """Until `drained` returns, then until what is in flight has ended or outlasted the drain. Closes `bound`."""
    take_over_connections(service)

    async def end() -> None:
        await drained()
        service.callers.end()

    config.bind = [f"fd://{bound.detach()}"]
    with suppress(asyncio.CancelledError):  # Hypercorn's own, where requests outlast the drain
        await serve_http(cast(Framework, service.app), config, shutdown_trigger=end, mode="asgi")

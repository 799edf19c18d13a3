"""The other HTTP server (`--server uvicorn`): uvicorn's sockets, TLS and graceful end, the same connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from uvicorn import Config, Server
from uvicorn.server import ServerState

from wisp.http1.connection import Http1Connection, Service
from wisp.http1.stream import Stream
from wisp.settings import Settings


class ServedStream(Stream):
    """As uvicorn makes it and ends it."""

    def __init__(self, service: Service, *, server_state: ServerState, **_: Any) -> None:
        super().__init__(service.callers)
        self._service = service
        self._state = server_state

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self.transport.is_closing():
            self._state.connections.add(self)  # type: ignore[arg-type]
            serving = asyncio.get_running_loop().create_task(Http1Connection(self._service, self).serve())
            self._state.tasks.add(serving)
            serving.add_done_callback(self._state.tasks.discard)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """uvicorn says so to each connection, once it listens no more."""
        if not self.callers.ending:
            self.callers.end()


class QuietServer(Server):
    """Signals are the platform's own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_config(service: Service, settings: Settings, *, backlog: int) -> Config:
    return Config(
        service.app,
        http=partial(ServedStream, service),  # type: ignore[arg-type]  # it is called, and nothing else
        ws="none",
        lifespan="off",
        interface="asgi3",
        loop="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=backlog,
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

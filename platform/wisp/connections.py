"""Callers' connections: how many there may be, whose turn it is to be read from, and how slowly one may take an answer.

The router has one thread. Sixty requests that lie ready on sixty connections of one caller would all be parsed before
the next caller's; here callers, told apart by address, take turns, one request or chunk of a body for each round of the
event loop. Nobody waits where nobody else is there. Behind a proxy that all callers share it has no effect.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import Counter, OrderedDict, deque
from typing import Final

import hypercorn.asyncio.run
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.events import Closed, Event, RawData

log = logging.getLogger(__name__)

OWN_DESCRIPTORS: Final = 512
"""Of the router's, that are no callers' connections: children, segments, code, bundles, files in passing."""
MOST_CONNECTIONS: Final = 16_384
STALLED_S: Final = 30.0
SLOWEST_BYTES_S: Final = 64 * 1024
"""A caller has `STALLED_S` to begin taking an answer, and then must be as fast as this on the whole."""
SMALL_BYTES: Final = 64 * 1024
"""Fits the socket's own buffer, more or less: nothing waits for the caller then."""


class Turns:
    """One turn for each round of the event loop; addresses that wait take them one after the other."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._taken = False

    async def take(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._pass_on)
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(address, deque()).append(turn)
        await turn

    def _pass_on(self) -> None:
        while self._waiting:
            address, turns = next(iter(self._waiting.items()))
            turn = turns.popleft()
            if turns:
                self._waiting.move_to_end(address)
            else:
                del self._waiting[address]
            if not turn.done():
                turn.set_result(None)
                asyncio.get_running_loop().call_soon(self._pass_on)
                return
        self._taken = False


class Connections:
    """How many are open: in all, and of each address, which may have half of all."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.open = 0
        self._of: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        if self.open >= self.most or self._of[address] >= max(1, self.most // 2):
            return False
        self.open += 1
        self._of[address] += 1
        return True

    def leave(self, address: str) -> None:
        self.open -= 1
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]


def room_for_connections() -> int:
    """As many as the process may have descriptors, once it has asked for all that it may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OWN_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return (
        MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(16, min(MOST_CONNECTIONS, soft - OWN_DESCRIPTORS))
    )


class FairServer(TCPServer):
    """Hypercorn's connection, under the bounds of this module."""

    turns: Turns
    connections: Connections

    async def run(self) -> None:
        peer = self.writer.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        if not self.connections.enter(self.address):
            self.writer.transport.abort()
            return
        try:
            await self.turns.take(self.address)
            await super().run()
        finally:
            self.connections.leave(self.address)

    async def _read_data(self) -> None:
        while not self.reader.at_eof():
            try:
                data = await self.reader.read(MAX_RECV)
            except OSError:  # also what TLS calls an error
                break
            await self.turns.take(self.address)
            await self.protocol.handle(RawData(data))
        await self.protocol.handle(Closed())

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData) or len(event.data) <= SMALL_BYTES:
            await super().protocol_send(event)
            return
        try:
            async with asyncio.timeout(STALLED_S + len(event.data) / SLOWEST_BYTES_S):
                await super().protocol_send(event)
        except TimeoutError:
            self.writer.transport.abort()
            await self.protocol.handle(Closed())


def keep_connections_fair() -> None:
    """Hypercorn makes a connection by this name; raises if it does not any more."""
    known = (TCPServer, FairServer)
    if getattr(hypercorn.asyncio.run, "TCPServer", None) not in known:
        raise RuntimeError("this hypercorn is not the one whose connections wisp knows how to bound")
    FairServer.turns = Turns()
    FairServer.connections = Connections(room_for_connections())
    log.info("at most %d connections", FairServer.connections.most)
    hypercorn.asyncio.run.TCPServer = FairServer  # type: ignore[attr-defined]

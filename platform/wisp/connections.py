"""Callers' connections: how many there may be, whose turn it is to be read from, and how slowly one may take an answer.

The router has one thread. Sixty requests that lie ready on sixty connections of one caller would all be parsed before
the next caller's; here callers, told apart by address, take turns, one request or chunk of a body for each round of the
event loop. Nobody waits where nobody else is there. Behind a proxy that all callers share it has no effect.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Final

OWN_DESCRIPTORS: Final = 512
"""Of the router's, that are no callers' connections: children, segments, code, bundles, files in passing."""
MOST_CONNECTIONS: Final = 16_384
STALLED_S: Final = 30.0
SLOWEST_BYTES_S: Final = 64 * 1024
"""A caller has `STALLED_S` to begin taking an answer, and then must be as fast as this on the whole."""
SMALL_BYTES: Final = 64 * 1024
"""Of an answer: written as one. What waits in the transport beyond this is waited for."""
BURST_ROOM_BYTES: Final = 8 * 1024 * 1024


class Turns:
    """One turn for each round of the event loop; addresses that wait take them one after the other. One that has not
    waited of late goes before those that always do, once, and every other turn is theirs all the same."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Callable[[], bool]]] = OrderedDict()
        """In rotation. Who has nothing waiting any more leaves it when it would be next, not before: else whoever sends
        one thing after the other would always be new."""
        self._fresh: OrderedDict[str, deque[Callable[[], bool]]] = OrderedDict()
        """Not in rotation yet."""
        self._was_fresh = False
        """Who had the last turn."""
        self._taken = False

    async def take(self, address: str) -> None:
        if not self.free():
            await self.wait(address)

    def free(self) -> bool:
        """Whether nobody has this round's turn; it is taken then."""
        if self._taken:
            return False
        self._taken = True
        asyncio.get_running_loop().call_soon(self._pass_on)
        return True

    async def wait(self, address: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def begin() -> bool:
            if turn.done():
                return False
            turn.set_result(None)
            return True

        self.queue(address, begin)
        await turn

    def queue(self, address: str, begin: Callable[[], bool]) -> None:
        """`begin` is called when the turn has come; it is passed on at once where that says that nobody wants it."""
        turns = self._waiting.get(address)
        if turns is None:
            turns = self._fresh.get(address)
            if turns is None:
                turns = self._fresh[address] = deque()
        turns.append(begin)
        if not self._taken:
            self._taken = True
            asyncio.get_running_loop().call_soon(self._pass_on)

    def _pass_on(self) -> None:
        while (begin := self._next()) is not None:
            if begin():
                asyncio.get_running_loop().call_soon(self._pass_on)
                return
        self._taken = False

    def _next(self) -> Callable[[], bool] | None:
        waiting = self._waiting
        while waiting and (self._was_fresh or not self._fresh):
            address, turns = next(iter(waiting.items()))
            if turns:
                waiting.move_to_end(address)
                self._was_fresh = False
                return turns.popleft()
            del waiting[address]
        if not self._fresh:
            return None
        address, turns = self._fresh.popitem(last=False)
        waiting[address] = turns
        self._was_fresh = True
        return turns.popleft()


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


def slowest_s(waiting_bytes: int) -> float:
    """How long a caller may take for so much."""
    return STALLED_S + waiting_bytes / SLOWEST_BYTES_S


class Callers:
    """All callers of one server. `burst_room_bytes`: what may lie of what came in one go, all together."""

    def __init__(self, most: int, burst_room_bytes: int = BURST_ROOM_BYTES) -> None:
        self.burst_room_bytes = burst_room_bytes
        self.turns = Turns()
        self.connections = Connections(most)
        self.idle: set[asyncio.BaseTransport] = set()
        """Connections on which no request is under way."""
        self.ending = False

    def end(self) -> None:
        """Closes what is idle, at once, and what answers once it has answered."""
        self.ending = True
        for transport in list(self.idle):
            transport.close()

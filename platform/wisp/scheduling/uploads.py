"""Whose upload is worked on next: tenants take turns, each has one at a time, and the machine only so many.

Compiling a module and judging a model take seconds of a core. They share one `UploadTurns` on a node, so that ten
uploads of one tenant delay another's by the one that is being worked on, not by ten.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


def concurrent_uploads(cores: int) -> int:
    """Half of the cores: the others are the requests'."""
    return max(1, cores // 2)


class UploadTurns:
    """At most `concurrent` at a time, and one of each key. A key is a tenant, or work that no single one asked for."""

    def __init__(self, concurrent: int = 1) -> None:
        self._free = concurrent
        self._working: set[str] = set()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def take(self, key: str) -> AsyncIterator[None]:
        """Not to be taken again by whoever holds one."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        self._pass_on()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(key, turn)
            else:
                self._end(key)  # granted in the very moment in which the wait ended
            raise
        try:
            yield
        finally:
            self._end(key)

    def _pass_on(self) -> None:
        while self._free:
            key = next((key for key in self._waiting if key not in self._working), None)
            if key is None:
                return
            turns = self._waiting[key]
            turn = turns.popleft()
            if turns:
                self._waiting.move_to_end(key)
            else:
                del self._waiting[key]
            if not turn.done():
                self._free -= 1
                self._working.add(key)
                turn.set_result(None)

    def _end(self, key: str) -> None:
        self._free += 1
        self._working.remove(key)
        self._pass_on()

    def _forget(self, key: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(key)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[key]

"""A caller's going away while its request is under way: it takes the guest with it."""

from __future__ import annotations

import asyncio
from typing import Final

from wisp.api.bodies import ClientGone
from wisp.api.incoming import Incoming

STEP_S: Final = 0.02
"""A request is looked after from one to two steps on."""


class Watches:
    """Over all requests under way, in one event loop. Most are answered within a moment: a task for each of those, or a
    timer, would cost more than many a guest; so one timer finds those that are not."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.new: set[Watch] = set()
        self.older: set[Watch] = set()
        self.looking = False

    def look_soon(self) -> None:
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
        self.looking = True
        self.loop.call_later(STEP_S, self._look)

    def _look(self) -> None:
        self.looking = False
        for watch in self.older:
            watch.begin()
        self.older, self.new = self.new, set()
        if self.older:
            self.look_soon()


class Watch:
    """Cancels the task that made it once the caller has gone, while its block runs, and raises `ClientGone` then."""

    __slots__ = ("_caller", "_request", "_saw_it_go", "_watches", "_watching")

    def __init__(self, watches: Watches, request: Incoming) -> None:
        self._saw_it_go = False
        self._request = request
        self._watches = watches
        self._caller = asyncio.current_task(watches.loop)
        self._watching: asyncio.Task[None] | None = None
        if not watches.looking:
            watches.look_soon()
        watches.new.add(self)

    def begin(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        await self._request.gone()
        self._saw_it_go = True
        assert self._caller is not None
        self._caller.cancel()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._watches.new.discard(self)
        self._watches.older.discard(self)
        watching = self._watching
        self._watching = None  # or each would keep the other, and the request, until a collection
        if watching is not None:
            watching.cancel()
        if self._saw_it_go and self._caller is not None:
            self._caller.uncancel()  # the task goes on to end its connection
            if isinstance(error, asyncio.CancelledError):
                raise ClientGone from None

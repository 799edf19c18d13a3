"""What a node runs beside its requests: watched, since nobody else would miss a task that ends by a defect."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable

log = logging.getLogger(__name__)

CANCEL_AGAIN_S = 0.2


class Background:
    """`failed`: one of the tasks ended by a defect."""

    def __init__(self) -> None:
        self.failed = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, running: Iterable[Coroutine[None, None, None]]) -> None:
        for coroutine in running:
            task = asyncio.create_task(coroutine)
            task.add_done_callback(self._note_end)
            self._tasks.append(task)

    async def end(self) -> None:
        left = set(self._tasks)
        while left:  # the Redis client loses a cancellation that arrives while it looks into a new connection
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.failed = True
            log.critical("a background task failed; restart this node", exc_info=error)

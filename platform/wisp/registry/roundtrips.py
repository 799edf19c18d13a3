"""Commands that are given in one turn of the event loop share a round trip: most of what one costs a node is the client
library's work around it, and to wake the server.

Each has its own answer or error. What ends the round trip ends all that are in it, as it would have ended each alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis

from wisp.registry.cluster import WHOLE

Words = Sequence[str | bytes | int]
Answer = asyncio.Future[Any]

MOST: Final = 16
"""Commands in one round trip: what is more shares the next one, on another connection."""


class RoundTrips:
    """Of one server, for one event loop. `timeout_s`: for each answer; a whole round trip may take `WHOLE` times it."""

    def __init__(self, client: Redis, *, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._waiting: list[tuple[Words, Answer]] = []
        self._under_way: set[asyncio.Task[Sequence[Any]]] = set()

    async def execute(self, *words: str | bytes | int) -> Any:
        """Raises the library's errors, or `TimeoutError`. Cancelled, the command may be carried out all the same."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._leave)
        answer: Answer = loop.create_future()
        self._waiting.append((words, answer))
        return await answer

    def _leave(self) -> None:
        waiting, self._waiting = self._waiting, []
        wanted = [each for each in waiting if not each[1].done()]
        for start in range(0, len(wanted), MOST):
            together = wanted[start : start + MOST]
            self._under_way.add(trip := asyncio.create_task(self._ask([words for words, _ in together])))
            trip.add_done_callback(partial(self._tell, [answer for _, answer in together]))

    async def _ask(self, commands: Sequence[Words]) -> Sequence[Any]:
        """An answer for each, or the error that it was answered with."""
        async with asyncio.timeout(WHOLE * self._timeout_s):
            if len(commands) == 1:
                return [await self._client.execute_command(*commands[0])]  # type: ignore[no-untyped-call]
            pipeline = self._client.pipeline(transaction=False)
            for words in commands:
                pipeline.execute_command(*words)
            return await pipeline.execute(raise_on_error=False)

    def _tell(self, answers: Sequence[Answer], trip: asyncio.Task[Sequence[Any]]) -> None:
        self._under_way.discard(trip)
        error = None if trip.cancelled() else trip.exception()
        found = [error] * len(answers) if trip.cancelled() or error is not None else trip.result()
        for answer, said in zip(answers, found, strict=True):
            if answer.done():  # nobody waits for it any more
                continue
            if trip.cancelled():
                answer.cancel()
            elif isinstance(said, BaseException):
                answer.set_exception(said)
            else:
                answer.set_result(said)

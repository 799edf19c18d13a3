"""How many requests of one function run at once on this node, and who is next.

A function's `max_inflight` run, its `max_queue` wait for that in order of arrival, each no longer than its
`queue_timeout`. Beside it, all functions of a tenant share the in-flight slots that the node has leased; where those
are what is short, its functions take turns.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from wisp.errors import QueueTimeout, TooManyInflight
from wisp.quotas.allowances import Allowance

NS_PER_S = 1_000_000_000


class Gate:
    """One tenant's. A place that is given to a waiter counts from that moment on, so nobody overtakes it."""

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self.running: dict[str, int] = {}
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._most: dict[str, int] = {}

    def try_pass(self, function: str, most: int) -> bool:
        """At once, or not at all; never past one that waits."""
        allowance = self.allowance
        running = self.running.get(function, 0)
        if allowance.inflight >= allowance.slots or running >= most or function in self._waiting:
            return False
        self.running[function] = running + 1
        allowance.take_slot()
        return True

    def is_short_of_slots(self) -> bool:
        return self.allowance.inflight >= self.allowance.slots

    async def wait(self, function: str, *, most: int, max_queue: int, timeout_ns: int) -> None:
        """Raises `TooManyInflight` where so many wait already, `QueueTimeout`. Cancelled, it leaves nothing behind."""
        queue = self._waiting.get(function)
        if (0 if queue is None else len(queue)) >= max_queue:
            raise self._full(function, most, max_queue)
        if queue is None:
            queue = self._waiting[function] = deque()
        self._most[function] = most
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self.allowance.waiting += 1
        try:
            async with asyncio.timeout(timeout_ns / NS_PER_S):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave(function)  # granted in the very moment in which the wait ended
            else:
                self._give_up(function, turn)
            if isinstance(error, TimeoutError):
                raise QueueTimeout(
                    f"the function had {most} requests running, or its tenant as many as it may, for"
                    f" {timeout_ns / NS_PER_S:g} s; try again"
                ) from error
            raise

    def leave(self, function: str) -> None:
        self.allowance.inflight -= 1
        running = self.running[function] - 1
        if running:
            self.running[function] = running
        else:
            del self.running[function]
        if self._waiting:
            self.wake()

    def wake(self) -> None:
        """Lets in whoever may run by now: after a request has ended, or slots were leased."""
        allowance = self.allowance
        for function in list(self._waiting):
            if allowance.inflight >= allowance.slots:
                return
            if self.running.get(function, 0) < self._most[function]:
                self._waiting.move_to_end(function)
                self._admit_first(function)

    def _admit_first(self, function: str) -> None:
        queue = self._waiting[function]
        while queue:
            turn = queue.popleft()
            self.allowance.waiting -= 1
            if not turn.done():
                self._take(function)
                turn.set_result(None)
                break
        if not queue:
            self._forget(function)

    def _give_up(self, function: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(function)
        if queue is not None and turn in queue:
            queue.remove(turn)
            self.allowance.waiting -= 1
            if not queue:
                self._forget(function)

    def _forget(self, function: str) -> None:
        del self._waiting[function]
        del self._most[function]

    def _take(self, function: str) -> None:
        self.running[function] = self.running.get(function, 0) + 1
        self.allowance.take_slot()

    def _full(self, function: str, most: int, max_queue: int) -> TooManyInflight:
        quota = self.allowance.quota.max_inflight
        running = self.running.get(function, 0)
        if running >= most:
            whose, limit = "the function", most
        else:
            running, whose, limit = max(self.allowance.slots_used, 0) + self.allowance.inflight, "the tenant", quota
        return TooManyInflight(
            f"{whose} has {limit} requests running, and {max_queue} of the function's wait already; try again",
            limit=limit,
            used=min(running, limit),
            policy="inflight",
            unit="concurrent-requests",
        )

"""Runs that wait for a sandbox: in the fair queue, each until its time is over; one that could hardly be served in its
time is refused before it waits (`waits`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from wisp.errors import QueueTimeout
from wisp.scheduling.queue import FairQueue
from wisp.scheduling.runs import Run
from wisp.scheduling.runtimes import BRIEF_NS
from wisp.scheduling.shares import Shares
from wisp.scheduling.slots import Sandbox
from wisp.scheduling.turns import Turns
from wisp.scheduling.waits import Wait, refuse_hopeless

NS: Final = 1_000_000_000


class Waiting:
    """The pool's. `idle` are those of its slots that are free at the moment."""

    def __init__(
        self, queue: FairQueue[Run], shares: Shares, turns: Turns, slots: Sequence[Sandbox], idle: Sequence[Sandbox]
    ) -> None:
        self._queue = queue
        self._shares = shares
        self._turns = turns
        self._slots = slots
        self._idle = idle
        self._loop = asyncio.get_running_loop()

    def enter(self, run: Run) -> None:
        """Raises `Overloaded`, `TooManyInflight`, and `QueueTimeout` where it could hardly be served in time."""
        job, timeout_s = run.job, run.timeout_s
        if not job.probe and not self._is_hopeful(timeout_s):
            refuse_hopeless(self._expect(run), timeout_s)
        self._queue.push(run, job.weight)
        run.expiry = self._loop.call_later(timeout_s, self._expire, run)

    def enter_again(self, run: Run) -> None:
        """As the next of its tenant; it may wait for what is left of its time."""
        self._queue.put_back(run, run.job.weight)
        left_s = run.timeout_s - (time.monotonic_ns() - run.since_ns) / NS
        run.expiry = self._loop.call_later(max(0.0, left_s), self._expire, run)

    def leave(self, run: Run) -> None:
        """Its caller has gone."""
        if run.expiry is not None:
            run.expiry.cancel()
            self._queue.discard(run)

    def next(self) -> Run | None:
        """Who may have a sandbox that is free."""
        shares, queue = self._shares, self._queue
        behind = shares.long and queue.any_waits(shares.is_newcomer)
        return queue.pop(shares.may_take_behind if behind else shares.may_take)

    def _is_hopeful(self, timeout_s: float) -> bool:
        """Whether no estimate could say otherwise: all that runs is brief, and what waits is little."""
        longest_ns = BRIEF_NS + self._queue.waiting_ns / self._shares.most(brief=False)
        return not self._shares.long and longest_ns < timeout_s * NS

    def _expire(self, run: Run) -> None:
        run.expiry = None
        self._queue.discard(run)
        message = f"no sandbox came free within {run.timeout_s:g} s; try again"
        run.fail(QueueTimeout(message, retry_after_s=self._expect(run).retry_after_s))

    def _expect(self, run: Run) -> Wait:
        tenant, weight, brief = run.tenant, run.job.weight, run.brief
        held = [slot.turn for slot in self._slots if slot not in self._idle]
        return Wait(
            first_ns=self._turns.first_ns(tenant, held, brief=brief),
            own_ns=self._queue.ahead_ns(tenant),
            all_ns=self._queue.waiting_ns,
            own_most=self._shares.most(brief=brief),
            sandboxes=self._shares.total,
            share=weight / self._queue.weights(tenant, weight),
        )

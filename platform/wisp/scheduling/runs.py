"""One request in the pool of sandboxes: it waits for one, is run there, and is billed however it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from wisp.errors import ChildLost
from wisp.scheduling.jobs import Job, Lost
from wisp.scheduling.queue import Waiter
from wisp.scheduling.runtimes import RunTime
from wisp.wire.outcome import Ending

if TYPE_CHECKING:
    from wisp.scheduling.slots import Sandbox


class Run(Waiter[Ending | None]):
    """It waits for a sandbox, unless one is free, and is run in it. `granted` resolves to how its guest ended; to None
    where it has to wait again, since its models have gone meanwhile."""

    __slots__ = (
        "ahead",
        "expiry",
        "goes_ahead",
        "job",
        "number",
        "queued_ns",
        "sandbox",
        "sent_ns",
        "since_ns",
        "timeout_s",
    )

    def __init__(
        self, job: Job, runtime: RunTime, loop: asyncio.AbstractEventLoop, *, brief: bool, timeout_s: float
    ) -> None:
        super().__init__(job.tenant, runtime, loop, brief=brief)
        self.job = job
        self.goes_ahead = brief and job.self_contained and runtime.quick and not runtime.spills
        """It may be sent to a sandbox in which another runs still; not again once it was taken back from one."""
        self.timeout_s = timeout_s
        """How long it may wait."""
        self.number = 0
        self.sandbox: Sandbox | None = None
        """Where it runs, has run, or will when what runs there has ended."""
        self.ahead = False
        """It was sent to a sandbox in which another runs still."""
        self.sent_ns = 0
        """When it was."""
        self.since_ns = 0
        self.queued_ns = 0
        self.expiry: asyncio.TimerHandle | None = None

    def leave_queue(self, now_ns: int) -> None:
        self.queued_ns = now_ns - self.since_ns
        if self.expiry is not None:
            self.expiry.cancel()
            self.expiry = None

    def end(self, result: Ending | ChildLost) -> None:
        """Once: tells whoever waits for it, or, where nobody does any more, whoever bills it."""
        if not self.granted.done():
            if isinstance(result, ChildLost):
                self.granted.set_exception(result)
            else:
                self.granted.set_result(result)
        elif self.job.abandoned is not None and isinstance(result, Ending | Lost):
            self.job.abandoned(result.receipt)

    def fail(self, error: Exception) -> None:
        if not self.granted.done():
            self.granted.set_exception(error)

    def bill(self) -> None:
        """It ended in the very moment in which its caller went away."""
        error = self.granted.exception()  # looked at in any case: nobody else waits for it any more
        if isinstance(error, Lost):
            receipt = error.receipt
        elif error is None and (ending := self.granted.result()) is not None:
            receipt = ending.receipt
        else:
            return
        if self.job.abandoned is not None:
            self.job.abandoned(receipt)

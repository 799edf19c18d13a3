"""A sandbox looks for its next request for a moment before it falls asleep: whoever sends to a process that sleeps pays
for waking it, and that is the router, of which there is one.

Only where that pays. The last request must have come that soon, so what is called now and then burns nothing. And
nobody else may want the core: each look ends with `sched_yield`, and one that took so long that another must have had
its turn is the last. In real time only its equals would be offered the core: there it sleeps.
"""

from __future__ import annotations

import os
import select
import time
from typing import Final

LONGEST_NS: Final = 300_000
TURN_NS: Final = 200_000
"""No look takes so long by itself."""


class BusyPoll:
    """On one descriptor, of which every wait goes through here: `wait`, what is received, `note`."""

    def __init__(self, fd: int) -> None:
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        self._poll = waiting.poll
        self._since_ns = 0
        self._pays = False

    def wait(self) -> None:
        """Until something has come, or it is better to sleep."""
        now_ns = self._since_ns = time.monotonic_ns()
        if not self._pays or os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR:
            return
        poll, until_ns = self._poll, now_ns + LONGEST_NS
        while not poll(0):
            os.sched_yield()
            before_ns, now_ns = now_ns, time.monotonic_ns()
            if now_ns >= until_ns or now_ns - before_ns > TURN_NS:
                return

    def note(self) -> None:
        """Something has come."""
        self._pays = time.monotonic_ns() - self._since_ns < LONGEST_NS

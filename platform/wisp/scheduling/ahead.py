"""Runs that were sent to a sandbox in which another still runs, so that its process goes on without falling asleep.

To wake a process costs as much as many a guest. Where requests wait anyway, the next one lies in the socket already
when a guest ends; what uses hardly more of a core than that costs goes behind another even where a sandbox is free.
Only where both are of the same tenant and reach nothing outside: a sandbox never holds two tenants'
requests, what of a process's CPU time goes to which of two requests is one tenant's own affair, and one that was begun
unseen by a process that was killed may begin again. And only behind functions that are known to end very soon. If one
does not, what was sent behind it is taken back: it is run elsewhere once the process has said that it did not begin it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wisp.scheduling.runs import Run

DEPTH: Final = 2
"""How many wait in one sandbox's socket."""
WAKING_NS: Final = 200_000
"""Of a core: what uses no more is done sooner behind another of its kind than by a process that is to be woken."""
OVERDUE_NS: Final = 5_000_000
"""What runs for longer has nothing waiting behind it."""
GIVE_BACK_NS: Final = 1_000_000_000
"""How long a process may take to say that it did not begin one; no busy machine makes it take so long."""
SKIPPED_CPU_NS: Final = 5_000_000
"""A process that has used more since its last guest ended has begun the next, whatever it says."""


class Ahead:
    """Of one slot, in the order in which they were sent."""

    __slots__ = ("asked_back_ns", "runs")

    def __init__(self) -> None:
        self.runs: deque[Run] = deque()
        self.asked_back_ns = 0
        """Since when they are to be given back."""

    def take(self, number: int) -> Run | None:
        """The one of this number, if it is among them."""
        for run in self.runs:
            if run.number == number:
                self.runs.remove(run)
                return run
        return None

    def take_all(self) -> list[Run]:
        """The last one first."""
        runs = list(reversed(self.runs))
        self.runs.clear()
        return runs

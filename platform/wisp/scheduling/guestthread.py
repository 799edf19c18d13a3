"""The thread of a sandbox's process that guests run on: whether it is idle, and how it is made more urgent, or less."""

from __future__ import annotations

import contextlib
from pathlib import Path

from wisp.errors import InvalidFrame
from wisp.scheduling.appetites import LONG_NICENESS
from wisp.scheduling.idleness import Standing, look
from wisp.scheduling.precedence import BEHIND_PRIORITY
from wisp.scheduling.slices import enter_real_time, leave_real_time, make_less_urgent
from wisp.scheduling.turns import Turn


class GuestThread:
    """Of one slot, through its successive threads; of none while there is no `standing`."""

    def __init__(self) -> None:
        self._standing: Standing | None = None
        self.slowed = False
        """For good: what runs on it is the last that does."""
        self.first = False
        """It runs in real time."""

    def follow(self, pid: int, thread: int) -> None:
        """Another takes over. Raises `InvalidFrame` for one that is not the process': what it says is not believed."""
        if not Path(f"/proc/{pid}/task/{thread}").is_dir():
            raise InvalidFrame("a thread that is none of its own")
        self.forget()
        self._standing, self.slowed, self.first = Standing(pid, thread), False, False

    def forget(self) -> None:
        """It is gone, or not known yet."""
        if self._standing is not None:
            self._standing.close()
            self._standing, self.first = None, False

    def look(self, turn: Turn, now_ns: int, cpu_ns: int) -> None:
        """Whether the guest whose turn it is has been idle. `cpu_ns`: of the process, since its guest was started."""
        if self._standing is not None:
            turn.idleness = look(turn.idleness, self._standing, now_ns, cpu_ns)

    def put(self, *, first: bool) -> None:
        """In front of all that does not run in real time, or among it. No guest goes first on one that was slowed
        down, but for what `hand_over` says."""
        if self._standing is None or (self.slowed and first):
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if first:
                enter_real_time(self._standing.thread, BEHIND_PRIORITY, heirs=False)
            else:
                leave_real_time(self._standing.thread)
            self.first = first

    def slow_down(self) -> None:
        """From here on everybody else goes first. Nothing where it has been done."""
        if self._standing is not None and (self.first or not self.slowed):
            self.slowed, self.first = True, False
            make_less_urgent(self._standing.thread, LONG_NICENESS)

    def hand_over(self) -> None:
        """The guest that was slowed down has ended, and the next waits until its thread has come to have another
        started: nobody else goes first meanwhile."""
        if self._standing is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                enter_real_time(self._standing.thread, BEHIND_PRIORITY, heirs=False)
                self.first = True

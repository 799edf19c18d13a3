"""The thread of a sandbox's process that guests run on: whether it is idle, and how it is made less urgent."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from wisp.errors import InvalidFrame
from wisp.scheduling.appetites import LONG_NICENESS
from wisp.scheduling.idleness import look
from wisp.scheduling.turns import Turn


class GuestThread:
    """Of one slot, through its successive threads; of none while `thread` is 0."""

    def __init__(self) -> None:
        self._pid = 0
        self._thread = 0
        self._slowed = False

    def follow(self, pid: int, thread: int) -> None:
        """Another takes over. Raises `InvalidFrame` for one that is not the process': what it says is not believed."""
        if not Path(f"/proc/{pid}/task/{thread}").is_dir():
            raise InvalidFrame("a thread that is none of its own")
        self._pid, self._thread, self._slowed = pid, thread, False

    def forget(self) -> None:
        """It is gone, or not known yet."""
        self._thread = 0

    def look(self, turn: Turn, now_ns: int, cpu_ns: int) -> None:
        """Whether the guest whose turn it is has been idle. `cpu_ns`: of the process, since its guest was started."""
        if self._thread:
            turn.idleness = look(turn.idleness, self._pid, self._thread, now_ns, cpu_ns)

    def slow_down(self) -> None:
        """From here on everybody else goes first. Nothing where it has been done."""
        if self._thread and not self._slowed:
            self._slowed = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.setpriority(os.PRIO_PROCESS, self._thread, LONG_NICENESS)

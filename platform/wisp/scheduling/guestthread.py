"""The thread of a sandbox's process that guests run on: whether it is idle, and how it is made less urgent."""

from __future__ import annotations

from pathlib import Path

from wisp.errors import InvalidFrame
from wisp.scheduling.appetites import LONG_NICENESS
from wisp.scheduling.idleness import Standing, look
from wisp.scheduling.slices import make_less_urgent
from wisp.scheduling.turns import Turn


class GuestThread:
    """Of one slot, through its successive threads; of none while there is no `standing`."""

    def __init__(self) -> None:
        self._standing: Standing | None = None
        self._slowed = False

    def follow(self, pid: int, thread: int) -> None:
        """Another takes over. Raises `InvalidFrame` for one that is not the process': what it says is not believed."""
        if not Path(f"/proc/{pid}/task/{thread}").is_dir():
            raise InvalidFrame("a thread that is none of its own")
        self.forget()
        self._standing, self._slowed = Standing(pid, thread), False

    def forget(self) -> None:
        """It is gone, or not known yet."""
        if self._standing is not None:
            self._standing.close()
            self._standing = None

    def look(self, turn: Turn, now_ns: int, cpu_ns: int) -> None:
        """Whether the guest whose turn it is has been idle. `cpu_ns`: of the process, since its guest was started."""
        if self._standing is not None:
            turn.idleness = look(turn.idleness, self._standing, now_ns, cpu_ns)

    def slow_down(self) -> None:
        """From here on everybody else goes first. Nothing where it has been done."""
        if self._standing is not None and not self._slowed:
            self._slowed = True
            make_less_urgent(self._standing.thread, LONG_NICENESS)

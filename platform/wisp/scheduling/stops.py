"""Where a sandbox's process hears which invocation to stop, while its other thread runs a guest."""

from __future__ import annotations

import contextlib
import os

from wisp.wire.invocations import STOP


class Stops:
    """Of one slot, through its successive processes. What a process does not hear, since it is gone or its pipe is
    full, is found by those who wait for it."""

    def __init__(self) -> None:
        self._fd = -1

    def open(self) -> int:
        """For another process: its end, for whoever starts it to close."""
        hears_fd, self._fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        return hears_fd

    def end(self, number: int) -> None:
        self._say(number, unbegun=False)

    def take_back(self, number: int) -> None:
        """If it has not begun."""
        self._say(number, unbegun=True)

    def _say(self, number: int, *, unbegun: bool) -> None:
        with contextlib.suppress(OSError):
            os.write(self._fd, STOP.pack(number, unbegun))

    def close(self) -> None:
        """That process has ended."""
        os.close(self._fd)

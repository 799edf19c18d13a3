"""Which of the invocations that were sent ahead may still be taken back: those that have not begun.

The router asks on the pipe that the main thread reads, while the other thread runs guests. Numbers only grow.
"""

from __future__ import annotations

import threading


class SentAhead:
    """`withdrawn` holds what was taken back and has not come by yet, no more than the router sends ahead."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = 0
        self._withdrawn: set[int] = set()

    def begin(self, number: int) -> bool:
        """False: it was taken back."""
        with self._lock:
            self._begun = number
            if number not in self._withdrawn:
                return True
            self._withdrawn.discard(number)
            return False

    def withdraw(self, number: int) -> bool:
        """Whether it will not begin. It may have ended long ago."""
        with self._lock:
            if number <= self._begun:
                return False
            self._withdrawn.add(number)
            return True

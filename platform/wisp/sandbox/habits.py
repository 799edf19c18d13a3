"""How a function uses its memory, as far as it tells how to clean up after it.

Pages given back to the kernel cost a fault each when the next guest touches them, about as much as it takes to write
zeros over ten of them. So a guest that touches much of a small memory has it overwritten, and the pages stay; one that
touches little of it gives them back. What is touched is known by the page faults that it takes, so those whose pages
stayed are estimated, downward: after a while a guest gives them back once, and is measured again.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass

PAGE_BYTES = 4096
CLEARED_BYTES = 4 << 20
"""The most memory that stays with a sandbox that no guest runs in."""
WORTH_PAGES = 8
REMEMBERED = 0.98
"""Of an estimate, with each guest that shows less."""


@dataclass(slots=True)
class Habit:
    """Of one function in one sandbox. `touched_pages` is what its guests touched of their memory, more or less."""

    touched_pages: float = 0.0

    def note(self, faults: int) -> None:
        self.touched_pages = max(float(faults), self.touched_pages * REMEMBERED)

    def clears(self, size_bytes: int) -> bool:
        """Whether a memory of this size is overwritten, and not given back."""
        return size_bytes <= CLEARED_BYTES and self.touched_pages * WORTH_PAGES * PAGE_BYTES > size_bytes


def faults() -> int:
    """Page faults of this thread since it began, of those that need no disk."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt

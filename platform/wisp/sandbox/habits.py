"""How a function uses its memory, as far as it tells how to clean up after it.

Pages given back to the kernel cost a fault each when the next guest touches them, about as much as it takes to write
zeros over ten of them. So what guests touched is overwritten, and the pages stay, unless they are many times what this
function's own guests touch: then another's are among them, and all are given back. What a guest touched is known of one
that found no pages; of the others it is estimated, downward, so that pages are given back, and it is known again, after
a while.
"""

from __future__ import annotations

from dataclasses import dataclass

CLEARED_BYTES = 4 << 20
"""The largest memory of which anything stays with a sandbox that no guest runs in."""
FEW_PAGES = 32
"""Are overwritten whoever touched them."""
WORTH_PAGES = 8
REMEMBERED = 0.98
"""Of an estimate, with each guest that shows less."""


@dataclass(slots=True)
class Habit:
    """Of one function in one sandbox. `touched_pages` is what its guests touched of their memory, more or less."""

    touched_pages: float = 0.0

    def note(self, touched: int) -> None:
        """By a guest, beside what it found."""
        self.touched_pages = max(float(touched), self.touched_pages * REMEMBERED)

    def clears(self, pages: int) -> bool:
        """Whether so many are overwritten, and not given back."""
        return pages <= FEW_PAGES or pages <= self.touched_pages * WORTH_PAGES

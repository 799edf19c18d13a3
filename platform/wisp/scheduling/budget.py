"""One budget of bytes for all bodies in flight on this node: what cannot be held is refused, not swapped.

Of what is free an owner may hold no more than it leaves to others (Choudhury and Hahne, "Dynamic Queue Length
Thresholds for Shared-Memory Packet Switches", 1998, with a factor of one): one tenant gets at most half of the budget,
two a third each, and somebody who comes later always finds some.
"""

from __future__ import annotations

from collections import Counter

from wisp.errors import Overloaded, TooManyInflight


class ByteBudget:
    """Counts; the holders are `RequestBody` and the dispatcher. Single-threaded, under the event loop."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._of: Counter[str] = Counter()

    def take(self, count: int, owner: str = "") -> None:
        """Raises `Overloaded` and takes nothing if that many bytes are not left, `TooManyInflight` if they would be
        more than the owner's share. The platform itself, who is nobody, has no share."""
        if not count:
            return
        if self.used_bytes + count > self.limit_bytes:
            raise Overloaded(
                "the bodies in flight on this node fill its memory; try again",
                limit=self.limit_bytes,
                used=self.used_bytes,
            )
        if owner:
            held = self._of[owner] + count
            if held > self.limit_bytes - self.used_bytes - count and held > count:
                raise TooManyInflight("this tenant's bodies in flight hold its share of this node's memory; try again")
            self._of[owner] = held
        self.used_bytes += count

    def give_back(self, count: int, owner: str = "") -> None:
        if not count:
            return
        assert count <= self.used_bytes
        self.used_bytes -= count
        if owner:
            self._of[owner] -= count
            if not self._of[owner]:
                del self._of[owner]

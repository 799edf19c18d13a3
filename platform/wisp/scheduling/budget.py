"""One budget of bytes for all bodies in flight on this node: what cannot be held is refused, not swapped."""

from __future__ import annotations

from wisp.errors import Overloaded


class ByteBudget:
    """Counts; the holders are `RequestBody` and the dispatcher. Single-threaded, under the event loop."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0

    def take(self, count: int) -> None:
        """Raises `Overloaded` and takes nothing if that many bytes are not left."""
        if self.used_bytes + count > self.limit_bytes:
            raise Overloaded(
                "the bodies in flight on this node fill its memory; try again",
                limit=self.limit_bytes,
                used=self.used_bytes,
            )
        self.used_bytes += count

    def give_back(self, count: int) -> None:
        assert count <= self.used_bytes
        self.used_bytes -= count

"""What stands behind a guest's three standard descriptors: its request's body, its answer, its log."""

from __future__ import annotations

from dataclasses import dataclass

from wisp.sandbox.logs import LogBuffer


@dataclass(slots=True)
class Input:
    """A body being read. Empty for the `handler` ABI, which gets its body with the message."""

    body: bytes | memoryview = b""
    position: int = 0

    @property
    def left(self) -> int:
        return len(self.body) - self.position

    def take(self, length: int) -> memoryview:
        """The next bytes, at most `length`."""
        start = self.position
        self.position = end = start + min(length, len(self.body) - start)
        return memoryview(self.body)[start:end]


@dataclass(slots=True)
class Output:
    """An answer being written; past `limit_bytes` its guest is stopped."""

    limit_bytes: int
    data: bytearray


@dataclass(slots=True)
class Log:
    """Never refuses: what finds no room is counted."""

    buffer: LogBuffer

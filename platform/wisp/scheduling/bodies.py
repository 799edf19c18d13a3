"""A request's body while it arrives and waits: in memory, or in a segment once it is very large.

What fits no frame is laid into the segment of the sandbox that runs the request (`scheduling.bodyrooms`).
"""

from __future__ import annotations

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor

from wisp.errors import RequestTooLarge
from wisp.scheduling.budget import ByteBudget
from wisp.wire.invocations import LAID_BYTES
from wisp.wire.segments import F_ADD_SEALS, FROZEN

INLINE_BYTES = 32 * 1024
"""Leaves room in a frame for the request's head (`wire.invocations.INLINE_BYTES` in all)."""
AT_ONCE_BYTES = 1024 * 1024
"""To give more back to the kernel takes it milliseconds, so that is done beside the event loop."""
JOINED_BYTES = 4 * 1024
"""A chunk below this is joined with its neighbours: an object for each byte would be forty times what it holds."""
BITE_BYTES = 256 * 1024
"""With each chunk that comes, so much of what lies in memory is moved to the segment: a megabyte at once would take the
router up to a few milliseconds, and everybody waits for it."""

_closing = ThreadPoolExecutor(1, "closing")


class RequestBody:
    """Holds bytes under the node's budget and the function's limit. `close` gives the budget back, once."""

    def __init__(self, budget: ByteBudget, limit_bytes: int, owner: str = "") -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._budget = budget
        self._owner = owner
        self._parts: list[bytes | bytearray] = []
        """What is not in the segment."""
        self._moved_bytes = 0
        """Of the first part."""
        self._fd = -1

    def append(self, chunk: bytes) -> None:
        """Raises `RequestTooLarge`, `Overloaded` or `TooManyInflight`; the body then holds what it held before."""
        size = self.size_bytes + len(chunk)
        if size > self.limit_bytes:
            raise RequestTooLarge(
                f"the body is larger than the {self.limit_bytes} bytes that limits.request_body allows",
                limit=self.limit_bytes,
                used=size,
            )
        self._budget.take(len(chunk), self._owner)
        self.size_bytes = size
        if self._fd < 0 and size <= LAID_BYTES:
            self._keep(chunk)
        elif self._fd >= 0 and not self._parts:
            self._write(chunk)
        else:
            self._keep(chunk)
            self._move(BITE_BYTES + len(chunk))

    def _keep(self, chunk: bytes) -> None:
        if len(chunk) >= JOINED_BYTES:
            self._parts.append(chunk)
        elif self._parts and isinstance(last := self._parts[-1], bytearray):
            last += chunk
        else:
            self._parts.append(bytearray(chunk))

    def _move(self, most_bytes: int) -> None:
        """From memory to a segment."""
        if self._fd < 0:
            self._fd = os.memfd_create("body", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        parts = self._parts
        while parts and most_bytes > 0:
            start, length = self._moved_bytes, len(parts[0])
            end = min(length, start + most_bytes)
            with memoryview(parts[0]) as part:
                self._write(part[start:end])
            most_bytes -= end - start
            self._moved_bytes = end
            if end == length:
                del parts[0]
                self._moved_bytes = 0

    def _write(self, chunk: bytes | memoryview) -> None:
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._fd, view) :]

    def inline(self) -> bytes:
        """All of it, if it fits a frame, else nothing."""
        return b"".join(self._parts) if self.size_bytes <= INLINE_BYTES else b""

    def parts(self) -> tuple[bytes | bytearray, ...]:
        """All of it, if it fits no frame and is in memory, else nothing. They stay the body's own."""
        return () if self._fd >= 0 or self.size_bytes <= INLINE_BYTES else tuple(self._parts)

    def segment(self) -> tuple[int, ...]:
        """The frozen segment that holds it, if it fits no frame; it stays the body's own. Nothing may be appended
        after."""
        if self.size_bytes <= INLINE_BYTES:
            return ()
        self._move(self.size_bytes)
        fcntl.fcntl(self._fd, F_ADD_SEALS, FROZEN)
        return (self._fd,)

    def close(self) -> None:
        self._budget.give_back(self.size_bytes, self._owner)
        if self._fd >= 0:
            if self.size_bytes > AT_ONCE_BYTES:
                _closing.submit(os.close, self._fd)
            else:
                os.close(self._fd)
            self._fd = -1
        self.size_bytes = 0
        self._parts.clear()

"""A request's body while it arrives and waits: in memory while small, in a segment once it would not fit a frame."""

from __future__ import annotations

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor

from wisp.errors import RequestTooLarge
from wisp.scheduling.budget import ByteBudget
from wisp.wire.segments import F_ADD_SEALS, FROZEN

INLINE_BYTES = 32 * 1024
"""Leaves room in a frame for the request's head (`wire.invocations.INLINE_BYTES` in all)."""
AT_ONCE_BYTES = 1024 * 1024
"""To give more back to the kernel takes it milliseconds, so that is done beside the event loop."""

_closing = ThreadPoolExecutor(1, "closing")


class RequestBody:
    """Holds bytes under the node's budget and the function's limit. `close` gives the budget back, once."""

    def __init__(self, budget: ByteBudget, limit_bytes: int, owner: str = "") -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._budget = budget
        self._owner = owner
        self._parts: list[bytes] = []
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
        if self._fd < 0 and size <= INLINE_BYTES:
            self._parts.append(chunk)
            return
        if self._fd < 0:
            self._fd = os.memfd_create("body", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            for part in self._parts:
                self._write(part)
            self._parts.clear()
        self._write(chunk)

    def _write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._fd, view) :]

    def inline(self) -> bytes:
        """All of it, if it is not in a segment (then empty)."""
        return b"".join(self._parts)

    def segment(self) -> tuple[int, ...]:
        """The frozen segment that holds it, if one does; it stays the body's own. Nothing may be appended after."""
        if self._fd < 0:
            return ()
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

"""The bounded buffer behind a guest's stderr, stdout and log mounts."""

from __future__ import annotations


class LogBuffer:
    """Keeps the first `limit_bytes` bytes; what comes after is counted, not kept. A guest never fails for logging."""

    __slots__ = ("_kept", "_parts", "dropped_bytes", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.dropped_bytes = 0
        self._kept = 0
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        room = self.limit_bytes - self._kept
        if len(data) > room:
            self.dropped_bytes += len(data) - room
            data = data[:room]
        if data:
            self._parts.append(data)
            self._kept += len(data)

    def note_dropped(self, count: int) -> None:
        self.dropped_bytes += count

    @property
    def room(self) -> int:
        return self.limit_bytes - self._kept

    def take(self) -> bytes:
        if self.dropped_bytes:
            self._parts.append(f"\n[{self.dropped_bytes} bytes over limits.logs were dropped]\n".encode())
        return b"".join(self._parts)

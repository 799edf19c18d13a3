"""The bounded buffer behind a guest's stderr, stdout and log mounts: two streams, one room."""

from __future__ import annotations

NOTE = b"\n[%d bytes over limits.logs were dropped]\n"
NOTE_BYTES = len(NOTE % (2**64 - 1))


class LogBuffer:
    """Keeps the first `limit_bytes` bytes; what comes after is counted, not kept. A guest never fails for logging.

    The note of what was dropped takes its room from what was kept, so that nothing is ever longer than the limit.
    """

    __slots__ = ("_kept", "_lines", "_parts", "dropped_bytes", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.dropped_bytes = 0
        self._kept = 0
        self._parts: list[bytes] = []
        self._lines: list[bytes] = []

    def write(self, data: bytes) -> None:
        """To standard output or error."""
        self._keep(self._parts, data)

    def write_line(self, data: bytes) -> None:
        """To a log mount; both share the room."""
        self._keep(self._lines, data)

    def _keep(self, parts: list[bytes], data: bytes) -> None:
        room = self.limit_bytes - self._kept
        if len(data) > room:
            self.dropped_bytes += len(data) - room
            data = data[:room]
        if data:
            parts.append(data)
            self._kept += len(data)

    def note_dropped(self, count: int) -> None:
        self.dropped_bytes += count

    @property
    def room(self) -> int:
        return self.limit_bytes - self._kept

    def take(self) -> tuple[bytes, bytes]:
        """What was written to standard output and error, with the note, and what was written to log mounts."""
        kept, lines = b"".join(self._parts), b"".join(self._lines)
        if not self.dropped_bytes:
            return kept, lines
        excess = max(len(kept) + len(lines) + NOTE_BYTES - self.limit_bytes, 0)
        lines_kept = max(len(lines) - excess, 0)
        kept_bytes = max(len(kept) + len(lines) - lines_kept - excess, 0)
        dropped = self.dropped_bytes + len(kept) - kept_bytes + len(lines) - lines_kept
        return (kept[:kept_bytes] + NOTE % dropped)[: self.limit_bytes], lines[:lines_kept]

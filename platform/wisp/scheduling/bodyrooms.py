"""Where a sandbox finds the body of the request that it runs, if that is too large for a frame and not very large.

Both ends map it once, for as long as the slot lives. A segment made for each request would cost the router 0.24 ms for
half a megabyte, where a copy into pages that are there takes 0.01, and the sandbox a mapping.
"""

from __future__ import annotations

from collections.abc import Sequence

from wisp.wire.invocations import LAID_BYTES
from wisp.wire.segments import Segment

ZEROS = memoryview(bytes(LAID_BYTES))


class BodyRoom:
    """One slot's. All zero but while a request runs whose body was laid in it."""

    def __init__(self) -> None:
        self._segment = Segment.create("body", LAID_BYTES)
        self.used_bytes = 0

    @property
    def fd(self) -> int:
        return self._segment.fd

    def lay(self, parts: Sequence[bytes | bytearray]) -> None:
        """`parts` are `LAID_BYTES` together at most."""
        self.wipe()
        for part in parts:
            end = self.used_bytes + len(part)
            self._segment.view[self.used_bytes : end] = part
            self.used_bytes = end

    def wipe(self) -> None:
        """Nothing of a tenant's request is there when another's runs."""
        if self.used_bytes:
            self._segment.view[: self.used_bytes] = ZEROS[: self.used_bytes]
            self.used_bytes = 0

    def close(self) -> None:
        self._segment.close()

"""A large answer, taken out of the segment in which a sandbox wrote it, in slices between which the event loop serves
everybody else: sixteen mebibytes in one go would stop it for twenty milliseconds."""

from __future__ import annotations

import asyncio
import mmap
import os
from typing import Final

from wisp.wire.segments import Segment

SLICE_BYTES: Final = 128 * 1024
"""A multiple of every page size. Copied and given back in a tenth of a millisecond."""


async def take_out(segment: Segment, used_bytes: int) -> memoryview:
    """The segment's first `used_bytes`, which read as zero from then on. Cancelled, it leaves the rest where it is."""
    content = memoryview(mmap.mmap(-1, used_bytes))  # whose pages come into being one by one, as they are written
    for start in range(0, used_bytes, SLICE_BYTES):
        part = content[start : start + SLICE_BYTES]
        # Read, not copied from the mapping: no page of it has to be mapped here, and none unmapped.
        if os.preadv(segment.fd, [part], start) != len(part):
            raise EOFError("a segment of a fixed size has become shorter")
        segment.clear(len(part), start)
        await asyncio.sleep(0)
    return content

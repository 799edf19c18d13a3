"""Bundles in frozen segments while they are in use: packed once, mapped by every sandbox that runs their functions."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from wisp.errors import Unavailable
from wisp.wire.bundles import encode_index
from wisp.wire.segments import create_frozen

MAX_SEGMENTS = 256
MAX_SEGMENT_BYTES = 256 * 1024 * 1024
CHUNK_BYTES = 1 << 20


class BundleSegment:
    """A frozen segment of a bundle's files. Its descriptor is open for as long as anybody refers to it: a request that
    waits in a queue must not find the number reused for something else."""

    __slots__ = ("fd", "size_bytes")

    def __init__(self, files: Sequence[tuple[str, int, int]]) -> None:
        """From (path, length, descriptor of a regular file at its start). Reads them: not for an event loop.

        Raises `Unavailable` for a file of another length than it should have.
        """
        self.fd = -1
        self.fd = create_frozen("bundle", _chunks(files))
        self.size_bytes = os.fstat(self.fd).st_size

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _chunks(files: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
    yield encode_index((path, length) for path, length, _ in files)
    for path, length, fd in files:
        left = length
        while left:
            chunk = os.read(fd, min(CHUNK_BYTES, left))
            if not chunk:
                raise Unavailable(f"a bundle's file is shorter than it should be: {path!a}")
            left -= len(chunk)
            yield chunk


class BundleCache:
    """By the key of a bundle's content. Bounded in number and bytes; what was used longest ago is let go."""

    def __init__(self) -> None:
        self._segments: OrderedDict[str, BundleSegment] = OrderedDict()
        self._held_bytes = 0

    def peek(self, key: str) -> BundleSegment | None:
        held = self._segments.get(key)
        if held is not None:
            self._segments.move_to_end(key)
        return held

    def hold(self, key: str, segment: BundleSegment) -> None:
        self.drop(key)
        while self._segments and (
            len(self._segments) >= MAX_SEGMENTS or self._held_bytes + segment.size_bytes > MAX_SEGMENT_BYTES
        ):
            self.drop(next(iter(self._segments)))
        self._segments[key] = segment
        self._held_bytes += segment.size_bytes

    def drop(self, key: str) -> None:
        held = self._segments.pop(key, None)
        if held is not None:
            self._held_bytes -= held.size_bytes

    def close(self) -> None:
        for key in list(self._segments):
            self.drop(key)

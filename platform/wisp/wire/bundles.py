"""Read-only files as one frozen segment: where each lies, then their bytes, one after another.

    u32   bytes of the index
    JSON  [[path, offset, length], …], offsets counted from the end of this index
    …     the files' bytes

The router packs it from a version's blobs, which it has checked, or from the operator's files that a function mounts
(`scheduling.hostfiles`); a sandbox maps it and reads from the mapping. It may trust what the router wrote and checks
the ranges all the same: they become addresses.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from wisp.errors import InvalidFrame

_INDEX_BYTES = struct.Struct("<I")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleEntry:
    """`path` is relative, with single slashes; its `length` bytes lie at `offset`, from the segment's start."""

    path: str
    offset: int
    length: int


def encode_index(files: Iterable[tuple[str, int]]) -> bytes:
    """What stands before the bytes of these (path, length) pairs, which follow in the same order."""
    rows, at = [], 0
    for path, length in files:
        rows.append((path, at, length))
        at += length
    index = json.dumps(rows, separators=(",", ":")).encode()
    return _INDEX_BYTES.pack(len(index)) + index


def decode_index(segment: memoryview) -> tuple[BundleEntry, ...]:
    """Raises `InvalidFrame` unless every file lies inside the segment."""
    try:
        (length,) = _INDEX_BYTES.unpack_from(segment)
        rows = json.loads(bytes(segment[_INDEX_BYTES.size : _INDEX_BYTES.size + length]))
        start = _INDEX_BYTES.size + length
        entries = tuple(BundleEntry(path=path, offset=start + at, length=size) for path, at, size in rows)
    except (struct.error, ValueError, TypeError) as error:
        raise InvalidFrame("a bundle without an index") from error
    for entry in entries:
        if entry.offset < start or entry.length < 0 or entry.offset + entry.length > len(segment):
            raise InvalidFrame(f"a bundle's file does not lie inside it: {entry.path!a}")
    return entries

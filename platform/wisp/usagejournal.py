"""A node's record of what its ledger has not delivered yet: it outlives the process, not the machine.

One file for each life of a node holds the batch that is being counted and the one that is being delivered, in two
halves that take turns. Records go into a shared mapping, so they are the kernel's the moment they are written: SIGKILL
loses none that was written whole, and a half-written one fails its checksum. Nothing is synchronised to the disk; a
machine that loses power loses what was not delivered.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from zlib import crc32

from wisp.errors import InvalidName
from wisp.names import FunctionName, TenantName, parse_account, parse_tenant
from wisp.registry.usage import METRICS, OUTCOMES, Use

log = logging.getLogger(__name__)

HALF_BYTES: Final = 4 * 1024 * 1024
"""At 2,000 requests a second some twelve seconds; then the half is written anew with sums for records."""
SUFFIX: Final = ".usage"
KEPT_S: Final = 7 * 24 * 3600
"""A slot of the registry forgets a life after a day more: an older file might be counted twice."""
MAX_FILES: Final = 64
HEAD: Final = struct.Struct("<QQ")
"""The batch's number, and how often its half was written anew. Both are the seed of its records' checksums, so that
what the half held before is none of its records."""
RECORD: Final = struct.Struct(f"<IHIQ{len(METRICS)}Q")
"""Checksum of the rest, bytes of the text, hour, requests, sums; then "tenant function outcome"."""
REST: Final = struct.Struct(f"<HIQ{len(METRICS)}Q")
"""A record behind its checksum."""
CHECKSUM_BYTES: Final = 4

Key = tuple[int, TenantName, FunctionName]
"""An hour since 1970, tenant and function."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """What is delivered under one number of one life. `used`: what is still to be delivered."""

    life: str
    sequence: int
    used: dict[Key, Use] = field(default_factory=dict)
    file: Path | None = None
    """Whose last batch it is: removed when this is delivered."""

    def add(self, key: Key, outcome: str, count: int, sums: Sequence[int]) -> None:
        use = self.used.get(key)
        if use is None:
            use = self.used[key] = Use()
        use.add(outcome, count, sums)


class Full(Exception):
    """The half has no room for the record."""


class Journal:
    """One life's file. Raises `OSError` if it cannot be made; afterwards writing it fails only as `Full`."""

    def __init__(self, directory: Path, life: str) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = directory / f"{life}{SUFFIX}"
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Without the blocks, a full disk would end the process by a signal at some later write.
            os.posix_fallocate(fd, 0, 2 * HALF_BYTES)
            self._map = mmap.mmap(fd, 2 * HALF_BYTES)
        except BaseException:
            self.path.unlink()
            raise
        finally:
            os.close(fd)
        self._sequence = self._rewrites = self._seed = self._at = self._end = 0

    def begin(self, sequence: int) -> None:
        """What follows belongs to this batch; the one before the last has been delivered."""
        self._start(sequence, 0)

    def _start(self, sequence: int, rewrites: int) -> None:
        self._sequence, self._rewrites = sequence, rewrites
        head, start = HEAD.pack(sequence, rewrites), sequence % 2 * HALF_BYTES
        self._seed = crc32(head)
        self._map[start : start + HEAD.size] = head
        self._at, self._end = start + HEAD.size, start + HALF_BYTES

    def append(self, hour: int, text: bytes, count: int, sums: Sequence[int]) -> None:
        """Raises `Full`."""
        at = self._at
        end = at + RECORD.size + len(text)
        if end > self._end:
            raise Full
        rest = REST.pack(len(text), hour, count, *sums) + text
        self._map[at:end] = crc32(rest, self._seed).to_bytes(CHECKSUM_BYTES, "little") + rest
        self._at = end

    def rewrite(self, used: Mapping[Key, Use]) -> None:
        """The batch again, one record for each sum. A process that is killed meanwhile loses of it what was not yet
        rewritten. Raises `Full`."""
        self._start(self._sequence, self._rewrites + 1)
        for (hour, tenant, function), use in used.items():
            sums: Sequence[int] = use.sums
            for outcome, count in use.outcomes.items():
                self.append(hour, f"{tenant} {function} {outcome}".encode(), count, sums)
                sums = (0,) * len(METRICS)

    def close(self) -> None:
        self._map.close()

    def remove(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)


def _records(data: bytes) -> Iterator[tuple[int, str, int, tuple[int, ...]]]:
    at, seed = HEAD.size, crc32(data[: HEAD.size])
    while at + RECORD.size <= len(data):
        crc, length, hour, count, *sums = RECORD.unpack_from(data, at)
        end = at + RECORD.size + length
        body = data[at + CHECKSUM_BYTES : end]
        if not length or end > len(data) or crc32(body, seed) != crc:
            return
        yield hour, data[at + RECORD.size : end].decode(), count, tuple(sums)
        at = end


def _read(path: Path) -> list[Batch]:
    data = path.read_bytes()
    batches = []
    for start in (0, HALF_BYTES):
        half = data[start : start + HALF_BYTES]
        if len(half) < HEAD.size:
            continue
        sequence, _ = HEAD.unpack_from(half)
        batch = Batch(life=path.name.removesuffix(SUFFIX), sequence=sequence)
        for hour, text, count, sums in _records(half):
            with contextlib.suppress(ValueError, InvalidName):
                tenant, function, outcome = text.split(" ")
                if outcome in OUTCOMES:
                    batch.add((hour, parse_tenant(tenant), parse_account(function)), outcome, count, sums)
        if sequence and batch.used:
            batches.append(batch)
    return sorted(batches, key=lambda batch: batch.sequence)


def left_behind(directory: Path) -> list[Batch]:
    """What former lives did not deliver, or do not know that they did; each life's in order. Files that hold nothing,
    or that are too old to be delivered once only, are removed."""
    batches: list[Batch] = []
    files = sorted(directory.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime) if directory.is_dir() else []
    for number, path in enumerate(files):
        if time.time() - path.stat().st_mtime > KEPT_S or number < len(files) - MAX_FILES:
            log.error("%s: usage that was never delivered is given up: it is too old, or there is too much", path)
            path.unlink()
            continue
        found = _read(path)
        if not found:
            path.unlink()
            continue
        found[-1].file = path
        batches += found
    return batches

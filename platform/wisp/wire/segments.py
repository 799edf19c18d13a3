"""Sealed shared memory. The trusted side creates it and fixes its size; whoever maps it checks the seals first.

A memfd that its peer could still shrink would kill its reader (SIGBUS), and one that could grow escapes every budget,
so an unsealed descriptor is refused. See memfd_create(2) and fcntl(2), "File sealing".
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from wisp.errors import InvalidFrame

# fcntl.F_ADD_SEALS and friends are missing from Python 3.11's module on some builds; the numbers are Linux's ABI.
F_ADD_SEALS = 1033
F_GET_SEALS = 1034
SEAL_SEAL, SEAL_SHRINK, SEAL_GROW, SEAL_WRITE = 0x1, 0x2, 0x4, 0x8
FIXED = SEAL_SEAL | SEAL_SHRINK | SEAL_GROW
FROZEN = FIXED | SEAL_WRITE
PUNCH_HOLE_KEEP_SIZE = 0x3

# The standard library has posix_fallocate, but no punching of holes.
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)


def create_fixed(name: str, size_bytes: int) -> int:
    """A new segment of exactly `size_bytes`, all zero, that nobody can resize. Pages cost nothing until touched."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, F_ADD_SEALS, FIXED)
    except BaseException:
        os.close(fd)
        raise
    return fd


def create_frozen(name: str, chunks: Iterable[bytes | memoryview]) -> int:
    """A new segment that holds these bytes and can never change again."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, F_ADD_SEALS, FROZEN)
    except BaseException:
        os.close(fd)
        raise
    return fd


def require_seals(fd: int, seals: int) -> int:
    """The segment's size in bytes. Raises `InvalidFrame` if the descriptor is no memfd, lacks a seal, or is empty."""
    try:
        present = fcntl.fcntl(fd, F_GET_SEALS)
    except OSError as error:
        raise InvalidFrame("a descriptor is not a memory segment") from error
    if present & seals != seals:
        raise InvalidFrame(f"a segment lacks seals: has {present:#x}, needs {seals:#x}")
    size_bytes = os.fstat(fd).st_size
    if size_bytes == 0:
        raise InvalidFrame("an empty segment")
    return size_bytes


def clear(fd: int, used_bytes: int, start: int = 0) -> None:
    """Gives the pages of `used_bytes` from `start` on, where a page begins, back to the kernel: they read as zero from
    now on, in every process."""
    length = (used_bytes + mmap.PAGESIZE - 1) & -mmap.PAGESIZE
    if length > 0 and _fallocate(fd, PUNCH_HOLE_KEEP_SIZE, start, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Segment:
    """A mapped segment. Owns the mapping, and the descriptor too; `close` is idempotent."""

    def __init__(self, fd: int, *, writable: bool = True) -> None:
        """Takes the descriptor over. Raises `InvalidFrame` if it is empty or not sealed against resizing; if not
        `writable`, against writing too."""
        try:
            self.size_bytes = require_seals(fd, FIXED if writable else FROZEN)
            protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
            self.map = mmap.mmap(fd, self.size_bytes, flags=mmap.MAP_SHARED, prot=protection)
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd
        self.view = memoryview(self.map)

    @classmethod
    def create(cls, name: str, size_bytes: int) -> Self:
        return cls(create_fixed(name, size_bytes))

    def clear(self, used_bytes: int, start: int = 0) -> None:
        """See `clear`; the mapping stays."""
        clear(self.fd, min(used_bytes, self.size_bytes - start), start)

    def close(self) -> None:
        if self.fd >= 0:
            self.view.release()
            self.map.close()
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

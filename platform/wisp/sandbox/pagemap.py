"""Which pages of a memory hold anything, as the kernel says: /proc/self/pagemap (proc(5)).

A page of private memory that has no entry there was not touched since it was given back, and reads as zero. One that
was swapped out has an entry, so what is written over by this list is everything that may be anything else.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from typing import Any, Final, NamedTuple

from wisp.wire import kernel

ENTRY_BYTES: Final = 8
TOP: Final = 7
"""The byte of an entry (little-endian) that says whether there is a page, here or in the swap."""
_RUNS: Final = re.compile(rb"[^\0]+")

_memset = ctypes.PyDLL(None).memset
"""To be called with ctypes objects, see `capi`."""


class Held(NamedTuple):
    """Pages that hold something, in runs of (address, bytes)."""

    pages: int
    runs: tuple[tuple[Any, Any], ...]

    def clear(self) -> None:
        """Writes zeros over all of them. The pages stay."""
        for address, length in self.runs:
            _memset(address, 0, length)


def open_pagemap() -> int:
    """A descriptor, -1 where the kernel shows none. Opened without capabilities: the kernel keeps with it whether its
    opener may see physical addresses."""
    effective, permitted, _ = kernel.capabilities()
    kernel.set_capabilities(0, permitted)
    try:
        return os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    finally:
        kernel.set_capabilities(effective, permitted)


class PageMap:
    """Owns the descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._base = 0
        self._tops = b""
        self._held = Held(0, ())
        """What these made: a memory mostly looks as it did after the guest before."""

    def held(self, base: int, size_bytes: int) -> Held | None:
        """Of the memory that begins there; None where nobody knows. Both are multiples of a page."""
        if self._fd < 0:
            return None
        length = size_bytes // mmap.PAGESIZE * ENTRY_BYTES
        entries = os.pread(self._fd, length, base // mmap.PAGESIZE * ENTRY_BYTES)
        if len(entries) != length:
            return None
        tops = entries[TOP::ENTRY_BYTES]
        if tops != self._tops or base != self._base:
            self._tops, self._base, self._held = tops, base, _held(base, tops)
        return self._held

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _held(base: int, tops: bytes) -> Held:
    spans = [found.span() for found in _RUNS.finditer(tops)]
    runs = tuple(
        (ctypes.c_size_t(base + start * mmap.PAGESIZE), ctypes.c_size_t((end - start) * mmap.PAGESIZE))
        for start, end in spans
    )
    return Held(sum(end - start for start, end in spans), runs)

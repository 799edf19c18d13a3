"""The linear memory of the one guest that a sandbox runs at a time: one reservation, used again for every invocation.

wasmtime lets the embedder supply memories (wasmtime/config.h, wasmtime_memory_creator). wisp does, for three reasons: a
refused `memory.grow` is seen (no other part of the C API tells of it, and a guest that then traps has to be told
`memory_exceeded`); the base never moves and the size is known here, so a host call reads guest memory without asking
the engine; and the peak is known even when the start function traps.

The reservation is what compiled code relies on instead of bounds checks: everything that a 32-bit index and a static
offset can reach, and the guard behind it, is either the guest's own or inaccessible. So pages above the current size
are PROT_NONE at every moment, and at a store's end all that the guest could write to is zero again: what holds anything
(`sandbox.pagemap`) is overwritten, or given back to the kernel, which hands pages out zeroed (`sandbox.habits` says
which).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import lru_cache
from typing import Final

from wisp.sandbox import capi
from wisp.sandbox.habits import CLEARED_BYTES, Habit
from wisp.sandbox.pagemap import PageMap

PROT_NONE: Final = 0
PROT_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE
MAP_PRIVATE_ANONYMOUS_NORESERVE: Final = 0x02 | 0x20 | 0x4000
MADV_DONTNEED: Final = 4
MADV_NOHUGEPAGE: Final = 15
MADV_DONTDUMP: Final = 16
MAP_FAILED: Final = (1 << 64) - 1

_libc = ctypes.CDLL(None, use_errno=True)
_mmap, _mprotect, _madvise = _libc.mmap, _libc.mprotect, _libc.madvise
_mmap.restype = ctypes.c_size_t
_mmap.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_mprotect.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
_madvise.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)

_cell = lru_cache(maxsize=64)(ctypes.c_size_t.from_address)
"""Places that the engine wants an answer in lie at few addresses, on its stack."""


class Arena:
    """`base` and `size_bytes` describe the current guest's memory; `limit_bytes` is set before each instantiation.

    An exception that left one of its callbacks would be taken for success: for memory that is not there, or not clean.
    So it ends the process, and with it only the request in it.
    """

    def __init__(self, pages: PageMap) -> None:
        """Takes it over."""
        self.base = 0
        self.memory = memoryview(bytearray())
        """All of the reservation, most of it inaccessible: `sandbox.memory` checks before it touches any of it. Slices
        of one view cost a fraction of a ctypes object each."""
        self.size_bytes = 0
        self.limit_bytes = 0
        self.peak_bytes = 0
        self.refused = False
        """Whether this invocation was refused memory, at its start or in a `memory.grow`."""
        self.failure = ""
        """Why this invocation got no memory through no fault of its guest's."""
        self._reserved_bytes = 0
        self._mapped_bytes = 0
        self._accessible_bytes = 0
        self._in_use = False
        self._pages = pages
        self._habit = Habit()
        self._found_pages = 0
        """That held zeros when this guest began."""
        # wasmtime holds only their addresses; they live as long as the arena.
        self._get = capi.GetMemory(self._get_memory)
        self._grow = capi.GrowMemory(self._grow_memory)
        self._finalize = capi.Finalizer(self._finalize_memory)
        self._new = capi.NewMemory(self._new_memory)
        self._told = capi.linear_memory(self._get, self._grow, self._finalize)
        self.creator: int = capi.address_of(self._new)

    def begin(self, limit_bytes: int, habit: Habit) -> None:
        """Before each instantiation: what this guest may have, and the habit of its function."""
        self.limit_bytes = limit_bytes
        self._habit = habit
        self.peak_bytes = 0
        self.refused = False
        self.failure = ""

    def _fail(self, why: str) -> int:
        self.failure = why
        return capi.make_error(why.encode())

    def _new_memory(
        self, _env: int, _type: int, minimum: int, _maximum: int, reserved: int, guard: int, out: int
    ) -> int:
        try:
            if self._in_use:
                return self._fail("one memory at a time")
            if minimum > self.limit_bytes:
                self.refused = True
                return capi.make_error(b"the module's minimum memory is above its limit")
            if self.base == 0 and not self._reserve(reserved, guard):
                return self._fail("no address space for a memory")
            if reserved != self._reserved_bytes or reserved + guard != self._mapped_bytes:
                return self._fail("a memory of another shape")
            if not self._make_accessible(minimum):
                return self._fail("no pages for a memory")
            self.size_bytes = self.peak_bytes = minimum
            self._in_use = True
            capi.fill_linear_memory(out, self._told)
        except BaseException:  # noqa: BLE001 - see the class
            os.abort()
        return 0

    def _reserve(self, reserved: int, guard: int) -> bool:
        base = _mmap(0, reserved + guard, PROT_NONE, MAP_PRIVATE_ANONYMOUS_NORESERVE, -1, 0)
        if base == MAP_FAILED:
            return False
        # A huge page would cost a 2 MiB clearing for the first byte touched; a core dump would carry guests' data.
        _madvise(base, reserved, MADV_NOHUGEPAGE)
        _madvise(base, reserved, MADV_DONTDUMP)
        self.base, self._reserved_bytes, self._mapped_bytes = base, reserved, reserved + guard
        self.memory = memoryview((ctypes.c_ubyte * reserved).from_address(base)).cast("B")
        return True

    def _make_accessible(self, size: int) -> bool:
        """Exactly the first `size` bytes; the rest traps. A guest after a larger one must not reach its pages."""
        have = self._accessible_bytes
        if size > have:
            if _mprotect(self.base + have, size - have, PROT_READ_WRITE) != 0:
                return False
        elif size < have and _mprotect(self.base + size, have - size, PROT_NONE) != 0:
            return False
        self._accessible_bytes = size
        return True

    def _get_memory(self, _env: int, out_size: int, out_capacity: int) -> int:
        try:
            _cell(out_size).value, _cell(out_capacity).value = self.size_bytes, self._reserved_bytes
        except BaseException:  # noqa: BLE001 - see the class
            os.abort()
        return self.base

    def _grow_memory(self, _env: int, size: int) -> int:
        try:
            if size > self.limit_bytes or size > self._reserved_bytes or not self._make_accessible(size):
                self.refused = True
                return capi.make_error(b"memory limit")
            self.size_bytes = self.peak_bytes = size
        except BaseException:  # noqa: BLE001 - see the class
            os.abort()
        return 0

    def _finalize_memory(self, _env: int) -> None:
        try:
            self._clean(self.size_bytes)
        except BaseException:  # noqa: BLE001 - see the class
            os.abort()
        self.size_bytes = 0
        self._in_use = False

    def _clean(self, size: int) -> None:
        held = self._pages.held(self.base, size) if size <= CLEARED_BYTES else None
        if held is not None:
            pages, habit = held.pages, self._habit
            habit.note(pages - self._found_pages)
            if habit.clears(pages):
                held.clear()
                self._found_pages = pages
                return
        if size and _madvise(self.base, size, MADV_DONTNEED) != 0:
            # Without this call the next guest would read this one's data: end the process rather than go on.
            os.abort()
        self._found_pages = 0

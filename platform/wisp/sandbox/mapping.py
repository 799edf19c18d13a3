"""A bundle's frozen segment, mapped: an address for host calls to copy from. No descriptor stays open for it."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Final

from wisp.wire.bundles import BundleEntry, decode_index
from wisp.wire.segments import FROZEN, require_seals

MAP_FAILED: Final = (1 << 64) - 1

_libc = ctypes.CDLL(None, use_errno=True)
_mmap, _munmap = _libc.mmap, _libc.munmap
_mmap.restype = ctypes.c_size_t
_mmap.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_munmap.argtypes = (ctypes.c_size_t, ctypes.c_size_t)


class MappedBundle:
    """Owns the mapping; Python's `mmap` would keep a descriptor for each of them, of which a sandbox has few.

    The bytes can never change again, so they are read where they lie. `close` is idempotent; nothing may read after.
    """

    def __init__(self, fd: int) -> None:
        """Takes the descriptor over. Raises `InvalidFrame` for what is no frozen segment with an index."""
        self._address = 0
        try:
            self._size = require_seals(fd, FROZEN)
            address = _mmap(0, self._size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
            if address == MAP_FAILED:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        finally:
            os.close(fd)
        self._address = address
        try:
            self.entries: tuple[BundleEntry, ...] = decode_index(
                memoryview((ctypes.c_char * self._size).from_address(address)).cast("B")
            )
        except BaseException:
            self.close()
            raise

    def address(self, offset: int, length: int) -> int:
        """Where `length` bytes from `offset` begin."""
        if not self._address or offset < 0 or length < 0 or offset + length > self._size:
            raise ValueError(f"{length} bytes at {offset} of a bundle of {self._size}")
        return self._address + offset

    def close(self) -> None:
        if self._address:
            _munmap(self._address, self._size)
            self._address = 0

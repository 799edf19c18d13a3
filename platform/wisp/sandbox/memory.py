"""Guest memory as host functions may touch it: every pointer and length is hostile until it has been through here.

Offsets are checked against the current size at each access, since `memory.grow` changes it between calls. Python's
integers do not wrap, so `pointer + length` is exact. The functions return or take copies; a view is handed out only
where the caller copies at once.
"""

from __future__ import annotations

import struct

from wisp.sandbox.arena import Arena

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class BadPointer(Exception):
    """A guest pointer that leaves its memory, or is not aligned where the ABI demands it."""


def check(arena: Arena, pointer: int, length: int) -> int:
    """The host address of `length` bytes at a guest pointer. Raises `BadPointer`."""
    if pointer < 0 or length < 0 or pointer + length > arena.size_bytes:
        raise BadPointer(f"{length} bytes at {pointer}")
    return arena.base + pointer


def aligned(pointer: int, alignment: int) -> int:
    if pointer % alignment:
        raise BadPointer(f"{pointer} is not aligned to {alignment}")
    return pointer


def read(arena: Arena, pointer: int, length: int) -> bytes:
    return view(arena, pointer, length).tobytes()


def read_u32s(arena: Arena, pointer: int, count: int) -> tuple[int, ...]:
    """`count` must have been bounded by the caller."""
    return struct.unpack(f"<{count}I", read(arena, pointer, 4 * count))


def write(arena: Arena, pointer: int, data: bytes) -> None:
    view(arena, pointer, len(data))[:] = data


def write_u32(arena: Arena, pointer: int, value: int) -> None:
    check(arena, pointer, 4)
    _U32.pack_into(arena.memory, pointer, value)


def write_u64(arena: Arena, pointer: int, value: int) -> None:
    check(arena, pointer, 8)
    _U64.pack_into(arena.memory, pointer, value)


def view(arena: Arena, pointer: int, length: int) -> memoryview:
    """The bytes themselves, valid until the guest runs on. A zero-length view is fine anywhere inside."""
    end = pointer + length
    if pointer < 0 or length < 0 or end > arena.size_bytes:
        raise BadPointer(f"{length} bytes at {pointer}")
    return arena.memory[pointer:end]

from __future__ import annotations

import ctypes
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.sandbox import memory
from wisp.sandbox.arena import Arena
from wisp.sandbox.memory import BadPointer
from wisp.sandbox.pagemap import PageMap

SIZE = 4096
NUMBERS = st.integers(-(2**65), 2**65) | st.integers(-2, 2 * SIZE) | st.sampled_from([2**31, 2**32 - 1, 2**32, 2**63])


class Guest:
    """A stretch of this process's memory that an arena takes for its guest's."""

    def __init__(self) -> None:
        self.buffer = (ctypes.c_char * SIZE).from_buffer(bytearray(range(256)) * (SIZE // 256))
        self.arena = Arena(PageMap(-1))
        self.arena.base, self.arena.memory = ctypes.addressof(self.buffer), memoryview(self.buffer).cast("B")
        self.arena.size_bytes = SIZE

    @property
    def content(self) -> bytes:
        return bytes(self.buffer)


@pytest.fixture
def guest() -> Guest:
    return Guest()


@given(NUMBERS, NUMBERS)
def test_rule_3_whatever_passes_the_check_lies_inside(pointer: int, length: int) -> None:
    guest = Guest()
    try:
        address = memory.check(guest.arena, pointer, length)
    except BadPointer:
        assert pointer < 0 or length < 0 or pointer + length > SIZE
    else:
        assert guest.arena.base <= address <= address + length <= guest.arena.base + SIZE


@given(st.integers(0, 2 * SIZE), st.binary(max_size=64))
def test_rule_3_a_write_changes_its_bytes_or_nothing(pointer: int, data: bytes) -> None:
    guest = Guest()
    before = guest.content
    try:
        memory.write(guest.arena, pointer, data)
    except BadPointer:
        assert guest.content == before
    else:
        assert guest.content == before[:pointer] + data + before[pointer + len(data) :]
        assert memory.read(guest.arena, pointer, len(data)) == data


def test_numbers_are_little_endian(guest: Guest) -> None:
    memory.write_u32(guest.arena, 0, 0x01020304)
    memory.write_u64(guest.arena, 8, 2**64 - 2)
    assert guest.content[:4] == bytes((4, 3, 2, 1))
    assert struct.unpack_from("<Q", guest.content, 8) == (2**64 - 2,)
    assert memory.read_u32s(guest.arena, 0, 2) == struct.unpack_from("<II", guest.content)


@pytest.mark.parametrize("length", [0, 1, SIZE])
def test_a_view_is_the_memory_itself(guest: Guest, length: int) -> None:
    view = memory.view(guest.arena, 0, length)
    assert bytes(view) == guest.content[:length]
    view[:] = b"z" * length
    assert guest.content[:length] == b"z" * length


def test_nothing_at_the_very_end_is_inside_and_past_it_is_not(guest: Guest) -> None:
    assert memory.read(guest.arena, SIZE, 0) == b""
    for pointer, length in ((SIZE, 1), (SIZE + 1, 0), (0, SIZE + 1)):
        with pytest.raises(BadPointer):
            memory.read(guest.arena, pointer, length)


@pytest.mark.parametrize(("pointer", "alignment", "fits"), [(0, 8, True), (4, 4, True), (4, 8, False), (7, 4, False)])
def test_alignment_is_checked_where_the_abi_asks_for_it(pointer: int, alignment: int, fits: bool) -> None:
    if fits:
        assert memory.aligned(pointer, alignment) == pointer
    else:
        with pytest.raises(BadPointer):
            memory.aligned(pointer, alignment)

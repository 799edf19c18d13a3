"""Sealed memory: what cannot be done to it, tried."""

from __future__ import annotations

import mmap
import os
import tempfile

import pytest

from wisp.errors import InvalidFrame
from wisp.wire.segments import FIXED, FROZEN, Segment, create_fixed, create_frozen, require_seals

PAGE = mmap.PAGESIZE


def unsealed(size_bytes: int = PAGE) -> int:
    fd = os.memfd_create("unsealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    return fd


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("writable", [True, False])
def test_an_unsealed_descriptor_is_refused_and_closed(writable: bool) -> None:
    fd = unsealed()
    with pytest.raises(InvalidFrame, match="lacks seals"):
        Segment(fd, writable=writable)
    assert not is_open(fd)


def test_what_is_no_memory_segment_is_refused_and_closed() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * PAGE)
        for fd in (os.dup(file.fileno()), *os.pipe()):
            with pytest.raises(InvalidFrame, match="not a memory segment"):
                Segment(fd)
            assert not is_open(fd)


def test_an_empty_segment_is_refused() -> None:
    for fd in (create_fixed("empty", 0), create_frozen("empty", [])):
        with pytest.raises(InvalidFrame, match="empty"):
            Segment(fd)
        assert not is_open(fd)


def test_a_fixed_segment_can_be_written_and_not_resized() -> None:
    fd = create_fixed("fixed", 3 * PAGE)
    with Segment(os.dup(fd)) as segment:
        assert segment.size_bytes == 3 * PAGE
        segment.view[:3] = b"abc"
        for size in (0, PAGE, 3 * PAGE - 1, 3 * PAGE + 1):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 3 * PAGE)
        assert os.pread(fd, 3, 0) == b"abc"
    os.close(fd)


def test_the_seals_of_a_fixed_segment_are_final() -> None:
    fd = create_fixed("fixed", PAGE)
    assert require_seals(fd, FIXED) == PAGE
    with pytest.raises(InvalidFrame, match="lacks seals"):
        require_seals(fd, FROZEN)
    os.close(fd)


def test_a_fixed_segment_is_no_body() -> None:
    fd = create_fixed("fixed", PAGE)
    with pytest.raises(InvalidFrame):
        Segment(fd, writable=False)


def test_a_frozen_segment_holds_its_bytes_and_cannot_be_written() -> None:
    fd = create_frozen("frozen", [b"one ", memoryview(b"two "), b"", b"three"])
    assert require_seals(fd, FROZEN) == 13
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    with pytest.raises(PermissionError):
        mmap.mmap(fd, 13, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    with Segment(os.dup(fd), writable=False) as segment:
        assert bytes(segment.view) == b"one two three"
        with pytest.raises(TypeError):
            segment.view[0] = 0
    os.close(fd)


def test_a_frozen_segment_gives_no_writable_mapping() -> None:
    with pytest.raises(PermissionError):
        Segment(create_frozen("frozen", [b"x"]))


@pytest.mark.parametrize(("used", "cleared"), [(1, PAGE), (PAGE, PAGE), (PAGE + 1, 2 * PAGE), (10**9, 3 * PAGE)])
def test_what_is_cleared_reads_as_zero_in_every_mapping(used: int, cleared: int) -> None:
    fd = create_fixed("fixed", 3 * PAGE)
    with Segment(os.dup(fd)) as ours, Segment(fd) as theirs:
        ours.view[:] = b"\xaa" * (3 * PAGE)
        assert theirs.view[-1] == 0xAA
        ours.clear(used)
        assert bytes(theirs.view) == bytes(cleared) + b"\xaa" * (3 * PAGE - cleared)


def test_clearing_nothing_clears_nothing() -> None:
    with Segment.create("fixed", PAGE) as segment:
        segment.view[0] = 7
        segment.clear(0)
        assert segment.view[0] == 7


def test_close_is_idempotent_and_ends_the_view() -> None:
    segment = Segment.create("fixed", PAGE)
    segment.close()
    segment.close()
    with pytest.raises(ValueError, match="released"):
        segment.view[0]

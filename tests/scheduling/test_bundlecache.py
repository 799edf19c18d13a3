"""Bundles in frozen segments: whole, bounded, and open for as long as somebody holds one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wisp.errors import Unavailable
from wisp.scheduling import bundlecache
from wisp.scheduling.bundlecache import BundleCache, BundleSegment
from wisp.wire.bundles import decode_index
from wisp.wire.segments import FROZEN, Segment, require_seals


def segment(directory: Path, content: bytes, *, length: int | None = None) -> BundleSegment:
    path = directory / "file"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        return BundleSegment([("words/a.txt", len(content) if length is None else length, fd)])
    finally:
        os.close(fd)


def test_a_segment_holds_the_files_and_is_frozen(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    held = segment(tmp_path, content)
    assert require_seals(held.fd, FROZEN) == held.size_bytes
    with Segment(os.dup(held.fd), writable=False) as mapped:
        (entry,) = decode_index(mapped.view)
        assert (entry.path, bytes(mapped.view[entry.offset : entry.offset + entry.length])) == ("words/a.txt", content)


def test_a_file_that_is_too_short_leaves_nothing(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(Unavailable, match="shorter"):
        segment(tmp_path, b"four", length=5)
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_is_let_go_stays_open_for_whoever_still_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundlecache, "MAX_SEGMENTS", 1)
    cache = BundleCache()
    held = segment(tmp_path, b"one")
    cache.hold("one", held)
    cache.hold("two", segment(tmp_path, b"two"))
    assert cache.peek("one") is None
    fd = held.fd
    assert os.fstat(fd).st_size == held.size_bytes
    del held
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_what_was_used_longest_ago_goes_first_and_bytes_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundlecache, "MAX_SEGMENT_BYTES", 2500)
    cache = BundleCache()
    for name in ("one", "two"):
        cache.hold(name, segment(tmp_path, bytes(1000)))
    assert cache.peek("one") is not None
    cache.hold("three", segment(tmp_path, bytes(1000)))
    assert [name for name in ("one", "two", "three") if cache.peek(name)] == ["one", "three"]
    cache.hold("huge", segment(tmp_path, bytes(3000)))
    assert [name for name in ("one", "three", "huge") if cache.peek(name)] == ["huge"]

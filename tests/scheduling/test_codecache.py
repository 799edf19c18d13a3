"""Compiled code is believed only under this node's HMAC, for this engine and this module."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wisp.errors import InvalidFrame
from wisp.names import Digest
from wisp.scheduling import codecache
from wisp.scheduling.codecache import CodeCache, load_key
from wisp.wire.segments import FROZEN, require_seals

ONE = Digest("sha256:" + "1" * 64)
TWO = Digest("sha256:" + "2" * 64)


def make(directory: Path, key: bytes = b"k" * 32, fingerprint: str = "engine 1") -> CodeCache:
    cache = CodeCache(directory, key)
    cache.set_fingerprint(fingerprint)
    return cache


async def test_an_entry_survives_the_process_and_is_frozen(tmp_path: Path) -> None:
    first = make(tmp_path)
    assert await first.segment(ONE) is None
    await first.put(ONE, b"native code")
    held = await make(tmp_path).segment(ONE)
    assert held is not None
    assert require_seals(held.fd, FROZEN) == len(b"native code")
    assert os.pread(held.fd, 100, 0) == b"native code"


@pytest.mark.parametrize("position", [0, 31, 32, 40, -1])
async def test_an_edited_entry_is_not_believed_and_is_removed(tmp_path: Path, position: int) -> None:
    await make(tmp_path).put(ONE, b"native code")
    (path,) = tmp_path.glob("*.cwasm")
    entry = bytearray(path.read_bytes())
    entry[position] ^= 1
    path.write_bytes(entry)
    assert await make(tmp_path).segment(ONE) is None
    assert not path.exists()


async def test_an_entry_is_not_believed_for_another_module_engine_or_key(tmp_path: Path) -> None:
    cache = make(tmp_path)
    await cache.put(ONE, b"native code")
    (path,) = tmp_path.glob("*.cwasm")
    entry = path.read_bytes()
    for other, digest in (
        (make(tmp_path), TWO),
        (make(tmp_path, fingerprint="engine 2"), ONE),
        (make(tmp_path, key=b"x" * 32), ONE),
    ):
        other._path(digest).write_bytes(entry)
        assert await other.segment(digest) is None


async def test_what_is_let_go_stays_open_for_whoever_still_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codecache, "MAX_SEGMENTS", 1)
    cache = make(tmp_path)
    held = await cache.put(ONE, b"one")
    await cache.put(TWO, b"two")
    assert cache.peek(ONE) is None
    fd = held.fd
    assert os.pread(fd, 10, 0) == b"one"
    del held
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_one_sandbox_cannot_change_the_engine(tmp_path: Path) -> None:
    cache = make(tmp_path)
    cache.set_fingerprint("engine 1")
    with pytest.raises(InvalidFrame, match="another engine"):
        cache.set_fingerprint("engine 2")


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "code.key"
    key = load_key(path)
    assert load_key(path) == key
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="remove it"):
        load_key(path)

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from pathlib import Path

import pytest

from registry.samples import digest
from wisp.errors import BlobDamaged, BlobMissing, BlobUnavailable, InvalidSettings
from wisp.names import Digest
from wisp.registry.blobs import ABANDONED_S, CHUNK_BYTES, DirectoryBlobs


@pytest.fixture
def blobs(tmp_path: Path) -> DirectoryBlobs:
    return DirectoryBlobs(tmp_path / "blobs")


def stored(blobs: DirectoryBlobs, name: Digest) -> Path:
    return blobs.root / "sha256" / name[7:9] / name[9:]


async def read(blobs: DirectoryBlobs, name: Digest) -> bytes:
    with os.fdopen(await blobs.open(name), "rb") as source:
        return source.read()


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
async def test_a_blob_comes_back_by_its_digest(blobs: DirectoryBlobs, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    upload = tmp_path / "upload"
    upload.write_bytes(data)
    name = await blobs.put_bytes(data)
    assert name == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert await read(blobs, name) == data
    assert await blobs.delete(name)
    assert await blobs.put_file(upload) == name
    assert await read(blobs, name) == data
    assert upload.read_bytes() == data
    assert list(blobs.temporary.iterdir()) == []


async def test_blobs_are_listed(blobs: DirectoryBlobs) -> None:
    assert await blobs.list() == ()
    names = [await blobs.put_bytes(text) for text in (b"a", b"b", b"a")]
    (blobs.root / "sha256" / "ab").mkdir(exist_ok=True)
    (blobs.root / "sha256" / "ab" / "stray").touch()
    assert await blobs.list() == tuple(sorted(set(names)))
    assert await blobs.exists(names[0])
    assert not await blobs.exists(digest("never put"))


async def test_a_blob_is_private_and_not_to_be_written(blobs: DirectoryBlobs) -> None:
    name = await blobs.put_bytes(b"a")
    descriptor = await blobs.open(name)
    try:
        assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o400
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(descriptor, b"x")
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


async def test_damage_is_noticed_and_the_next_put_heals_it(blobs: DirectoryBlobs) -> None:
    name = await blobs.put_bytes(b"module")
    stored(blobs, name).chmod(0o600)
    stored(blobs, name).write_bytes(b"Module")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BlobDamaged, match="damaged"):
        await blobs.open(name)
    assert len(os.listdir("/proc/self/fd")) == before
    await blobs.put_bytes(b"module")
    assert await read(blobs, name) == b"module"


async def test_a_link_in_a_blobs_place_is_not_followed(blobs: DirectoryBlobs, tmp_path: Path) -> None:
    name = await blobs.put_bytes(b"module")
    (tmp_path / "elsewhere").write_bytes(b"module")
    stored(blobs, name).unlink()
    stored(blobs, name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BlobUnavailable):
        await blobs.open(name)


async def test_a_missing_blob_is_unavailable_and_cannot_be_deleted(blobs: DirectoryBlobs) -> None:
    with pytest.raises(BlobMissing, match="missing"):
        await blobs.open(digest("never put"))
    assert not await blobs.delete(digest("never put"))


async def test_a_blob_is_spared_while_it_is_young_and_a_put_makes_it_young(blobs: DirectoryBlobs) -> None:
    name = await blobs.put_bytes(b"a")
    assert not await blobs.delete(name, unless_put_within_s=60)
    os.utime(stored(blobs, name), (time.time() - 100, time.time() - 100))
    await blobs.put_bytes(b"a")
    assert not await blobs.delete(name, unless_put_within_s=60)
    os.utime(stored(blobs, name), (time.time() - 100, time.time() - 100))
    assert await blobs.delete(name, unless_put_within_s=60)
    assert not await blobs.exists(name)


async def test_equal_puts_at_once(blobs: DirectoryBlobs) -> None:
    data = os.urandom(100_000)
    assert len(set(await asyncio.gather(*(blobs.put_bytes(data) for _ in range(8))))) == 1
    assert len(await blobs.list()) == 1
    assert list(blobs.temporary.iterdir()) == []


async def test_a_put_that_fails_leaves_nothing(blobs: DirectoryBlobs, tmp_path: Path) -> None:
    with pytest.raises(BlobUnavailable):
        await blobs.put_file(tmp_path)
    with pytest.raises(BlobUnavailable):
        await blobs.put_file(tmp_path / "none")
    assert list(blobs.temporary.iterdir()) == []
    assert await blobs.list() == ()


def test_what_a_dead_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path)
    for name, age_s in (("dead", ABANDONED_S + 60), ("living", 5)):
        (blobs.temporary / name).touch()
        os.utime(blobs.temporary / name, (time.time() - age_s, time.time() - age_s))
    DirectoryBlobs(tmp_path)
    assert [path.name for path in blobs.temporary.iterdir()] == ["living"]


def test_a_place_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSettings):
        DirectoryBlobs(tmp_path / "file")

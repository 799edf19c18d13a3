"""What every store elsewhere has to do: the same tests on Redis and on a real S3 server."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from registry.conftest import Server, running_server
from registry.remotes import Meddler
from registry.samples import digest as digest_of_text
from wisp.errors import BlobDamaged, BlobMissing, BlobUnavailable, InvalidSettings
from wisp.names import Digest
from wisp.registry.binary import candidates
from wisp.registry.blobs import RemoteBlobs
from wisp.registry.cachedblobs import CachedBlobs
from wisp.registry.keys import blob_key
from wisp.registry.objectblobs import PIECE_BYTES, ObjectBlobs, place
from wisp.registry.redisblobs import CHUNK_BYTES, RedisBlobs
from wisp.registry.registry import Registry

ROOM = 100 << 20
BUCKET = "wisp-blobs"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """One will do here."""
    with running_server(next(candidates())) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
async def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket; how to reach it is in the environment."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret-that-must-not-appear",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    await asyncio.to_thread(reset_bucket, s3_server)
    return f"s3://{BUCKET}/some/where"


def reset_bucket(server: str) -> None:
    httpx.post(f"{server}/moto-api/reset", timeout=30).raise_for_status()
    httpx.put(f"{server}/{BUCKET}", headers={"Authorization": auth()}, timeout=30).raise_for_status()


def auth() -> str:
    return "AWS4-HMAC-SHA256 Credential=an-id/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


@pytest.fixture(params=["redis", "s3"])
async def remote(request: pytest.FixtureRequest, registry: Registry, s3: str) -> RemoteBlobs:
    return RedisBlobs(registry.connection) if request.param == "redis" else ObjectBlobs(s3)


@pytest.fixture
async def meddler(remote: RemoteBlobs) -> Meddler:
    return Meddler(remote)


@pytest.fixture
async def blobs(meddler: Meddler, tmp_path: Path) -> AsyncIterator[CachedBlobs]:
    found = CachedBlobs(meddler, tmp_path / "cache", budget_bytes=ROOM)
    yield found
    await found.aclose()


async def read(blobs: CachedBlobs, name: Digest) -> bytes:
    with os.fdopen(await blobs.open(name), "rb") as source:
        return source.read()


def elsewhere(meddler: Meddler, tmp_path: Path) -> CachedBlobs:
    """The same store, as another node has it."""
    return CachedBlobs(meddler, tmp_path / "other", budget_bytes=ROOM)


def copy_of(blobs: CachedBlobs, name: Digest) -> Path:
    return blobs.local.root / "sha256" / name[7:9] / name[9:]


async def replace(remote: RemoteBlobs, name: Digest, data: bytes) -> None:
    """Puts other bytes where a blob is."""
    await remote.delete(name)
    await remote.put(name, io.BytesIO(data), len(data))


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, PIECE_BYTES + 1])
async def test_what_one_node_puts_another_opens(
    blobs: CachedBlobs, meddler: Meddler, tmp_path: Path, size: int
) -> None:
    data = os.urandom(size)
    (tmp_path / "upload").write_bytes(data)
    name = await blobs.put_file(tmp_path / "upload")
    assert await blobs.put_bytes(data) == name
    assert await read(blobs, name) == data
    assert meddler.fetches == 0
    other = elsewhere(meddler, tmp_path)
    assert await other.exists(name)
    assert await other.list() == (name,)
    assert await read(other, name) == data
    assert await read(other, name) == data
    assert meddler.fetches == 1
    assert await other.delete(name)
    assert not await other.delete(name)
    assert await meddler.list() == ()
    with pytest.raises(BlobMissing):
        await read(other, name)


async def test_callers_share_one_fetch(blobs: CachedBlobs, meddler: Meddler, tmp_path: Path) -> None:
    name = await blobs.put_bytes(b"module")
    other = elsewhere(meddler, tmp_path)
    meddler.gate.clear()
    reads = [asyncio.create_task(read(other, name)) for _ in range(20)]
    await asyncio.wait_for(meddler.waiting.wait(), 30)
    reads[0].cancel()  # the others go on
    meddler.gate.set()
    assert await asyncio.gather(*reads[1:]) == [b"module"] * 19
    assert meddler.fetches == 1


async def test_a_copy_is_checked_whenever_it_is_opened(blobs: CachedBlobs, meddler: Meddler) -> None:
    name = await blobs.put_bytes(b"module")
    copy_of(blobs, name).chmod(0o600)
    copy_of(blobs, name).write_bytes(b"Module")
    assert await read(blobs, name) == b"module"
    assert meddler.fetches == 1


async def test_what_is_damaged_on_the_way_is_fetched_once_more(
    blobs: CachedBlobs, meddler: Meddler, tmp_path: Path
) -> None:
    name = await blobs.put_bytes(b"module")
    meddler.flips = 1
    other = elsewhere(meddler, tmp_path)
    assert await read(other, name) == b"module"
    assert meddler.fetches == 2


async def test_what_is_damaged_in_the_store_is_refused_until_it_is_put_again(
    blobs: CachedBlobs, meddler: Meddler, tmp_path: Path
) -> None:
    name = await blobs.put_bytes(b"module")
    await replace(meddler.remote, name, b"Module")
    other = elsewhere(meddler, tmp_path)
    with pytest.raises(BlobDamaged, match="upload it again"):
        await other.open(name)
    assert meddler.fetches == 2
    with pytest.raises(BlobDamaged):  # remembered: those who repeat it do not reach the store
        await other.open(name)
    assert meddler.fetches == 2
    assert list(other.local.temporary.iterdir()) == []
    assert other.held_bytes == 0
    assert await other.put_bytes(b"module") == name
    assert await read(elsewhere(meddler, tmp_path), name) == b"module"


async def test_a_missing_blob(blobs: CachedBlobs) -> None:
    with pytest.raises(BlobMissing):
        await blobs.open(digest_of_text("never put"))
    assert not await blobs.exists(digest_of_text("never put"))
    assert not await blobs.delete(digest_of_text("never put"))


async def test_copies_outlive_a_store_that_is_down(blobs: CachedBlobs, meddler: Meddler) -> None:
    name = await blobs.put_bytes(b"module")
    meddler.down = True
    assert await read(blobs, name) == b"module"
    with pytest.raises(BlobUnavailable):
        await blobs.open(digest_of_text("another"))
    with pytest.raises(BlobUnavailable):
        await blobs.put_bytes(b"another")


async def test_a_fetch_ends_with_its_deadline(blobs: CachedBlobs, meddler: Meddler, tmp_path: Path) -> None:
    name = await blobs.put_bytes(b"module")
    meddler.gate.clear()
    other = CachedBlobs(meddler, tmp_path / "other", budget_bytes=ROOM, fetch_s=0.2)
    with pytest.raises(BlobUnavailable, match=r"within 0\.2 s"):
        await other.open(name)
    assert list(other.local.temporary.iterdir()) == []


async def test_the_least_recently_used_copies_go(meddler: Meddler, tmp_path: Path) -> None:
    blobs = CachedBlobs(meddler, tmp_path / "cache", budget_bytes=250)
    first, second = [await blobs.put_bytes(bytes([number]) * 100) for number in (1, 2)]
    await read(blobs, first)
    third = await blobs.put_bytes(bytes([3]) * 100)
    assert [copy_of(blobs, name).exists() for name in (first, second, third)] == [True, False, True]
    assert blobs.held_bytes == 200
    held = await blobs.open(first)
    large = await blobs.put_bytes(bytes(1000))  # more than there is room for: it is kept, alone
    assert blobs.held_bytes == 1000
    assert os.read(held, 100) == bytes([1]) * 100  # a descriptor outlives its name
    os.close(held)
    assert await read(blobs, large) == bytes(1000)
    again = CachedBlobs(meddler, tmp_path / "cache", budget_bytes=250)  # a restart finds its copies
    assert again.held_bytes == 1000
    assert await read(again, second) == bytes([2]) * 100
    assert again.held_bytes == 100


async def test_a_young_blob_is_spared(blobs: CachedBlobs) -> None:
    name = await blobs.put_bytes(b"a")
    assert not await blobs.delete(name, unless_put_within_s=600)
    assert await blobs.exists(name)


async def test_a_copy_that_the_store_has_lost_is_collected(blobs: CachedBlobs, meddler: Meddler) -> None:
    name = await blobs.put_bytes(b"a")
    await meddler.remote.delete(name)
    assert await blobs.list() == (name,)
    assert not await blobs.delete(name, unless_put_within_s=600)
    assert await blobs.delete(name)
    assert await blobs.list() == ()


async def test_equal_puts_at_once(blobs: CachedBlobs) -> None:
    data = os.urandom(3 * CHUNK_BYTES)
    assert len(set(await asyncio.gather(*(blobs.put_bytes(data) for _ in range(4))))) == 1
    assert len(await blobs.list()) == 1


async def test_an_unfinished_upload_is_no_blob_and_goes_by_itself(registry: Registry) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= CHUNK_BYTES:
                raise OSError("the disk is gone")
            return super().read(size)

    name = digest_of_text("unfinished")
    remote = RedisBlobs(registry.connection)
    with pytest.raises(OSError, match="gone"):
        await remote.put(name, Broken(bytes(2 * CHUNK_BYTES)), 2 * CHUNK_BYTES)
    assert not await remote.exists(name)
    assert await remote.list() == ()
    assert 0 < await registry.connection.command("TTL", blob_key(name, 0)) <= 3600
    await remote.put(name, io.BytesIO(bytes(2 * CHUNK_BYTES)), 2 * CHUNK_BYTES)
    assert [await registry.connection.command("TTL", blob_key(name, part)) for part in (0, 1)] == [-1, -1]


async def test_a_chunk_that_redis_lost_is_damage(registry: Registry, tmp_path: Path) -> None:
    remote = RedisBlobs(registry.connection)
    blobs = CachedBlobs(remote, tmp_path, budget_bytes=0)
    name = await blobs.put_bytes(bytes(2 * CHUNK_BYTES))
    await blobs.put_bytes(b"pushes the copy out")
    await registry.connection.command("DEL", blob_key(name, 1))
    with pytest.raises(BlobDamaged):
        await blobs.open(name)
    await registry.connection.command("HSET", blob_key(name), "size", "a lot")
    with pytest.raises(BlobDamaged):
        await remote.fetch(name, io.BytesIO())


async def test_objects_lie_under_the_prefix(s3: str) -> None:
    name = digest_of_text("x")
    await ObjectBlobs(s3).put(name, io.BytesIO(b"data"), 4)
    whole = S3Store.from_url(f"s3://{BUCKET}")
    assert [entry["path"] for entry in await whole.list().collect_async()] == [f"some/where/{place(name)}"]


@pytest.mark.parametrize(
    "url", ["s3://", "s3://key:secret@bucket", "s3://bucket?x=y", "s3://bucket#f", "http://x/y", "s3:bucket"]
)
def test_an_object_store_is_a_bucket_without_secrets(url: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        ObjectBlobs(url)
    assert "secret" not in str(caught.value)


async def test_no_secret_is_in_an_error(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(BlobUnavailable) as caught:
        await ObjectBlobs(s3).put(digest_of_text("x"), io.BytesIO(b"data"), 4)
    shown = f"{caught.value} {caught.value.__cause__}"
    assert "must-not-appear" not in shown
    assert "127.0.0.1" not in str(caught.value)

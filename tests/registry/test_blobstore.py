from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from registry.remotes import Meddler
from registry.samples import ACME, draft
from registry.samples import digest as digest_of_text
from wisp.errors import BlobDamaged, BlobMissing, InvalidSettings
from wisp.names import Digest, parse_function
from wisp.registry import blobstore
from wisp.registry.blobs import DirectoryBlobs
from wisp.registry.blobstore import BlobStore, open_blobs
from wisp.registry.cachedblobs import CachedBlobs
from wisp.registry.garbage import collect_garbage
from wisp.registry.keys import BLOB_CLAIMS, BLOBS_CONDEMNED
from wisp.registry.redisblobs import RedisBlobs
from wisp.registry.registry import Registry

DEADLINE_S = 30.0


def node(registry: Registry, remote: Meddler, cache: Path) -> BlobStore:
    return BlobStore(CachedBlobs(remote, cache, budget_bytes=1 << 20), registry.connection)


@pytest.fixture
def remote(registry: Registry) -> Meddler:
    return Meddler(RedisBlobs(registry.connection))


@pytest.fixture
def ours(registry: Registry, remote: Meddler, tmp_path: Path) -> BlobStore:
    return node(registry, remote, tmp_path / "ours")


@pytest.fixture
def theirs(registry: Registry, remote: Meddler, tmp_path: Path) -> BlobStore:
    return node(registry, remote, tmp_path / "theirs")


async def claims(registry: Registry) -> dict[str, bytes]:
    return await registry.connection.hash_all(BLOB_CLAIMS)


async def age(registry: Registry, digest: Digest, seconds: int) -> None:
    """As if it had been claimed, and put, that long ago."""
    now = int((await registry.connection.command("TIME"))[0])
    await registry.connection.command("HSET", BLOB_CLAIMS, digest, now - seconds)
    await registry.connection.command("HSET", f"wisp:{{blob/{digest[7:]}}}:head", "put", now - seconds)


async def test_a_put_is_claimed_first_and_spared_by_every_node(
    registry: Registry, ours: BlobStore, theirs: BlobStore
) -> None:
    name = await ours.put_bytes(b"a")
    assert set(await claims(registry)) == {name}
    assert not await theirs.delete(name, unless_put_within_s=600)
    await age(registry, name, 700)
    assert await theirs.delete(name, unless_put_within_s=600)
    assert await claims(registry) == {}
    assert await registry.connection.hash_all(BLOBS_CONDEMNED) == {}


async def test_a_blob_that_is_named_again_is_young_though_nothing_is_put(
    registry: Registry, ours: BlobStore, theirs: BlobStore
) -> None:
    name = await ours.put_bytes(b"a")
    await age(registry, name, 700)
    await ours.renew(name)
    assert not await theirs.delete(name, unless_put_within_s=600)
    with pytest.raises(BlobMissing):
        await ours.renew(digest_of_text("never put"))


async def test_a_put_waits_for_a_removal_under_way(
    registry: Registry, ours: BlobStore, theirs: BlobStore, remote: Meddler
) -> None:
    """The collector has decided; another node uploads the same bytes before it removes them."""
    name = await ours.put_bytes(b"a")
    await age(registry, name, 700)
    remote.gate.clear()
    removal = asyncio.create_task(theirs.delete(name, unless_put_within_s=600))
    await asyncio.wait_for(remote.waiting.wait(), DEADLINE_S)
    put = asyncio.create_task(ours.put_bytes(b"a"))
    async with asyncio.timeout(DEADLINE_S):
        while name not in await claims(registry):
            await asyncio.sleep(0.01)
    assert not put.done()
    assert not await ours.delete(name)  # one removal at a time
    remote.gate.set()
    assert await removal
    assert await put == name
    assert await remote.exists(name)


async def test_a_removal_that_was_given_up_does_not_stop_puts_for_ever(registry: Registry, ours: BlobStore) -> None:
    name = await ours.put_bytes(b"a")
    now = int((await registry.connection.command("TIME"))[0])
    await registry.connection.command("HSET", BLOBS_CONDEMNED, name, now - blobstore.CONDEMNED_S - 1)
    assert await ours.put_bytes(b"a") == name
    assert await registry.connection.hash_all(BLOBS_CONDEMNED) == {}


async def test_claims_do_not_pile_up(registry: Registry, ours: BlobStore) -> None:
    old, new = await ours.put_bytes(b"old"), await ours.put_bytes(b"new")
    await age(registry, old, blobstore.KEPT_CLAIM_S + 100)
    await ours.tidy()
    assert set(await claims(registry)) == {new}


async def test_collectors_never_take_what_a_version_needs(
    acme: Registry, ours: BlobStore, theirs: BlobStore, remote: Meddler
) -> None:
    """Two nodes deploy a few contents again and again and delete the functions, and both collect all the while. What a
    version needs is there when it is recorded, if that was within the grace after its put."""
    young_s, contents, wanted_removals = 2.0, 24, 15
    wrong: list[Digest] = []
    removed: list[Digest] = []
    counted = 0
    over = asyncio.Event()

    async def deploy(blobs: BlobStore, seed: int) -> None:
        nonlocal counted
        chosen = random.Random(seed)
        function = parse_function(f"function{seed}")
        while not over.is_set():
            began = time.monotonic()
            name = await blobs.put_bytes(b"content %d" % chosen.randrange(contents))
            await acme.functions.put_version(
                ACME, function, replace(draft(name), module=name, bundle=()), activate=True
            )
            if time.monotonic() - began < young_s - 1:  # Redis counts whole seconds here
                counted += 1
                await asyncio.sleep(chosen.random() / 10)
                if not await remote.exists(name):
                    wrong.append(name)
            await acme.functions.delete(ACME, function)

    async def collect(blobs: BlobStore) -> None:
        while not over.is_set():
            removed.extend(await collect_garbage(acme, blobs, young_s=young_s))
            await asyncio.sleep(0.01)

    workers = [deploy(ours, 1), deploy(theirs, 2), collect(ours), collect(theirs)]
    tasks = [asyncio.create_task(worker) for worker in workers]
    try:
        async with asyncio.timeout(120):
            while len(removed) < wanted_removals or counted < 50:
                await asyncio.sleep(0.05)
                for task in tasks:
                    if task.done():
                        task.result()
    finally:
        over.set()
        await asyncio.gather(*tasks)
    assert wrong == []


async def test_faults_are_counted_and_told(
    registry: Registry, remote: Meddler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_blobs("redis:", connection=registry.connection, cache=tmp_path / "cache", cache_bytes=1000)
    name = await store.put_bytes(b"module")
    assert store.cached_bytes == 6
    with pytest.raises(BlobMissing):
        await store.open(digest_of_text("never put"))
    copy = tmp_path / "cache" / "sha256" / name[7:9] / name[9:]
    copy.chmod(0o600)
    copy.write_bytes(b"Module")
    os.close(await store.open(name))
    assert store.faults.counts == {"missing": 1, "damaged": 1, "unavailable": 0}
    assert digest_of_text("never put") in caplog.text
    assert f"copy of blob {name} is damaged" in caplog.text
    await store.aclose()


async def test_a_directorys_damage_is_counted(registry: Registry, tmp_path: Path) -> None:
    store = open_blobs(f"file://{tmp_path}/some%20where", connection=registry.connection, cache=tmp_path / "cache")
    assert isinstance(store.blobs, DirectoryBlobs)
    assert store.blobs.root == tmp_path / "some where"
    name = await store.put_bytes(b"module")
    place = store.blobs.root / "sha256" / name[7:9] / name[9:]
    place.chmod(0o600)
    place.write_bytes(b"Module")
    with pytest.raises(BlobDamaged):
        await store.open(name)
    assert store.faults.counts["damaged"] == 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "url",
    ["s3:bucket", "redis://host", "", "/var/lib", "file://host/x", "file:relative", "file:///x?y", "file:", "http://x"],
)
async def test_another_url_is_refused(registry: Registry, tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidSettings, match="--blobs"):
        open_blobs(url, connection=registry.connection, cache=tmp_path)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from registry.samples import ACME, CLASSIFY, INPUTS, MOBILENET, OUTPUTS, draft
from wisp.errors import RegistryUnavailable
from wisp.names import Digest
from wisp.registry.blobs import DirectoryBlobs
from wisp.registry.blobstore import BlobStore
from wisp.registry.garbage import collect_garbage
from wisp.registry.keys import TENANTS, Kind, key
from wisp.registry.records import BundleFile
from wisp.registry.registry import Registry


@pytest.fixture
def blobs(registry: Registry, tmp_path: Path) -> BlobStore:
    return BlobStore(DirectoryBlobs(tmp_path / "blobs"), registry.connection)


async def deploy(registry: Registry, blobs: BlobStore) -> set[Digest]:
    """A function and a model in acme, a shared model; returns what they need."""
    module, labels, own, shared = [await blobs.put_bytes(text) for text in (b"wasm", b"labels", b"own", b"shared")]
    for owner, content in ((ACME, own), (None, shared)):
        await registry.models.put(owner, MOBILENET, digest=content, size_bytes=1, inputs=INPUTS, outputs=OUTPUTS)
    bundle = (BundleFile(path="labels.txt", digest=labels, size_bytes=6),)
    await registry.functions.put_version(
        ACME, CLASSIFY, replace(draft("a"), module=module, bundle=bundle), activate=True
    )
    return {module, labels, own, shared}


async def test_what_is_needed_stays_and_the_rest_goes(acme: Registry, blobs: BlobStore) -> None:
    needed = await deploy(acme, blobs)
    orphan = await blobs.put_bytes(b"orphan")
    assert await collect_garbage(acme, blobs, young_s=0) == (orphan,)
    assert set(await blobs.list()) == needed


async def test_a_deleted_tenants_blobs_go(acme: Registry, blobs: BlobStore) -> None:
    await deploy(acme, blobs)
    await acme.tenants.delete(ACME)
    await collect_garbage(acme, blobs, young_s=0)
    assert [await acme.models.get(None, MOBILENET)][0].digest in await blobs.list()
    assert len(await blobs.list()) == 1


async def test_an_upload_under_way_is_spared(acme: Registry, blobs: BlobStore) -> None:
    orphan = await blobs.put_bytes(b"not referred to yet")
    assert await collect_garbage(acme, blobs) == ()
    assert await blobs.exists(orphan)


async def test_a_tenant_that_the_index_has_lost_keeps_its_blobs(acme: Registry, blobs: BlobStore) -> None:
    needed = await deploy(acme, blobs)
    await acme.connection.command("DEL", TENANTS)
    await collect_garbage(acme, blobs, young_s=0)
    assert set(await blobs.list()) == needed


async def test_nothing_is_removed_by_a_registry_that_cannot_be_read(acme: Registry, blobs: BlobStore) -> None:
    await deploy(acme, blobs)
    orphan = await blobs.put_bytes(b"orphan")
    await acme.connection.command("HSET", key(ACME, Kind.VERSIONS), f"{CLASSIFY}@1", b"flipped")
    with pytest.raises(RegistryUnavailable):
        await collect_garbage(acme, blobs, young_s=0)
    assert await blobs.exists(orphan)

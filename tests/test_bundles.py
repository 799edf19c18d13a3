"""Bundles from blobs to segments: once for all who wait, and never from a damaged blob."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from wisp.bundles import Bundle, BundleStore, check_paths
from wisp.errors import InvalidRequest, RegistryUnavailable
from wisp.names import Digest
from wisp.registry.blobs import DirectoryBlobs
from wisp.registry.records import BundleFile


class CountingBlobs(DirectoryBlobs):
    opened = 0

    async def open(self, digest: Digest) -> int:
        self.opened += 1
        return await super().open(digest)


async def make(tmp_path: Path) -> tuple[CountingBlobs, Bundle]:
    blobs = CountingBlobs(tmp_path)
    digest = await blobs.put_bytes(b"content")
    return blobs, Bundle(key="k", files=(BundleFile(path="a.txt", digest=digest, size_bytes=7),))


async def test_a_bundle_is_packed_once_for_all_who_wait(tmp_path: Path) -> None:
    blobs, bundle = await make(tmp_path)
    store = BundleStore(blobs)
    found = await asyncio.gather(*(store.segment(bundle) for _ in range(10)))
    assert len({id(segment) for segment in found}) == 1
    assert await store.segment(bundle) is found[0]
    assert await store.segment(None) is None
    assert blobs.opened == 1


async def test_a_damaged_or_missing_blob_is_not_packed(tmp_path: Path) -> None:
    blobs, bundle = await make(tmp_path)
    store = BundleStore(blobs)
    (path,) = (path for path in (tmp_path / "sha256").glob("*/*"))
    path.chmod(0o600)
    path.write_bytes(b"CONTENT")
    with pytest.raises(RegistryUnavailable):
        await store.segment(bundle)
    path.unlink()
    with pytest.raises(RegistryUnavailable):
        await asyncio.gather(*(store.segment(bundle) for _ in range(3)))
    await blobs.put_bytes(b"content")
    assert await store.segment(bundle) is not None


@pytest.mark.parametrize("paths", [("a", "a"), ("a", "a/b"), ("x/y/z", "x/y"), ("a", "a-b", "a/b")])
def test_a_name_is_a_file_or_a_directory(paths: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest, match="the bundle has"):
        check_paths(paths)


def test_paths_that_agree_pass() -> None:
    check_paths(("a", "a-b/c", "a.txt", "x/y/z", "x/y/w"))

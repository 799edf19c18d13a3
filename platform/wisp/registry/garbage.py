"""Removing the blobs that nothing refers to any more.

A deployment claims and stores its blobs before the version that refers to them; so a blob is spared for a while after
it was claimed or put (`BlobStore.delete`). References are read twice, before and after the blobs are listed: in a
cluster a scan may miss a key that moves to another server meanwhile, and no key moves twice so soon.
"""

from __future__ import annotations

import asyncio
import contextlib

from wisp.errors import RegistryUnavailable
from wisp.names import Digest
from wisp.registry.blobstore import BlobStore
from wisp.registry.codec import decode
from wisp.registry.connection import Connection
from wisp.registry.keys import Kind, everywhere
from wisp.registry.records import Model, Version
from wisp.registry.registry import Registry

EVERY_S = 600.0
YOUNG_S = 3600.0
"""Longer than any deployment takes from its first blob to its version."""


async def referenced_digests(connection: Connection) -> set[Digest]:
    """Every blob that a version or a model needs, found by a scan of the truth and not by an index.

    A damaged record is `RegistryUnavailable`: nothing is removed by a registry that cannot be read.
    """
    digests: set[Digest] = set()
    async for key in connection.scan(everywhere(Kind.VERSIONS)):
        for field, raw in (await connection.hash_all(key)).items():
            version = decode(Version, raw, place=field)
            digests.add(version.module)
            digests.update(file.digest for file in version.bundle)
            digests.update(pin.digest for pin in version.models)
    async for key in connection.scan(everywhere(Kind.MODELS)):
        for field, raw in (await connection.hash_all(key)).items():
            digests.add(decode(Model, raw, place=field).digest)
    return digests


async def collect_garbage(registry: Registry, blobs: BlobStore, *, young_s: float = YOUNG_S) -> tuple[Digest, ...]:
    """Removes unreferenced blobs that were not put within `young_s`, and stale references; returns what it removed."""
    await registry.models.drop_stale_references()
    await blobs.tidy()
    referenced = await referenced_digests(registry.connection)
    unused = [digest for digest in await blobs.list() if digest not in referenced]
    if unused:
        referenced = await referenced_digests(registry.connection)
    removed = [
        digest
        for digest in unused
        if digest not in referenced and await blobs.delete(digest, unless_put_within_s=young_s)
    ]
    return tuple(removed)


async def collect_at_times(registry: Registry, blobs: BlobStore) -> None:
    """Until cancelled, and mends the index of tenants beforehand."""
    while True:
        await asyncio.sleep(EVERY_S)
        with contextlib.suppress(RegistryUnavailable):  # it is reported by what serves requests; here: next time
            await registry.tenants.repair_index()
            await collect_garbage(registry, blobs)

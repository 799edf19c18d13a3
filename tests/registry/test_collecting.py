"""The collector beside uploads and deletes that take up and let go the same old blobs: none in use is ever removed."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

from registry.samples import ACME, draft
from wisp.errors import InUse, NotFound
from wisp.names import FunctionName, parse_function
from wisp.registry.blobs import DirectoryBlobs
from wisp.registry.blobstore import BlobStore
from wisp.registry.garbage import collect_garbage
from wisp.registry.keys import BLOB_CLAIMS, Kind, key
from wisp.registry.registry import Registry

ROUNDS = 6
FUNCTIONS = [parse_function(name) for name in ("f", "g", "h")]
CONTENTS = [f"module {number}".encode() for number in range(4)]
YOUNG_S = 600.0
LONG_AGO_S = 10**9


async def test_no_order_of_uploads_deletes_and_collections_loses_a_blob_in_use(acme: Registry, tmp_path: Path) -> None:
    blobs = BlobStore(DirectoryBlobs(tmp_path / "blobs"), acme.connection)
    removed = 0

    async def upload(name: FunctionName, content: bytes) -> None:
        module = await blobs.put_bytes(content)
        await asyncio.sleep(0)
        wanted = replace(draft(content.decode()), module=module, bundle=())
        await acme.functions.place(ACME, name, wanted, activate=True)

    async def delete(name: FunctionName, number: int) -> None:
        try:
            if number:
                await acme.functions.delete_version(ACME, name, number)
            else:
                await acme.functions.delete(ACME, name)
        except (InUse, NotFound):
            pass  # another was first

    async def collect() -> int:
        return len(await collect_garbage(acme, blobs, young_s=YOUNG_S))

    for round_ in range(ROUNDS):
        work = [upload(name, content) for name in FUNCTIONS for content in CONTENTS[round_ % 2 :: 2]]
        work += [delete(name, number) for name in FUNCTIONS for number in (0, 2 * round_ + 1)]
        async with asyncio.TaskGroup() as group:
            collections = [group.create_task(collect()) for _ in range(6)]
            for each in work:
                group.create_task(each)
        removed += sum(collection.result() for collection in collections)
        for function in await acme.functions.list(ACME):
            for version in await acme.functions.versions(ACME, function.name):
                os.close(await blobs.open(version.module))  # there, and whole
        for path in (tmp_path / "blobs" / "sha256").glob("??/*"):
            os.utime(path, (LONG_AGO_S, LONG_AGO_S))
        await acme.connection.command("DEL", BLOB_CLAIMS)
    for name in FUNCTIONS:
        await delete(name, 0)
    removed += await collect()
    assert removed > 0
    assert await blobs.list() == ()
    assert await acme.connection.hash_all(key(ACME, Kind.VERSIONS)) == {}

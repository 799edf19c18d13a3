"""Blobs in an object store: S3, Google Cloud Storage, Azure, by URL. The one user of obstore.

Credentials, region and endpoint are those that the library reads from its usual variables (AWS_…, GOOGLE_…, AZURE_…);
none is taken from the URL, and no message here quotes the library's, which names hosts and keys of the account.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from wisp.errors import BlobUnavailable, InvalidSettings
from wisp.names import DIGEST, Digest
from wisp.registry.blobs import missing

SCHEMES: Final = ("s3", "gs", "az")
PLAIN_HTTP: Final = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}
CONNECT_S: Final = 5.0
REQUEST_S: Final = 30.0
"""For one request, its body included; so the bodies are pieces."""
ANSWER_S: Final = 20.0
"""For what carries no body, tries included."""
LIST_S: Final = 300.0
TRIES_S: Final = 10.0
RETRIES: Final = 2
PIECE_BYTES: Final = 8 << 20
PIECES_AT_ONCE: Final = 2


class ObjectBlobs:
    """`<prefix>/sha256/ab/<the other 62 digits>`."""

    def __init__(self, url: str, *, request_s: float = REQUEST_S, answer_s: float = ANSWER_S) -> None:
        self.answer_s = answer_s
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
            raise InvalidSettings(
                "--blobs: an object store's URL is s3://bucket/prefix, gs://bucket/prefix or az://account/container; "
                "credentials come from the environment"
            )
        try:
            self.store: ObjectStore = from_url(
                url,
                client_options={
                    "connect_timeout": timedelta(seconds=CONNECT_S),
                    "timeout": timedelta(seconds=request_s),
                    # These options hide the library's own reading of the variable.
                    "allow_http": os.environ.get(PLAIN_HTTP[parts.scheme], "").lower() in ("1", "true"),
                },
                retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=TRIES_S)},
            )
        except (BaseError, ValueError) as error:
            raise InvalidSettings(
                f"--blobs: {parts.scheme}://{parts.netloc} cannot be used: check its credentials in the environment"
            ) from error

    async def put(self, digest: Digest, source: BinaryIO, size_bytes: int) -> None:
        """In parts, of which few are in memory; the store shows the object when the last is there."""
        with translated(f"blob {digest} could not be stored"):
            await obstore.put_async(
                self.store,
                place(digest),
                source,
                use_multipart=size_bytes > PIECE_BYTES,
                chunk_size=PIECE_BYTES,
                max_concurrency=PIECES_AT_ONCE,
            )

    async def fetch(self, digest: Digest, target: BinaryIO) -> None:
        with translated(f"blob {digest} cannot be fetched"):
            try:
                async with asyncio.timeout(self.answer_s):
                    size_bytes = (await obstore.head_async(self.store, place(digest)))["size"]
                for start in range(0, size_bytes, PIECE_BYTES):
                    end = min(start + PIECE_BYTES, size_bytes)
                    piece = await obstore.get_range_async(self.store, place(digest), start=start, end=end)
                    await asyncio.to_thread(target.write, memoryview(piece))
            except FileNotFoundError as error:
                raise missing(digest) from error

    async def exists(self, digest: Digest) -> bool:
        return await self._put_at(digest) is not None

    async def list(self) -> tuple[Digest, ...]:
        found = []
        with translated("the blobs could not be listed"):
            async with asyncio.timeout(LIST_S):
                async for batch in obstore.list(self.store, prefix="sha256"):
                    names = ["sha256:" + "".join(entry["path"].split("/")[-2:]) for entry in batch]
                    found += [Digest(name) for name in names if DIGEST.fullmatch(name)]
        return tuple(sorted(found))

    async def delete(self, digest: Digest, *, unless_put_within_s: float = 0) -> bool:
        """Its age is by two clocks, the store's and this node's: `blobstore` guards what is young by one."""
        put_at = await self._put_at(digest)
        if put_at is None or (datetime.now(UTC) - put_at).total_seconds() < unless_put_within_s:
            return False
        with translated(f"blob {digest} could not be removed"):
            async with asyncio.timeout(self.answer_s):
                await obstore.delete_async(self.store, place(digest))
        return True

    async def aclose(self) -> None:
        """The library's connections go with the store."""

    async def _put_at(self, digest: Digest) -> datetime | None:
        with translated(f"blob {digest} cannot be looked up"):
            try:
                async with asyncio.timeout(self.answer_s):
                    return (await obstore.head_async(self.store, place(digest)))["last_modified"]
            except FileNotFoundError:
                return None


def place(digest: Digest) -> str:
    digits = digest.removeprefix("sha256:")
    return f"sha256/{digits[:2]}/{digits[2:]}"


@contextmanager
def translated(message: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError, TimeoutError) as error:
        raise BlobUnavailable(message) from error

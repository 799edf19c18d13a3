"""Stores to put blobs into, and a wrapper that gets in the way of one."""

from __future__ import annotations

import asyncio
from typing import BinaryIO

from wisp.errors import BlobUnavailable
from wisp.names import Digest
from wisp.registry.blobs import RemoteBlobs


class Meddler:
    """A store as it is, until a test says otherwise. `fetches`: how often it was asked for a blob."""

    def __init__(self, remote: RemoteBlobs) -> None:
        self.remote = remote
        self.fetches = 0
        self.down = False
        self.flips = 0
        """That many fetches deliver one byte too many."""
        self.gate = asyncio.Event()
        """Fetches and removals wait for it."""
        self.gate.set()
        self.waiting = asyncio.Event()

    async def put(self, digest: Digest, source: BinaryIO, size_bytes: int) -> None:
        self._check()
        await self.remote.put(digest, source, size_bytes)

    async def fetch(self, digest: Digest, target: BinaryIO) -> None:
        self.fetches += 1
        await self._pass()
        await self.remote.fetch(digest, target)
        if self.flips:
            self.flips -= 1
            target.write(b"!")

    async def exists(self, digest: Digest) -> bool:
        self._check()
        return await self.remote.exists(digest)

    async def list(self) -> tuple[Digest, ...]:
        self._check()
        return await self.remote.list()

    async def delete(self, digest: Digest, *, unless_put_within_s: float = 0) -> bool:
        await self._pass()
        return await self.remote.delete(digest, unless_put_within_s=unless_put_within_s)

    async def aclose(self) -> None:
        await self.remote.aclose()

    async def _pass(self) -> None:
        self._check()
        self.waiting.set()
        await self.gate.wait()

    def _check(self) -> None:
        if self.down:
            raise BlobUnavailable("the store is down")

"""Blobs of a store elsewhere, with copies on this node's disk: what was opened once is opened without the store.

Copies are named by their digest, checked when they are made and whenever they are opened, and removed, the least
recently used first, when they are more than their budget. Callers who want the same blob wait for one fetch.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from wisp.errors import BlobDamaged, BlobMissing, BlobUnavailable
from wisp.names import Digest
from wisp.registry.blobs import DirectoryBlobs, RemoteBlobs

log = logging.getLogger(__name__)

FETCH_S: Final = 120.0
PUT_S: Final = 300.0
REFUSED_S: Final = 2.0
"""A blob that could not be had is not asked for again so soon: callers repeat what fails."""
ATTEMPTS: Final = 3
"""A copy may be evicted between its fetch and its opening; not for ever."""


class CachedBlobs:
    """One process has the directory. Belongs to one event loop."""

    def __init__(
        self,
        remote: RemoteBlobs,
        directory: Path,
        *,
        budget_bytes: int,
        on_damaged: Callable[[], None] = lambda: None,
        fetch_s: float = FETCH_S,
    ) -> None:
        """`on_damaged` is called for each copy, or fetched blob, that is not what its name says."""
        self.remote = remote
        self.local = DirectoryBlobs(directory, durable=False)
        self.budget_bytes = budget_bytes
        self.fetch_s = fetch_s
        self.fetches = 0
        self._on_damaged = on_damaged
        self._copies: OrderedDict[Digest, int] = OrderedDict(self.local.by_age())
        self._fetching: dict[Digest, asyncio.Task[None]] = {}
        self._refused: dict[Digest, tuple[float, BlobUnavailable]] = {}

    @property
    def held_bytes(self) -> int:
        return sum(self._copies.values())

    async def put_file(self, path: Path) -> Digest:
        return await self._send(await self.local.put_file(path))

    async def put_bytes(self, data: bytes) -> Digest:
        return await self._send(await self.local.put_bytes(data))

    async def open(self, digest: Digest) -> int:
        for _ in range(ATTEMPTS):
            descriptor = await self._open_copy(digest)
            if descriptor is not None:
                return descriptor
            await self._fetched(digest)
        raise BlobUnavailable(f"blob {digest} does not stay in this node's cache: its budget is too small")

    async def exists(self, digest: Digest) -> bool:
        return await self.remote.exists(digest)

    async def list(self) -> tuple[Digest, ...]:
        """The store's and this node's copies: what is nowhere else goes when it is collected."""
        return tuple(sorted({*await self.remote.list(), *self._copies}))

    async def delete(self, digest: Digest, *, unless_put_within_s: float = 0) -> bool:
        if await self.remote.delete(digest, unless_put_within_s=unless_put_within_s):
            await self._drop(digest)
            return True
        if await self.remote.exists(digest) or not await self.local.delete(
            digest, unless_put_within_s=unless_put_within_s
        ):
            return False
        self._copies.pop(digest, None)
        return True

    async def aclose(self) -> None:
        for task in list(self._fetching.values()):
            task.cancel()
            with suppress(asyncio.CancelledError, BlobUnavailable):
                await task
        await self.remote.aclose()

    async def _send(self, digest: Digest) -> Digest:
        descriptor = await self.local.open(digest)
        size_bytes = os.fstat(descriptor).st_size
        with os.fdopen(descriptor, "rb") as source:
            try:
                async with asyncio.timeout(PUT_S):
                    await self.remote.put(digest, source, size_bytes)
            except TimeoutError as error:
                raise BlobUnavailable(f"blob {digest} could not be stored within {PUT_S:.0f} s") from error
            finally:  # kept or not: it counts
                await self._keep(digest, size_bytes)
        self._refused.pop(digest, None)
        return digest

    async def _open_copy(self, digest: Digest) -> int | None:
        try:
            descriptor = await self.local.open(digest)
        except BlobMissing:
            self._copies.pop(digest, None)
            return None
        except BlobDamaged:
            log.warning("this node's copy of blob %s is damaged: it is fetched again", digest)
            self._on_damaged()
            await self._drop(digest)
            return None
        size_bytes = os.fstat(descriptor).st_size
        if digest not in self._copies:
            await self._keep(digest, size_bytes)
        self._copies.move_to_end(digest)
        with suppress(OSError):  # the order of use only outlives a restart by it
            os.utime(descriptor)
        return descriptor

    async def _fetched(self, digest: Digest) -> None:
        until, error = self._refused.get(digest, (0.0, None))
        if error is not None and time.monotonic() < until:
            raise type(error)(error.message)
        task = self._fetching.get(digest)
        if task is None:
            task = self._fetching[digest] = asyncio.create_task(self._fetch(digest))
            task.add_done_callback(lambda done: self._landed(digest, done))
        await asyncio.shield(task)

    def _landed(self, digest: Digest, task: asyncio.Task[None]) -> None:
        del self._fetching[digest]
        error = None if task.cancelled() else task.exception()
        now = time.monotonic()
        self._refused = {known: held for known, held in self._refused.items() if held[0] > now}
        if isinstance(error, BlobUnavailable):
            self._refused[digest] = (now + REFUSED_S, error)

    async def _fetch(self, digest: Digest) -> None:
        try:
            async with asyncio.timeout(self.fetch_s):
                try:
                    await self._fetch_once(digest)
                except BlobDamaged:  # on the way, perhaps: once more
                    log.warning("blob %s came damaged from its store: it is fetched again", digest)
                    self._on_damaged()
                    await self._fetch_once(digest)
        except TimeoutError as error:
            raise BlobUnavailable(f"blob {digest} could not be fetched within {self.fetch_s:g} s") from error

    async def _fetch_once(self, digest: Digest) -> None:
        self.fetches += 1
        descriptor, name = tempfile.mkstemp(dir=self.local.temporary)
        path = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as target:
                await self.remote.fetch(digest, target)
            size_bytes = await self.local.adopt(path, digest)
        except OSError as error:
            path.unlink(missing_ok=True)  # noqa: ASYNC240
            raise BlobUnavailable(f"blob {digest} cannot be kept in this node's cache") from error
        except BaseException:
            path.unlink(missing_ok=True)  # noqa: ASYNC240  (one name in a local directory)
            raise
        await self._keep(digest, size_bytes)

    async def _keep(self, digest: Digest, size_bytes: int) -> None:
        """Counts a copy as the latest, and makes room; the latest itself always stays."""
        self._copies[digest] = size_bytes
        self._copies.move_to_end(digest)
        while len(self._copies) > 1 and self.held_bytes > self.budget_bytes:
            oldest, _ = self._copies.popitem(last=False)
            await self.local.delete(oldest)

    async def _drop(self, digest: Digest) -> None:
        self._copies.pop(digest, None)
        await self.local.delete(digest)

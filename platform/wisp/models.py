"""Models by digest: admitted once on each node, prepared for its processes, handed to those that open them.

What the cache does not hold (another node admitted the model, or the cache was wiped) a limited child makes anew from
the model's blob before the model is first opened here.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

from wisp.errors import InvalidModel
from wisp.names import Digest, TenantName
from wisp.policy.ceilings import Ceilings
from wisp.registry.blobs import Blobs
from wisp.scheduling.admissions import Admissions
from wisp.scheduling.hosts import OpenedModel
from wisp.scheduling.modelcache import CachedModel, ModelCache
from wisp.scheduling.rooms import Room
from wisp.wire.admissions import ModelFacts, Terms

log = logging.getLogger(__name__)

SHARE_FROM_BYTES = 1 << 20
"""A smaller file is opened as it was uploaded: its weights cost each process less than preparing them is worth."""

WIDE_FROM_US = 1000
"""A shorter run gains too little from more threads."""


def terms_of(ceilings: Ceilings) -> Terms:
    limits = ceilings.ceiling.models
    return Terms(max_bytes=limits.size, control_flow=limits.control_flow.level)


class ModelStore:
    """Joins the cache, the admission children and the blobs. `ceilings` is called for the policies in force."""

    def __init__(
        self, cache: ModelCache, admissions: Admissions, blobs: Blobs, ceilings: Callable[[], Ceilings]
    ) -> None:
        self.cache = cache
        self._admissions = admissions
        self._blobs = blobs
        self._ceilings = ceilings
        self._preparing: dict[Digest, asyncio.Future[None]] = {}

    async def admit(self, tenant: TenantName | None, digest: Digest, model_fd: int) -> ModelFacts:
        """Judges an upload, tries it out and prepares it. Raises `InvalidModel`."""
        return (await self._judge(digest, model_fd, tenant or "")).facts

    async def _judge(self, digest: Digest, model_fd: int, on_behalf_of: str) -> CachedModel:
        with _memory_file("prepared-model") as model, _memory_file("prepared-weights") as weights:
            share = os.fstat(model_fd).st_size >= SHARE_FROM_BYTES
            facts = await self._admissions.judge(
                model_fd,
                terms_of(self._ceilings()),
                (model.fd, weights.fd) if share else None,
                on_behalf_of=on_behalf_of,
            )
            return await self.cache.put(digest, facts, model.fd, weights.fd)

    async def open(self, digest: Digest, room: Room) -> OpenedModel:
        """For the process whose room it is. Raises `RegistryUnavailable`."""
        cached = await self._cached(digest)
        return OpenedModel(
            fd=await self._blobs.open(digest),
            batch=0 if cached is None else cached.facts.probe.batch,
            wide=cached is not None and cached.facts.probe.latency_us >= WIDE_FROM_US,
            prepared="" if cached is None or cached.path is None else room.show(cached.path),
        )

    async def _cached(self, digest: Digest) -> CachedModel | None:
        """None if it is not admitted any more: it was once, and is opened as it is."""
        while True:
            cached = await self.cache.find(digest)
            if cached is not None:
                return cached
            preparing = self._preparing.get(digest)
            if preparing is None:
                return await self._prepare(digest)
            await asyncio.shield(preparing)

    async def _prepare(self, digest: Digest) -> CachedModel | None:
        done = self._preparing[digest] = asyncio.get_running_loop().create_future()
        try:
            fd = await self._blobs.open(digest)
            try:
                return await self._judge(digest, fd, digest)
            finally:
                os.close(fd)
        except InvalidModel as error:
            log.warning("model %s was admitted before and is not now: %s", digest, error.message)
            return None
        finally:
            del self._preparing[digest]
            done.set_result(None)


@dataclass(frozen=True, slots=True)
class _MemoryFile:
    """For a child to write to, bounded by its own limit on files."""

    fd: int

    def __enter__(self) -> _MemoryFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def _memory_file(name: str) -> _MemoryFile:
    return _MemoryFile(os.memfd_create(name, os.MFD_CLOEXEC))

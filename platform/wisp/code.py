"""Compiled code for a module digest: from the cache, else compiled again from its blob, once for all who wait."""

from __future__ import annotations

import asyncio
import os

from wisp.errors import InvalidModule, Overloaded
from wisp.names import Digest
from wisp.policy.ceilings import Ceilings
from wisp.registry.blobs import Blobs
from wisp.scheduling.codecache import CodeCache, CodeSegment
from wisp.scheduling.compilers import Compilation, CompileLimits, Compilers

NS = 1_000_000_000


def compile_limits(ceilings: Ceilings) -> CompileLimits:
    limits = ceilings.ceiling.compile
    return CompileLimits(cpu_s=max(limits.cpu // NS, 1), memory_bytes=limits.memory, module_bytes=limits.module)


class CodeStore:
    """Joins the cache, the compilers and the blobs. A restart with another wasmtime finds no entries and recompiles."""

    def __init__(self, cache: CodeCache, compilers: Compilers, blobs: Blobs) -> None:
        self.cache = cache
        self.compilers = compilers
        self._blobs = blobs
        self._compiling: dict[Digest, asyncio.Future[None]] = {}

    async def segment(self, digest: Digest, ceilings: Ceilings) -> CodeSegment:
        """Raises `Overloaded` if the module cannot be compiled any more."""
        while True:
            held = await self.cache.segment(digest)
            if held is not None:
                return held
            compiling = self._compiling.get(digest)
            if compiling is not None:
                await asyncio.shield(compiling)
                continue
            await self._recompile(digest, ceilings)

    async def _recompile(self, digest: Digest, ceilings: Ceilings) -> None:
        done = self._compiling[digest] = asyncio.get_running_loop().create_future()
        try:
            fd = await self._blobs.open(digest)
            try:
                limits = compile_limits(ceilings)
                async with self.compilers.start(limits, digest) as compilation:
                    await compilation.facts(fd, limits)
                    await self.compile(digest, compilation)
            finally:
                os.close(fd)
        except InvalidModule as error:
            raise Overloaded(f"a module that was accepted before does not compile now: {error.message}") from error
        finally:
            del self._compiling[digest]
            done.set_result(None)

    async def compile(self, digest: Digest, compilation: Compilation) -> None:
        """The second half of a compilation whose facts were admitted. Raises `InvalidModule`."""
        if await self.cache.segment(digest) is None:
            await self.cache.put(digest, await compilation.code())

"""A version's bundle as sandboxes get it: from the cache, else packed from its blobs, once for all who wait."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass

from wisp.errors import InvalidRequest
from wisp.policy.choices import MountSource
from wisp.policy.globs import Globs
from wisp.policy.grants import Grants
from wisp.registry.blobs import Blobs
from wisp.registry.records import BundleFile
from wisp.scheduling.bundlecache import BundleCache, BundleSegment


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """`key` is the digest of paths and contents: equal bundles share a segment."""

    key: str
    files: tuple[BundleFile, ...]


def bundle_of(files: tuple[BundleFile, ...], grants: Grants) -> Bundle | None:
    """What a function with these grants is to be sent; None where it has no files, or no mount that shows them."""
    if not files or all(mount.source is not MountSource.BUNDLE for mount in grants.files):
        return None
    listed = json.dumps([[file.path, file.digest] for file in files])
    return Bundle(key=hashlib.sha256(listed.encode()).hexdigest(), files=files)


def check_paths(paths: Iterable[str]) -> None:
    """Raises `InvalidRequest` where a path is a file and a directory at once, or stands there twice."""
    seen: set[str] = set()
    directories: set[str] = set()
    for path in paths:
        if path in seen:
            raise InvalidRequest(f"the bundle has {path!a} twice")
        seen.add(path)
        parts = path.split("/")
        directories |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    for path in sorted(seen & directories):
        raise InvalidRequest(f"the bundle has a file {path!a} and files below it")


def unseen(files: Iterable[str], grants: Grants) -> tuple[str, ...]:
    """A warning for each mount whose globs let none of these files through."""
    paths = list(files)
    return tuple(
        f"files[{index}]: no file of the bundle matches what {mount.mount} allows"
        for index, mount in enumerate(grants.files)
        if mount.source is MountSource.BUNDLE and not any(map(Globs(mount.allow).allow, paths))
    )


class BundleStore:
    """Joins the cache and the blobs, which check every digest."""

    def __init__(self, blobs: Blobs) -> None:
        self.cache = BundleCache()
        self._blobs = blobs
        self._packing: dict[str, asyncio.Future[None]] = {}

    async def segment(self, bundle: Bundle | None) -> BundleSegment | None:
        """Raises `Unavailable` if a blob is missing or damaged."""
        if bundle is None:
            return None
        while True:
            held = self.cache.peek(bundle.key)
            if held is not None:
                return held
            packing = self._packing.get(bundle.key)
            if packing is None:
                return await self._pack(bundle)
            await asyncio.shield(packing)

    async def _pack(self, bundle: Bundle) -> BundleSegment:
        done = self._packing[bundle.key] = asyncio.get_running_loop().create_future()
        opened: list[tuple[str, int, int]] = []
        try:
            for file in bundle.files:
                opened.append((file.path, file.size_bytes, await self._blobs.open(file.digest)))
            segment = await asyncio.to_thread(BundleSegment, opened)
            self.cache.hold(bundle.key, segment)
            return segment
        finally:
            for _, _, fd in opened:
                os.close(fd)
            del self._packing[bundle.key]
            done.set_result(None)

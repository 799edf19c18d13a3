"""The operator's directories as sandboxes get them: packed once for all who mount the same, again when they change."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from wisp.errors import Unavailable
from wisp.policy.choices import MountSource
from wisp.policy.grants import Grants
from wisp.policy.paths import is_within
from wisp.policy.schema import Ceiling
from wisp.scheduling.bundlecache import BundleSegment
from wisp.scheduling.hostfiles import HostFile, HostMount, pack, survey

REFRESH_S = 1.0
"""How old may be what a request sees of the operator's directories."""
MAX_HELD = 64
MAX_HELD_BYTES = 256 * 1024 * 1024

Mounts = tuple[HostMount, ...]


@dataclass(slots=True, kw_only=True)
class Held:
    """`failure` takes the place of a segment for as long, so that a broken directory is not walked by every request."""

    files: tuple[HostFile, ...] = ()
    segment: BundleSegment | None = None
    failure: str = ""
    checked_s: float = 0.0

    @property
    def size_bytes(self) -> int:
        return 0 if self.segment is None else self.segment.size_bytes


def host_mounts_of(grants: Grants, ceiling: Ceiling) -> Mounts:
    """In the order of the grants, which `narrow` has held to directories that the ceiling names. Raises `Unavailable`
    if it was another ceiling, changed meanwhile."""
    mounts = []
    for mount in grants.files:
        if mount.source is MountSource.HOST and mount.path is not None:
            path = mount.path
            # Where one named directory lies in another, the deeper is the one that was meant.
            root = max((allowed for allowed in ceiling.files.host if is_within(path, allowed)), key=len, default=None)
            if root is None:
                raise Unavailable(f"the host directory {path!a} is no longer among those that the ceiling names")
            below = tuple(name for name in path[len(root) :].split("/") if name)
            mounts.append(HostMount(root=root, below=below, allow=mount.allow))
    return tuple(mounts)


class HostStore:
    """One per node."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._held: OrderedDict[Mounts, Held] = OrderedDict()
        self._checking: dict[Mounts, asyncio.Future[None]] = {}

    async def segment(self, mounts: Mounts) -> BundleSegment | None:
        """None without mounts. Raises `Unavailable` for what cannot be read or is over the cap."""
        if not mounts:
            return None
        while True:
            held = self._held.get(mounts)
            checking = self._checking.get(mounts)
            if held is not None and (checking is not None or self._clock_s() - held.checked_s < REFRESH_S):
                return _segment(held)
            if checking is None:
                return _segment(await self._check(mounts, held))
            await asyncio.shield(checking)

    async def _check(self, mounts: Mounts, held: Held | None) -> Held:
        done = self._checking[mounts] = asyncio.get_running_loop().create_future()
        try:
            fresh = await asyncio.to_thread(_refresh, mounts, held)
            fresh.checked_s = self._clock_s()
            self._hold(mounts, fresh)
            return fresh
        finally:
            del self._checking[mounts]
            done.set_result(None)

    def _hold(self, mounts: Mounts, fresh: Held) -> None:
        self._held.pop(mounts, None)
        while self._held and (
            len(self._held) >= MAX_HELD
            or sum(held.size_bytes for held in self._held.values()) + fresh.size_bytes > MAX_HELD_BYTES
        ):
            self._held.popitem(last=False)
        self._held[mounts] = fresh

    def close(self) -> None:
        self._held.clear()


def _refresh(mounts: Mounts, held: Held | None) -> Held:
    try:
        if held is not None and held.segment is not None and survey(mounts) == held.files:
            return Held(files=held.files, segment=held.segment)
        files, segment = pack(mounts)
    except Unavailable as unavailable:
        return Held(failure=str(unavailable))
    return Held(files=files, segment=segment)


def _segment(held: Held) -> BundleSegment:
    if held.segment is None:
        raise Unavailable(held.failure)
    return held.segment

"""A node keeps what it answers with on its own disk: the snapshot's records in one file, and a copy of their blobs.

Written beside the requests, at most once in `SAVE_EVERY_S`, and only when something is new. A disk that is full is
reported, and costs the file its youth, not the node its service.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Self

from wisp.errors import InvalidSettings, RegistryUnavailable, WispError
from wisp.names import Digest, TenantName
from wisp.registry.blobs import Blobs
from wisp.registry.kept import DamagedSnapshot, Kept, KeptFile
from wisp.registry.policies import PolicyText
from wisp.registry.records import Draft, Entry
from wisp.registry.registry import Registry
from wisp.registry.snapshot import UNVERIFIED, Snapshot
from wisp.scheduling.codecache import load_key

log = logging.getLogger(__name__)

SAVE_EVERY_S: Final = 2.0


def blobs_of(version: Draft) -> frozenset[Digest]:
    """Everything of a version that lies in the object store."""
    pins = (pin.digest for pin in version.models if not pin.source)
    return frozenset((version.module, *(file.digest for file in version.bundle), *pins))


class Keeper:
    """`run` beside the requests, `save` once more at the end."""

    def __init__(
        self,
        file: KeptFile,
        snapshot: Snapshot,
        *,
        policies: Callable[[], Iterable[PolicyText]],
        unsettled: Callable[[], set[TenantName]],
        recalling: Callable[[], bool],
        blobs: Blobs | None,
        save_every_s: float = SAVE_EVERY_S,
    ) -> None:
        """`unsettled`: those of whom something in memory is known to be old. `recalling`: whether something that is
        kept is still to be asked for, so that the file knows more than the memory does. `blobs`: where reading a blob
        leaves a copy on this node; None where they are on its disk anyhow."""
        self.file = file
        self.saved_at: int | None = None
        """Unix seconds; the file says what held then."""
        self._snapshot = snapshot
        self._policies = policies
        self._unsettled = unsettled
        self._recalling = recalling
        self._blobs = blobs
        self._save_every_s = save_every_s
        self._here: set[Digest] = set()
        self._trouble = ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._save_every_s)
            await self.save()
            await self._bring_blobs()

    async def save(self) -> None:
        if self._recalling():
            return
        snapshot, unsettled = self._snapshot, self._unsettled()
        entries = tuple(snapshot.functions.memory.found.values())
        keys = tuple(snapshot.keys.memory.found.values())
        tenants = tuple(snapshot.tenants.memory.found.values())
        slots = {entry.tenant.name for entry in entries} | {key.tenant for key in keys} | {one.name for one in tenants}
        generations = {slot: UNVERIFIED if slot in unsettled else snapshot.seen.get(slot, UNVERIFIED) for slot in slots}
        now = int(time.time())
        try:
            await asyncio.to_thread(
                self.file.save,
                generations=generations,
                entries=entries,
                keys=keys,
                tenants=tenants,
                policies=tuple(self._policies()),
            )
        except OSError as error:
            self._report(f"the snapshot cannot be kept in {self.file.path}: {error.strerror}")
        else:
            self.saved_at, self._trouble = now, ""

    async def _bring_blobs(self) -> None:
        """What the file names is to be there too when nobody else can be asked."""
        if self._blobs is None or not self._snapshot.reach.reachable:
            return
        wanted = {digest for entry in self._entries() for version in entry.versions for digest in blobs_of(version)}
        self._here &= wanted
        for digest in wanted - self._here:
            try:
                os.close(await self._blobs.open(digest))
            except WispError as error:
                self._report(f"a blob that the kept snapshot needs is not on this node yet: {error.message}")
                return
            self._here.add(digest)

    def _entries(self) -> tuple[Entry, ...]:
        return tuple(self._snapshot.functions.memory.found.values())

    def _report(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            log.error(trouble)


class KeptState:
    """What a node has of this on its disk: the file, what a former process left in it, and who writes it now."""

    def __init__(self, file: KeptFile, content: Kept | None, *, damaged: bool) -> None:
        self.file = file
        self.content = content
        self.damaged = damaged
        """Of what was found at the start, none was used."""
        self.keeper: Keeper | None = None

    @classmethod
    async def open(cls, data_dir: Path) -> Self:
        """Raises `InvalidSettings` for a key that is none."""
        try:
            file = KeptFile(data_dir / "snapshot", load_key(data_dir / "snapshot.key"))
        except (OSError, ValueError) as error:
            raise InvalidSettings(f"the key of the kept snapshot cannot be used: {error}") from error
        try:
            return cls(file, await asyncio.to_thread(file.load), damaged=False)
        except DamagedSnapshot as error:
            log.error(error.message)  # noqa: TRY400 - the message says it all
            return cls(file, None, damaged=True)

    @property
    def policies(self) -> tuple[PolicyText, ...]:
        return () if self.content is None else self.content.policies

    async def restore(self, snapshot: Snapshot, *, offline: bool) -> None:
        """Into memory; only what the registry has not changed since, where it can be asked."""
        if offline:
            snapshot.reach.lost()
        if self.content is None:
            return
        generations = None
        if not offline:
            tenants = tuple(self.content.generations)
            generations = dict(zip(tenants, await snapshot.registry.generations(tenants), strict=True))
        snapshot.restore(self.content, generations)

    def as_json(self) -> dict[str, object]:
        """`saved_at`: Unix seconds, null before the first time."""
        return {"saved_at": None if self.keeper is None else self.keeper.saved_at, "found_damaged": self.damaged}


async def prepare_registry(registry: Registry, kept: KeptState | None) -> bool:
    """Whether the node starts without its registry. Raises `RegistryUnavailable` where it has nothing to go on with,
    either."""
    try:
        await registry.prepare()
    except RegistryUnavailable as error:
        if kept is None:
            raise
        if kept.content is None:
            why = "is damaged" if kept.damaged else "is not there"
            raise RegistryUnavailable(f"{error.message}, and a kept snapshot to go on with {why}") from error
        age_s = max(0, int(time.time()) - kept.content.saved_at)
        log.warning("the registry is away: this node starts with what it kept %d s ago, and changes nothing", age_s)
        return True
    return False

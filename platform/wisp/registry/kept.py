"""The snapshot on this node's disk: what it answered with, so that it can go on when it starts without its registry.

A file of lines: first an HMAC of all that follows, under a key of this node's own; then one record a line, as its kind
and a JSON object. It appears whole or not at all; one byte that is not what was written, and none of it is used.
Keys are in it as hashes, secrets as they lie in the registry: sealed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wisp.errors import RegistryUnavailable
from wisp.names import TenantName
from wisp.registry.codec import build, plain
from wisp.registry.policies import PolicyText
from wisp.registry.records import Entry, Function, Key, Tenant, Version

FORMAT: Final = b"wisp-snapshot 1 "
MAX_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSecret:
    """`sealed` in base64."""

    name: str
    sealed: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """An `Entry` as JSON has it."""

    tenant: Tenant
    function: Function
    versions: tuple[Version, ...]
    secrets: tuple[SealedSecret, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotGeneration:
    tenant: TenantName
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """`saved_at`: Unix seconds; `records`: how many follow."""

    saved_at: int
    records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """`generations`: of each tenant of whom something is here, at least which all of it is as new as."""

    saved_at: int
    generations: Mapping[TenantName, int]
    entries: tuple[Entry, ...]
    keys: tuple[Key, ...]
    tenants: tuple[Tenant, ...]
    policies: tuple[PolicyText, ...]


KINDS: Final[Mapping[str, type]] = {
    "generation": SlotGeneration,
    "entry": StoredEntry,
    "key": Key,
    "tenant": Tenant,
    "policy": PolicyText,
}


class DamagedSnapshot(RegistryUnavailable):
    """The file is not what this node wrote."""


class KeptFile:
    """`save` and `load` do input and output: not for an event loop. `save` from one thread at a time."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path = path
        self._key = key
        self._lines: dict[int, tuple[object, bytes]] = {}
        """By identity: records are frozen, and most of them are the same the next time."""
        self._written = b""

    def save(
        self,
        *,
        generations: Mapping[TenantName, int],
        entries: Iterable[Entry],
        keys: Iterable[Key],
        tenants: Iterable[Tenant],
        policies: Iterable[PolicyText],
    ) -> bool:
        """Whether anything was new. Raises `OSError`."""
        numbers = [SlotGeneration(tenant=tenant, number=number) for tenant, number in sorted(generations.items())]
        lines = [_line("generation", number) for number in numbers]
        fresh: dict[int, tuple[object, bytes]] = {}
        named = (("entry", entries), ("key", keys), ("tenant", tenants), ("policy", policies))
        for kind, records in named:
            for record in records:
                known = self._lines.get(id(record))
                fresh[id(record)] = known if known is not None else (record, _line(kind, record))
                lines.append(fresh[id(record)][1])
        self._lines = fresh
        body = b"".join(lines)
        digest = hashlib.sha256(body).digest()
        if digest == self._written:
            return False
        head = _line("heading", Heading(saved_at=int(time.time()), records=len(lines)))
        self._write(head + body)
        self._written = digest
        return True

    def load(self) -> Kept | None:
        """None where there is no file. Raises `DamagedSnapshot` for one that this node did not write so."""
        try:
            with self.path.open("rb") as source:
                raw = source.read(MAX_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedSnapshot(f"the kept snapshot {self.path} cannot be read: {error.strerror}") from error
        head, _, body = raw.partition(b"\n")
        if not hmac.compare_digest(head, FORMAT + self._mac(body)):
            raise DamagedSnapshot(f"the kept snapshot {self.path} is damaged, or another node's: none of it is used")
        try:
            return _read(body)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DamagedSnapshot(f"the kept snapshot {self.path} is of another wisp: none of it is used") from error

    def _mac(self, body: bytes) -> bytes:
        return hmac.new(self._key, FORMAT + body, hashlib.sha256).hexdigest().encode()

    def _write(self, body: bytes) -> None:
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-")
        try:
            with os.fdopen(descriptor, "wb") as target:
                target.write(FORMAT + self._mac(body) + b"\n")
                target.write(body)
                target.flush()
                os.fsync(target.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _line(kind: str, record: object) -> bytes:
    shown = _stored(record) if isinstance(record, Entry) else record
    return kind.encode() + b" " + json.dumps(plain(shown), separators=(",", ":")).encode() + b"\n"


def _stored(entry: Entry) -> StoredEntry:
    secrets = tuple(SealedSecret(name=name, sealed=b64encode(value).decode()) for name, value in entry.secrets)
    return StoredEntry(tenant=entry.tenant, function=entry.function, versions=entry.versions, secrets=secrets)


def _entry(stored: StoredEntry) -> Entry:
    secrets = tuple((secret.name, b64decode(secret.sealed, validate=True)) for secret in stored.secrets)
    return Entry(tenant=stored.tenant, function=stored.function, versions=stored.versions, secrets=secrets)


def _read(body: bytes) -> Kept:
    first, *lines = body.splitlines()
    heading = build(Heading, json.loads(first.removeprefix(b"heading ")))
    if heading.records != len(lines):
        raise ValueError("records are missing")
    found: dict[str, list[object]] = {kind: [] for kind in KINDS}
    for line in lines:
        name, _, content = line.decode().partition(" ")
        found[name].append(build(KINDS[name], json.loads(content)))
    return Kept(
        saved_at=heading.saved_at,
        generations={slot.tenant: slot.number for slot in found["generation"] if isinstance(slot, SlotGeneration)},
        entries=tuple(_entry(stored) for stored in found["entry"] if isinstance(stored, StoredEntry)),
        keys=tuple(key for key in found["key"] if isinstance(key, Key)),
        tenants=tuple(tenant for tenant in found["tenant"] if isinstance(tenant, Tenant)),
        policies=tuple(text for text in found["policy"] if isinstance(text, PolicyText)),
    )

"""The operator's documents in Redis, what became of them, and the nodes that follow: who has applied which generation.

One counter, the generation, grows with every change of any document. A node that has applied all documents of a
generation acknowledges it with its pulse; a node that is not heard for `LIVE_MS` counts no more.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from wisp.errors import RegistryUnavailable
from wisp.names import Digest
from wisp.registry import policyscripts as scripts
from wisp.registry.codec import body_of, decode
from wisp.registry.connection import Connection, Script
from wisp.registry.expectations import Expected, listed
from wisp.registry.keys import Kind, key, keys
from wisp.registry.refusals import accepted

RETAINED: Final = 32
"""Changes kept of each document; with 64 KiB a document, at most 2 MiB of text."""
LIVE_MS: Final = 6_000
NOTED_MS: Final = 2_000
"""A node is heard more often than this is written down: an idle platform should not write to its disk all the time."""


class Source(StrEnum):
    """Where a document was changed."""

    FILE = "file"
    REDIS = "redis"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyText:
    """A document as somebody left it. `author`: operator, file, or packaged; `changed_at`: Unix seconds."""

    name: str
    generation: int
    digest: Digest
    text: str
    author: str
    source: Source
    changed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """All documents of one moment. `damaged`: those whose record is not what was written."""

    generation: int
    documents: Mapping[str, PolicyText]
    damaged: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """`nodes`: those that live, and the generation that each has acknowledged."""

    generation: int
    nodes: Mapping[str, int]


def new_text(name: str, text: bytes, *, author: str, source: Source) -> PolicyText:
    """Not numbered yet: generation 0."""
    return PolicyText(
        name=name,
        generation=0,
        digest=digest_of(text),
        text=text.decode("utf-8", "replace"),
        author=author,
        source=source,
        changed_at=int(time.time()),
    )


def digest_of(text: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(text).hexdigest()}")


class Policies:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def seed(self, texts: Mapping[str, bytes], *, author: str) -> None:
        """These documents where there are none at all."""
        drafts = [new_text(name, text, author=author, source=Source.REDIS) for name, text in texts.items()]
        arguments = [word for draft in drafts for word in (draft.name, body_of(draft, without="generation"))]
        await self._run(
            scripts.SEED_POLICIES, (Kind.POLICIES, Kind.POLICY_GENERATION, Kind.POLICY_HISTORY), RETAINED, *arguments
        )

    async def read(self) -> Stored:
        generation, found = await self._run(scripts.READ_POLICIES, (Kind.POLICIES, Kind.POLICY_GENERATION))
        documents, damaged = {}, set()
        for raw_name, raw in zip(found[::2], found[1::2], strict=True):
            name = raw_name.decode("utf-8", "replace")
            try:
                documents[name] = decode(PolicyText, raw, place=name)
            except RegistryUnavailable:
                damaged.add(name)
        return Stored(generation=generation, documents=documents, damaged=frozenset(damaged))

    async def put(self, name: str, text: bytes, *, author: str, expected: Expected = None) -> tuple[PolicyText, bool]:
        """The document and whether it changed. `expected`: the digests of which it must have one before, or `ANY`;
        raises `PreconditionFailed` if it has not."""
        draft = new_text(name, text, author=author, source=Source.REDIS)
        changed, raw = await self._run(
            scripts.PUT_POLICY,
            (Kind.POLICIES, Kind.POLICY_GENERATION, Kind.POLICY_HISTORY),
            name,
            listed(expected),
            draft.digest,
            body_of(draft, without="generation"),
            RETAINED,
            subject=name,
        )
        return decode(PolicyText, raw, place=name), bool(changed)

    async def record(self, draft: PolicyText) -> PolicyText:
        """Notes a change that was made elsewhere, once, however many nodes see it; the note."""
        _, raw = await self._run(
            scripts.RECORD_POLICY,
            (Kind.POLICY_GENERATION, Kind.POLICY_HISTORY),
            draft.name,
            draft.digest,
            body_of(draft, without="generation"),
            RETAINED,
        )
        return decode(PolicyText, raw, place=draft.name)

    async def history(self, name: str) -> tuple[PolicyText, ...]:
        """The newest changes, latest first, at most `RETAINED`."""
        stored = await self.connection.hash_all(key(None, Kind.POLICY_HISTORY))
        found = [
            decode(PolicyText, raw, place=field) for field, raw in stored.items() if field.rpartition("@")[0] == name
        ]
        return tuple(sorted(found, key=lambda change: -change.generation))

    async def pulse(self, node: str | None, acknowledged: int) -> Pulse:
        """Says that `node` lives and what it has applied; without a node, only listens."""
        generation, live = await self._run(
            scripts.PULSE, (Kind.NODES, Kind.POLICY_GENERATION), node or "", acknowledged, LIVE_MS, NOTED_MS
        )
        nodes = {name.decode(): int(number) for name, number in zip(live[::2], live[1::2], strict=True)}
        return Pulse(generation=generation, nodes=nodes)

    async def leave(self, node: str) -> None:
        await self.connection.command("HDEL", key(None, Kind.NODES), node)

    async def _run(
        self,
        script: Script,
        kinds: tuple[Kind, ...],
        *arguments: str | bytes | int,
        subject: str = "the policies",
    ) -> list[Any]:
        return accepted(await self.connection.run(script, keys(None, *kinds), *arguments), subject)

"""The operator's documents in force on this node, and how they change while it runs.

With a directory the files rule: they are read again every half second, and a change counts once two readings agree.
Without one Redis does: every node follows its generation, by event and, should one be missed, by asking twice a second.
`ceilings` is replaced whole and stays the same object while nothing changes: what was made under it knows by that.
A document that does not parse never replaces one that did.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from wisp.errors import Conflict, Fault, PolicyFromFile, RegistryUnavailable
from wisp.policy.ceilings import MAX_DOCUMENTS, Ceilings, Revision, check_document
from wisp.policy.folder import Reading, read_folder
from wisp.registry.policies import Policies, PolicyText, Pulse, Source, new_text

log = logging.getLogger(__name__)

POLL_S: Final = 0.5
SETTLE_S: Final = 0.1
"""Between two readings of a directory that must agree: who writes a file need not do it at one stroke."""
READINGS: Final = 5
ACKNOWLEDGED_S: Final = 1.0
FIRST_LOOK_S, LAST_LOOK_S = 0.002, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A document after it was put. `pending`: the live nodes that had not applied it when time was up."""

    document: PolicyText
    changed: bool
    pending: tuple[str, ...]


class PolicyBook(ABC):
    """`open`, then `run` beside the requests, `close` at the end."""

    source: Source

    def __init__(self, policies: Policies) -> None:
        self.ceilings: Ceilings
        """In force. What is read in one turn of the event loop belongs together."""
        self.documents: Mapping[str, PolicyText] = {}
        """Those in force, as they were written."""
        self.faults: Mapping[str, tuple[Fault, ...]] = {}
        """By document: why what stands in the file or in Redis is not in force."""
        self.policies = policies
        self._written: Ceilings
        self._answer_bytes: int | None = None
        self._woken = asyncio.Event()
        self._turn = asyncio.Lock()

    @abstractmethod
    async def open(self, kept: tuple[PolicyText, ...] | None = None) -> None:
        """The first documents. `kept`: those that a former process followed, where the registry cannot be asked.

        Raises `InvalidPolicy` unless all of them are right: a node does not guess.
        """

    @abstractmethod
    async def put(self, name: str, text: bytes, *, author: str, expected: tuple[str, ...] | None) -> Placed:
        """Raises `PolicyFromFile`, `InvalidPolicy`, `PreconditionFailed`, `Conflict`."""

    @abstractmethod
    async def follow(self) -> object:
        """Looks once whether something changed, and applies it."""

    @abstractmethod
    async def close(self) -> None:
        """Says goodbye, where anybody listens."""

    def wake(self) -> None:
        """Something may have changed: look now."""
        self._woken.set()

    async def run(self) -> None:
        """Until cancelled, through every loss of Redis (which those who serve requests report)."""
        while True:
            with suppress(RegistryUnavailable):
                await self.follow()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._woken.wait()
            self._woken.clear()

    def fit(self, answer_bytes: int) -> None:
        """From here on no answer is allowed more than the room that the sandboxes were started with."""
        self._answer_bytes = answer_bytes
        self._put_in_force(self._written)

    @property
    def waits_for_restart(self) -> bool:
        """Whether the ceiling allows larger answers than this node was started for."""
        return self.ceilings is not self._written

    def read_as(self, name: str, text: bytes) -> Revision:
        """What would be in force with this document instead; nothing changes."""
        return self._written.revised({**self._written.texts, name: text})

    def _put_in_force(self, ceilings: Ceilings) -> None:
        self._written = ceilings
        self.ceilings = ceilings if self._answer_bytes is None else ceilings.within(self._answer_bytes)
        if self.waits_for_restart:
            log.warning("the ceiling's limits.response_body and limits.logs hold in full when this node starts again")

    async def _revise(
        self,
        texts: Mapping[str, bytes],
        documents: Mapping[str, PolicyText],
        unreadable: Mapping[str, tuple[Fault, ...]],
    ) -> None:
        """Takes over what parses; `documents` tell of the same texts."""
        revision = await asyncio.to_thread(self._written.revised, texts)
        faults = {**revision.faults, **unreadable}
        for name, found in faults.items():
            if self.faults.get(name) != found:
                first = found[0]
                at = "" if first.line is None else f"line {first.line}, "
                log.error("policy %s is not taken over: %s%s: %s", ascii(name), at, first.field, first.message)
        fresh = {name: document for name, document in documents.items() if name not in faults}
        for name, document in fresh.items():
            known = self.documents.get(name)
            if known is None or known.digest != document.digest:
                log.info("policy %s changed: generation %d, by %s", name, document.generation, document.author)
        self.documents = {**self.documents, **fresh}
        self.faults = faults
        if revision.ceilings is not self._written:
            self._put_in_force(revision.ceilings)


class FileBook(PolicyBook):
    """Redis only remembers the history, and that as soon as it can."""

    source = Source.FILE

    def __init__(self, policies: Policies, directory: Path) -> None:
        super().__init__(policies)
        self.directory = directory
        self._read = Reading(texts={}, faults={})
        self._unrecorded: set[str] = set()

    async def open(self, kept: tuple[PolicyText, ...] | None = None) -> None:
        self._put_in_force(await asyncio.to_thread(Ceilings.load, self.directory))
        self._read = Reading(texts=self._written.texts, faults={})
        self.documents = {name: self._noted(name, text) for name, text in self._written.texts.items()}
        self._unrecorded = set(self.documents)
        if kept is None:
            await self._record()

    async def close(self) -> None:
        return

    async def put(self, name: str, text: bytes, *, author: str, expected: tuple[str, ...] | None) -> Placed:
        raise PolicyFromFile(f"{name}: the files in --policies rule here; change {name}.yaml there")

    async def follow(self) -> None:
        async with self._turn:
            reading = await asyncio.to_thread(read_folder, self.directory)
            for _ in range(READINGS):
                if reading == self._read:
                    break
                await asyncio.sleep(SETTLE_S)
                former, reading = reading, await asyncio.to_thread(read_folder, self.directory)
                if former == reading:
                    await self._take(reading)
                    break
            await self._record()

    async def _take(self, reading: Reading) -> None:
        self._read = reading
        documents = {
            name: self.documents[name] if self._written.texts.get(name) == text else self._noted(name, text)
            for name, text in reading.texts.items()
        }
        former = self.documents
        await self._revise(reading.texts, documents, reading.faults)
        self._unrecorded |= {name for name, document in self.documents.items() if former.get(name) is not document}

    def _noted(self, name: str, text: bytes) -> PolicyText:
        return new_text(name, text, author="file", source=Source.FILE)

    async def _record(self) -> None:
        """Puts what changed into the history; while Redis is away it stays to be done."""
        for name in sorted(self._unrecorded):
            with suppress(RegistryUnavailable):
                note = await self.policies.record(self.documents[name])
                self.documents = {**self.documents, name: replace(note, source=Source.FILE)}
                self._unrecorded.discard(name)


class RedisBook(PolicyBook):
    """`defaults`: the directory that an empty registry is seeded from. `alone`: nobody else can reach this Redis."""

    source = Source.REDIS

    def __init__(self, policies: Policies, defaults: Path, *, alone: bool) -> None:
        super().__init__(policies)
        self.node = None if alone else make_node_name()
        self._defaults = defaults
        self._seen = -1
        self._acknowledged = 0

    async def open(self, kept: tuple[PolicyText, ...] | None = None) -> None:
        if kept is not None:
            self.documents = {document.name: document for document in kept}
            texts = {name: document.text.encode() for name, document in self.documents.items()}
            self._put_in_force(await asyncio.to_thread(Ceilings.parse, texts))
            return
        packaged = await asyncio.to_thread(Ceilings.load, self._defaults)
        await self.policies.seed(packaged.texts, author="packaged")
        stored = await self.policies.read()
        if stored.damaged:
            names = ", ".join(sorted(stored.damaged))
            raise RegistryUnavailable(f"the registry's record of the policy {names} is damaged: restore it or put it")
        texts = {name: document.text.encode() for name, document in stored.documents.items()}
        self._put_in_force(await asyncio.to_thread(Ceilings.parse, texts))
        self.documents = stored.documents
        self._seen = self._acknowledged = stored.generation
        await self.follow()
        if self.node is not None:
            log.info("this node follows the registry's policies as %s", self.node)

    async def close(self) -> None:
        if self.node is not None:
            with suppress(RegistryUnavailable):
                await self.policies.leave(self.node)

    async def put(self, name: str, text: bytes, *, author: str, expected: tuple[str, ...] | None) -> Placed:
        await asyncio.to_thread(check_document, name, text)
        if name not in self.documents and len(self.documents) >= MAX_DOCUMENTS:
            raise Conflict(f"{name}: there are {MAX_DOCUMENTS} policies already")
        document, changed = await self.policies.put(name, text, author=author, expected=expected)
        return Placed(document=document, changed=changed, pending=await self._pending(document.generation))

    async def _pending(self, generation: int) -> tuple[str, ...]:
        """The live nodes that have not applied it, as soon as there are none, or when time is up."""
        loop = asyncio.get_running_loop()
        until, look_s = loop.time() + ACKNOWLEDGED_S, FIRST_LOOK_S
        while True:
            pulse = await self.follow()
            pending = tuple(sorted(node for node, applied in pulse.nodes.items() if applied < generation))
            if not pending or loop.time() >= until:
                return pending
            await asyncio.sleep(min(look_s, max(until - loop.time(), 0)))
            look_s = min(2 * look_s, LAST_LOOK_S)

    async def follow(self) -> Pulse:
        async with self._turn:
            pulse = await self.policies.pulse(self.node, self._acknowledged)
            if pulse.generation == self._seen:
                return pulse
            await self._load()
            return await self.policies.pulse(self.node, self._acknowledged)

    async def _load(self) -> None:
        stored = await self.policies.read()
        if not stored.documents and not stored.damaged:  # the registry has lost everything: what holds here goes on
            await self.policies.seed(self._written.texts, author="restored")
            stored = await self.policies.read()
        texts = {name: document.text.encode() for name, document in stored.documents.items()}
        damage = Fault(field="document", message="its record in the registry is damaged; what it said before holds")
        await self._revise(texts, stored.documents, dict.fromkeys(stored.damaged, (damage,)))
        self._seen = stored.generation
        if not self.faults:
            self._acknowledged = stored.generation


def make_node_name() -> str:
    """The host's, and something that no other process has."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:63]
    return f"{host}-{secrets.token_hex(4)}"


def make_policy_book(policies: Policies, *, directory: Path | None, defaults: Path, alone: bool) -> PolicyBook:
    if directory is not None:
        return FileBook(policies, directory)
    return RedisBook(policies, defaults, alone=alone)

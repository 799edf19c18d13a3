"""The data plane's view of the registry, in this process: what a warm request reads without awaiting anything.

What changes is loaded anew while the former answers, and takes its place once `prepare` has warmed it; a suspension, a
deletion and a change of keys hold at once. While Redis cannot be reached, what is in memory keeps answering and
anything else is `RegistryUnavailable`. `registry.following` tells it what changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Literal, TypeVar

from wisp.errors import RegistryUnavailable
from wisp.names import FunctionName, KeyId, TenantName
from wisp.registry.credentials import MAX_SECRET_CHARS, parse_secret, secret_sha256
from wisp.registry.kept import Kept
from wisp.registry.keys import version_field
from wisp.registry.memory import UNKNOWN, Memory, Unknown
from wisp.registry.reach import Reach
from wisp.registry.records import Entry, Key, Tenant
from wisp.registry.registry import Registry
from wisp.registry.shelf import Named, Shelf

CAPACITY: Final = 16_384
"""Functions of a node that answer from memory, about 13 kB each with what the sandboxes keep of them. With more of them
in rotation each would be read again at each request."""
ABSENT_S: Final = 1.0
"""A miss is believed no longer than a missed message takes to be noticed."""
UNVERIFIED: Final = -1
"""No slot has this generation: what is remembered of it is to be compared."""

V = TypeVar("V")


async def as_it_is(_: Entry) -> None:
    """Nothing to prepare."""


class Snapshot:
    """Bounded, shared by all requests of one event loop. `Following` must run for other nodes' changes to be seen.

    `seen` has, for each tenant of whom something is remembered, a generation of its slot that all of it is at least as
    new as; what is `due` or being renewed excepted.
    """

    def __init__(self, registry: Registry, *, capacity: int = CAPACITY, absent_s: float = ABSENT_S) -> None:
        self.registry = registry
        self.capacity = capacity
        self.reach = Reach()
        self.prepare: Callable[[Entry], Awaitable[None]] = as_it_is
        self.on_change: Callable[[TenantName], None] = lambda tenant: None
        """Called with each tenant of whom something may have changed."""
        self.on_suspended: Callable[[TenantName, FunctionName | None], None] = lambda tenant, function: None
        """Called the moment that a function, or None for all of a tenant's, is known to be suspended."""
        self.functions: Shelf[Entry] = Shelf(Memory(capacity=capacity, absent_s=absent_s))
        self.pins: Shelf[Entry] = Shelf(Memory(capacity=capacity, absent_s=absent_s))
        self.keys: Shelf[Key] = Shelf(Memory(capacity=capacity, absent_s=absent_s))
        self.tenants: Shelf[Tenant] = Shelf(Memory(capacity=capacity, absent_s=absent_s))
        self.seen: dict[TenantName, int] = {}
        self.due: dict[Named, None] = {}
        """Functions that have changed and wait for their renewal, in order."""
        self.recalled: dict[Named, None] = {}
        """Functions that were forgotten for what may have become of them, to be known again if they still are."""
        self.recalled_keys: dict[Named, KeyId] = {}
        """Likewise keys."""
        self.changed = asyncio.Event()
        """Something is due."""

    def peek_function(self, tenant: TenantName, name: FunctionName) -> Entry | Literal[Unknown.UNKNOWN] | None:
        """From memory alone: None is known to be missing, `UNKNOWN` is not known: await `function`."""
        return self.functions.memory.peek(Named(tenant, name))

    async def function(self, tenant: TenantName, name: FunctionName) -> Entry | None:
        return await self.functions.get(Named(tenant, name), lambda: self._load_entry(tenant, name))

    async def pinned(self, tenant: TenantName, name: FunctionName, number: int) -> Entry | None:
        """One version by its number, whatever the traffic says; the entry has no version if it is not retained."""
        return await self.pins.get(
            Named(tenant, version_field(name, number)),
            lambda: self._load_entry(tenant, name, number),
        )

    def peek_key(self, secret: str) -> Key | Literal[Unknown.UNKNOWN] | None:
        """From memory alone. A malformed secret is known to be nobody's and takes up no memory."""
        claimed = parse_secret(secret)
        if claimed is None:
            return None
        return self.keys.memory.peek(Named(claimed[0], secret_sha256(secret)))

    def known_key(self, tenant: TenantName, secret: str) -> Key | None:
        """This tenant's, from memory alone; None: it takes `peek_key` to say more."""
        if len(secret) > MAX_SECRET_CHARS:
            return None
        known = self.keys.memory.peek(Named(tenant, secret_sha256(secret)))
        return None if known is UNKNOWN else known

    async def key(self, secret: str) -> Key | None:
        claimed = parse_secret(secret)
        if claimed is None:
            return None
        tenant = claimed[0]
        place = Named(tenant, secret_sha256(secret))
        return await self.keys.get(place, lambda: self._load(tenant, lambda: self.registry.keys.authenticate(secret)))

    async def tenant(self, name: TenantName) -> Tenant | None:
        return await self.tenants.get(
            Named(name, ""), lambda: self._load(name, lambda: self.registry.tenants.find(name))
        )

    async def refresh(
        self, tenant: TenantName, function: FunctionName, *, on_loaded: Callable[[], None] = lambda: None
    ) -> None:
        """After a change that requests need not wait for: returns once the new state answers here. `on_loaded` is
        called once, when the registry has answered or could not."""

        async def load() -> Entry | None:
            try:
                return await self._load_entry(tenant, function)
            finally:
                on_loaded()

        self._forget_pins(tenant, function)
        self.on_change(tenant)
        key = Named(tenant, function)
        if key not in self.functions.memory.found:
            on_loaded()
        await self.functions.renew(key, load, self._prepare_entry)

    async def settle(self, tenant: TenantName, function: FunctionName) -> None:
        """After a change made here that the registry has acknowledged: `refresh`, else later. Never raises that the
        registry went away meanwhile: the change stands."""
        try:
            await self.refresh(tenant, function)
        except RegistryUnavailable:
            self.doubt_function(tenant, function)

    def invalidate(self, tenant: TenantName, function: FunctionName | None = None) -> None:
        """Forgets one function, or all that is remembered of a tenant, at once: for what must not answer any more."""
        if function is not None:
            wanted = Named(tenant, function)
            self.functions.invalidate(lambda key: key == wanted)
            self._forget_pins(tenant, function)
        else:
            for shelf in (self.functions, self.pins, self.keys, self.tenants):
                shelf.invalidate(lambda key: key.tenant == tenant)
        self.on_change(tenant)

    def doubt_function(self, tenant: TenantName, function: FunctionName) -> None:
        """It has changed: what is known answers until the renewal is through."""
        self._forget_pins(tenant, function)
        self.due[Named(tenant, function)] = None
        self.changed.set()
        self.on_change(tenant)

    def doubt_functions(self, tenant: TenantName) -> None:
        """All of a tenant's; one that is only known to be missing, or under way for the first time, is forgotten."""
        self.functions.invalidate(lambda key: key.tenant == tenant and key not in self.functions.memory.found)
        self.pins.invalidate(lambda key: key.tenant == tenant)
        for key in self.functions.memory.found:
            if key.tenant == tenant:
                self.due[key] = None
        self.changed.set()
        self.on_change(tenant)

    def doubt_key(self, tenant: TenantName, key_id: str) -> None:
        """It was issued or revoked: forgotten at once, with what is known to be nobody's."""
        found = self.keys.memory.found
        self.keys.invalidate(lambda key: key.tenant == tenant and (key not in found or found[key].id == key_id))

    def doubt_keys(self, tenant: TenantName) -> None:
        """Forgotten at once, so that a revoked one answers no more, and asked for again."""
        self._recall_keys(tenant)
        self.keys.invalidate(lambda key: key.tenant == tenant)

    def drop(self, tenant: TenantName, function: FunctionName) -> None:
        """It was deleted or suspended: it does not answer before it is read again."""
        place = Named(tenant, function)
        if place in self.functions.memory.found:
            self._recall((place,))
        self.invalidate(tenant, function)

    def suspend(self, tenant: TenantName, function: FunctionName | None, revision: int) -> None:
        """A function, or all of a tenant's, was suspended at this revision of its record: holds at once, without a
        reading. Of no matter where a later revision is known already."""
        for place, entry in self.functions.memory.found.items():
            if place.tenant == tenant and function in (None, place.name):
                known = entry.tenant.revision if function is None else entry.function.revision
                if known > revision:
                    return
        self.on_suspended(tenant, function)
        if function is None:
            self.end(tenant)
        else:
            self.drop(tenant, function)

    def end(self, tenant: TenantName) -> None:
        """The tenant itself has changed, perhaps it was suspended: nothing of it answers before it is read again."""
        self._recall_keys(tenant)
        self._recall(key for key in self.functions.memory.found if key.tenant == tenant)
        self.invalidate(tenant)

    def restore(self, kept: Kept, generations: Mapping[TenantName, int] | None) -> None:
        """What a former process knew. `generations`: what the registry says now, and what has changed since is only
        asked for again; None while it cannot be asked, and all of it answers."""
        whole = {
            tenant
            for tenant, number in kept.generations.items()
            if generations is None or generations.get(tenant) == number
        }
        self.seen.update({tenant: kept.generations[tenant] for tenant in whole})
        for entry in kept.entries:
            place = Named(entry.tenant.name, entry.function.name)
            if place.tenant in whole:
                self.functions.memory.store(place, entry)
            else:
                self._recall((place,))
        for key in kept.keys:
            place = Named(key.tenant, key.secret_sha256)
            if place.tenant in whole:
                self.keys.memory.store(place, key)
            else:
                self.recalled_keys[place] = key.id
        for tenant in kept.tenants:
            if tenant.name in whole:
                self.tenants.memory.store(Named(tenant.name, ""), tenant)
        self.changed.set()

    def _recall(self, places: Iterable[Named]) -> None:
        self.recalled.update(dict.fromkeys(places))
        self.changed.set()

    def _recall_keys(self, tenant: TenantName) -> None:
        for place, key in self.keys.memory.found.items():
            if place.tenant == tenant:
                self.recalled_keys[place] = key.id
        self.changed.set()

    async def recall_key(self, place: Named, key_id: KeyId) -> None:
        """Knows a key again, without anybody who shows its secret."""
        await self.keys.get(
            place,
            lambda: self._load(place.tenant, lambda: self.registry.keys.recall(place.tenant, key_id, place.name)),
        )

    def doubt(self, tenant: TenantName) -> None:
        """Something of the tenant has changed, nobody said what."""
        self.doubt_keys(tenant)
        self.tenants.invalidate(lambda key: key.tenant == tenant)
        self.doubt_functions(tenant)

    def remembered(self) -> set[TenantName]:
        """The tenants of whom something is known or on its way."""
        shelves: tuple[Iterable[Named], ...] = (
            *(shelf.memory.found for shelf in (self.functions, self.pins, self.keys, self.tenants)),
            *(shelf.flights for shelf in (self.functions, self.pins, self.keys, self.tenants)),
        )
        return {key.tenant for shelf in shelves for key in shelf}

    def forget_unused(self) -> None:
        """Generations of tenants of whom nothing is remembered."""
        kept = self.remembered()
        for tenant in [tenant for tenant in self.seen if tenant not in kept]:
            del self.seen[tenant]

    def _forget_pins(self, tenant: TenantName, function: FunctionName) -> None:
        self.pins.invalidate(lambda key: key.tenant == tenant and key.name.partition("@")[0] == function)

    async def _load_entry(self, tenant: TenantName, name: FunctionName, number: int | None = None) -> Entry | None:
        entry = await self._load(tenant, lambda: self.registry.functions.entry(tenant, name, number))
        if entry is not None and (entry.tenant.suspended or entry.function.suspended):
            known = self.functions.memory.found.get(Named(tenant, name))
            if known is None or known.function.revision <= entry.function.revision:
                self.on_suspended(tenant, name)
        return entry

    async def _load(self, tenant: TenantName, load: Callable[[], Awaitable[V | None]]) -> V | None:
        self.reach.check()
        if tenant not in self.seen:
            generation = await self.registry.generation(tenant)  # before the value: what it misses is noticed
            if len(self.seen) >= 2 * self.capacity:
                self.forget_unused()
            self.seen.setdefault(tenant, generation)
        return await load()

    async def _prepare_entry(self, entry: Entry) -> None:
        if not entry.function.suspended and not entry.tenant.suspended:
            await self.prepare(entry)

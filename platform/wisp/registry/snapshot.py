"""The data plane's view of the registry, in this process: what a warm request reads without awaiting anything.

An entry is dropped when this node or another changes it, and everything is when the event stream (re)starts. While
Redis cannot be reached, what is in memory keeps answering and anything else is `RegistryUnavailable`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from contextlib import aclosing
from typing import Final, Generic, Literal, NamedTuple, TypeVar

from wisp.errors import RegistryUnavailable, WispError
from wisp.names import FunctionName, TenantName
from wisp.registry.credentials import parse_secret, secret_sha256
from wisp.registry.events import LISTEN_S, Event, Subscribed
from wisp.registry.keys import version_field
from wisp.registry.memory import UNKNOWN, Memory, Unknown
from wisp.registry.records import Entry, Key, Tenant
from wisp.registry.registry import Registry

log = logging.getLogger(__name__)

CAPACITY: Final = 4096
ABSENT_S: Final = 2.0
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Named(NamedTuple):
    """What a memory is keyed by. `name`: the function, function@number, the SHA-256 of a secret, or nothing."""

    tenant: TenantName
    name: str


class Flight(Generic[V]):
    """One load under way. `stale`: an invalidation came after it began, so its result may predate the change."""

    def __init__(self) -> None:
        self.landed: asyncio.Future[V | Literal[Unknown.UNKNOWN] | None] = asyncio.get_running_loop().create_future()
        self.stale = False


class Shelf(Generic[V]):
    """A memory with loads that callers share, and that an invalidation overtakes."""

    def __init__(self, memory: Memory[Named, V]) -> None:
        self.memory = memory
        self.flights: dict[Named, Flight[V]] = {}

    async def get(self, key: Named, load: Callable[[], Awaitable[V | None]]) -> V | None:
        while True:
            known = self.memory.peek(key)
            if known is not UNKNOWN:
                return known
            flight = self.flights.get(key)
            if flight is None:
                return await self._fly(key, load)
            landed = await asyncio.shield(flight.landed)
            if landed is not UNKNOWN:
                return landed

    async def _fly(self, key: Named, load: Callable[[], Awaitable[V | None]]) -> V | None:
        flight: Flight[V] = Flight()
        self.flights[key] = flight
        try:
            value = await load()
        except WispError as error:
            flight.landed.set_exception(error)
            flight.landed.exception()  # seen: nobody may have been waiting
            raise
        else:
            if not flight.stale:
                self.memory.store(key, value)
            flight.landed.set_result(value)
            return value
        finally:
            if self.flights.get(key) is flight:
                del self.flights[key]
            if not flight.landed.done():  # cancelled: whoever waits takes over
                flight.landed.set_result(UNKNOWN)

    def invalidate(self, matches: Callable[[Named], bool]) -> None:
        """Forgets what matches; a load under way still answers those who wait for it, and is not kept."""
        self.memory.forget_where(matches)
        for key in [key for key in self.flights if matches(key)]:
            self.flights.pop(key).stale = True


class Snapshot:
    """Bounded, shared by all requests of one event loop. `run` must be running for other nodes' changes to be seen."""

    def __init__(
        self,
        registry: Registry,
        *,
        capacity: int = CAPACITY,
        absent_s: float = ABSENT_S,
        on_policy: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_policy` is called when one of the operator's documents may have changed."""
        self.registry = registry
        self.on_policy = on_policy
        self.functions: Shelf[Entry] = Shelf(Memory(capacity=capacity, absent_s=absent_s))
        self.pins: Shelf[Entry] = Shelf(Memory(capacity=capacity, absent_s=absent_s))
        self.keys: Shelf[Key] = Shelf(Memory(capacity=capacity, absent_s=absent_s))
        self.tenants: Shelf[Tenant] = Shelf(Memory(capacity=capacity, absent_s=absent_s))

    def peek_function(self, tenant: TenantName, name: FunctionName) -> Entry | Literal[Unknown.UNKNOWN] | None:
        """From memory alone: None is known to be missing, `UNKNOWN` is not known: await `function`."""
        return self.functions.memory.peek(Named(tenant, name))

    async def function(self, tenant: TenantName, name: FunctionName) -> Entry | None:
        return await self.functions.get(Named(tenant, name), lambda: self.registry.functions.entry(tenant, name))

    async def pinned(self, tenant: TenantName, name: FunctionName, number: int) -> Entry | None:
        """One version by its number, whatever the traffic says; the entry has no version if it is not retained."""
        place = Named(tenant, version_field(name, number))
        return await self.pins.get(place, lambda: self.registry.functions.entry(tenant, name, number))

    def peek_key(self, secret: str) -> Key | Literal[Unknown.UNKNOWN] | None:
        """From memory alone. A malformed secret is known to be nobody's and takes up no memory."""
        claimed = parse_secret(secret)
        if claimed is None:
            return None
        return self.keys.memory.peek(Named(claimed[0], secret_sha256(secret)))

    async def key(self, secret: str) -> Key | None:
        claimed = parse_secret(secret)
        if claimed is None:
            return None
        place = Named(claimed[0], secret_sha256(secret))
        return await self.keys.get(place, lambda: self.registry.keys.authenticate(secret))

    async def tenant(self, name: TenantName) -> Tenant | None:
        return await self.tenants.get(Named(name, ""), lambda: self.registry.tenants.find(name))

    def invalidate(self, tenant: TenantName, function: FunctionName | None = None) -> None:
        """Forgets one function, or all that is remembered of a tenant. Call it after every local write."""
        if function is not None:
            wanted = Named(tenant, function)
            self.functions.invalidate(lambda key: key == wanted)
            self.pins.invalidate(lambda key: key.tenant == tenant and key.name.partition("@")[0] == function)
        else:
            for shelf in (self.functions, self.pins, self.keys, self.tenants):
                shelf.invalidate(lambda key: key.tenant == tenant)

    def clear(self) -> None:
        for shelf in (self.functions, self.pins, self.keys, self.tenants):
            shelf.invalidate(lambda key: True)

    def apply(self, event: Event) -> None:
        if event.tenant is None:
            if event.kind == "policy":
                self.on_policy()
            return  # versions pin shared models by digest: no entry depends on the operator's slot
        tenant = TenantName(event.tenant)
        match event.kind:
            case "function":
                self.invalidate(tenant, FunctionName(event.name))
            case "secret":
                for shelf in (self.functions, self.pins):
                    shelf.invalidate(lambda key: key.tenant == tenant)
            case "key":
                self.keys.invalidate(lambda key: key.tenant == tenant)
            case "model":
                pass
            case _:  # the tenant itself, or something that a newer wisp tells of
                self.invalidate(tenant)

    async def run(self, *, listen_s: float = LISTEN_S) -> None:
        """Follows the events until cancelled, through every loss of Redis."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async with aclosing(self.registry.subscribe(listen_s=listen_s)) as events:
                    async for event in events:
                        pause_s = FIRST_PAUSE_S
                        if isinstance(event, Subscribed):
                            self.clear()
                            self.on_policy()
                        else:
                            self.apply(event)
            except RegistryUnavailable as error:
                log.warning("the registry's events are lost, again in %.1f s: %s", pause_s, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

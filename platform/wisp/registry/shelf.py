"""A memory of the registry with loads that callers share, that an invalidation overtakes, and that can be renewed while
what is known keeps answering."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, Literal, NamedTuple, TypeVar

from wisp.errors import WispError
from wisp.names import TenantName
from wisp.registry.memory import UNKNOWN, Memory, Unknown

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


class Renewal:
    """One renewal under way. `stale`: a later one, or an invalidation, has settled the matter."""

    def __init__(self) -> None:
        self.stale = False


class Shelf(Generic[V]):
    def __init__(self, memory: Memory[Named, V]) -> None:
        self.memory = memory
        self.flights: dict[Named, Flight[V]] = {}
        self.renewals: dict[Named, list[Renewal]] = {}

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

    async def renew(
        self, key: Named, load: Callable[[], Awaitable[V | None]], prepare: Callable[[V], Awaitable[None]]
    ) -> None:
        """Loads anew, and puts the result in place once `prepare` is done with it; until then what is known answers.

        An equal value leaves the known object where it is. Of several renewals under way the one that began last
        has the last word. What is not known is only forgotten: its next reader loads it.
        """
        self._overtake(key)
        if key not in self.memory.found:
            self.memory.forget(key)
            return
        renewal = Renewal()
        under_way = self.renewals.setdefault(key, [])
        under_way.append(renewal)
        try:
            value = await load()
            if not renewal.stale and value is not None and value != self.memory.found.get(key):
                await prepare(value)
            if renewal.stale:
                return
            if value is None or value != self.memory.found.get(key):
                self._overtake(key)
                self.memory.store(key, value)
            for earlier in under_way[: under_way.index(renewal)]:
                earlier.stale = True
        finally:
            under_way.remove(renewal)
            if not under_way and self.renewals.get(key) is under_way:
                del self.renewals[key]

    def invalidate(self, matches: Callable[[Named], bool]) -> None:
        """Forgets what matches; a load under way still answers those who wait for it, and is not kept."""
        self.memory.forget_where(matches)
        for key in [key for key in (*self.flights, *self.renewals) if matches(key)]:
            self._overtake(key)
            for renewal in self.renewals.get(key, ()):
                renewal.stale = True

    def _overtake(self, key: Named) -> None:
        flight = self.flights.pop(key, None)
        if flight is not None:
            flight.stale = True

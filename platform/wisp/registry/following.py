"""How the snapshot follows the registry: by events, and by each slot's generation, which no lost message can hide.

An event that is the next of its slot tells what changed. One that is not, and a generation that is not the one seen
(they are compared twice a second, all in a few round trips), tell that a message was missed: then all that is
remembered of the tenant is doubted. So a missed message is healed within a second, and a lost connection forgets
nothing that is still true.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Final

from wisp.errors import RegistryUnavailable, WispError
from wisp.names import FunctionName, KeyId, TenantName
from wisp.registry.events import LISTEN_S, Event, Subscribed
from wisp.registry.shelf import Named
from wisp.registry.snapshot import Snapshot

log = logging.getLogger(__name__)

COMPARE_EVERY_S: Final = 0.5
COMPARE_S: Final = 2.0
"""A registry that takes longer to say its generations is away."""
COMPARISONS_A_PRUNING: Final = 64
"""Looking through all that is remembered for tenants of whom nothing is takes as long as comparing them a few times."""
LOADS: Final = 8
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 1.0


async def nothing() -> None:
    """The registry was prepared before."""


class Following:
    """`run` beside the requests."""

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        prepare_registry: Callable[[], Awaitable[None]] = nothing,
        on_policy: Callable[[], None] = lambda: None,
        on_function: Callable[[TenantName, FunctionName], None] = lambda tenant, function: None,
        on_slots: Callable[[TenantName], None] = lambda tenant: None,
        compare_every_s: float = COMPARE_EVERY_S,
    ) -> None:
        """`prepare_registry` is awaited once before anything is asked, again until it succeeds; `on_policy` is called
        when one of the operator's documents may have changed, `on_function` when a function has: here or elsewhere;
        `on_slots` when a node wants more of a tenant's in-flight slots than are left."""
        self.snapshot = snapshot
        self._prepare_registry = prepare_registry
        self._on_policy = on_policy
        self._on_function = on_function
        self._on_slots = on_slots
        self._compare_every_s = compare_every_s
        self._look = asyncio.Event()
        self._loads = asyncio.Semaphore(LOADS)
        self._overdue: dict[Named, None] = {}
        self._missing: dict[Named, None] = {}
        self._missing_keys: dict[Named, KeyId] = {}
        self._waiting: set[Named] = set()
        self._recalls = 0
        """Under way."""
        self._comparisons = 0
        self._told: set[Named] = set()
        """Whose trouble is in the log already."""
        self._prepared = prepare_registry is nothing

    async def run(self, *, listen_s: float = LISTEN_S) -> None:
        """Until cancelled, through every loss of Redis."""
        parts = [asyncio.create_task(part) for part in (self._listen(listen_s), self._compare(), self._renew())]
        try:
            # No TaskGroup: it cancels its tasks once, and the Redis client may lose a cancellation.
            await asyncio.gather(*parts)
        finally:
            for part in parts:
                part.cancel()

    @property
    def unsettled(self) -> set[TenantName]:
        """Those of whom something that is remembered is known to have changed."""
        snapshot = self.snapshot
        keys = (*snapshot.due, *self._overdue, *self._waiting, *snapshot.functions.renewals)
        return {key.tenant for key in keys}

    @property
    def recalling(self) -> bool:
        """Whether something that a former process knew, or this one before a change, is still to be asked for."""
        snapshot = self.snapshot
        waiting = (snapshot.recalled, snapshot.recalled_keys, self._missing, self._missing_keys)
        return bool(self._recalls) or any(waiting)

    def apply(self, event: Event) -> None:
        if event.tenant is None:
            if event.kind == "policy":
                self._on_policy()
            return  # versions pin shared models by digest: no entry depends on the operator's slot
        snapshot, tenant = self.snapshot, TenantName(event.tenant)
        if event.kind == "slots":
            self._on_slots(tenant)
            return
        seen = snapshot.seen.get(tenant)
        if seen is not None:
            if event.generation > seen + 1:
                log.info("a message about %s was missed", tenant)
                snapshot.doubt(tenant)
            snapshot.seen[tenant] = max(seen, event.generation)
        match event.kind:
            case "function":
                snapshot.doubt_function(tenant, FunctionName(event.name))
                self._on_function(tenant, FunctionName(event.name))
            case "function-suspended":
                snapshot.suspend(tenant, FunctionName(event.name), event.generation)
            case "function-deleted":
                snapshot.drop(tenant, FunctionName(event.name))
            case "tenant-suspended":
                snapshot.suspend(tenant, None, event.generation)
            case "secret":
                snapshot.doubt_functions(tenant)
            case "key":
                snapshot.doubt_key(tenant, event.name)
            case "model":
                pass
            case _:  # the tenant itself, perhaps suspended, or something that a newer wisp tells of
                snapshot.end(tenant)

    async def _listen(self, listen_s: float) -> None:
        pause_s = FIRST_PAUSE_S
        while not _cancelled():
            try:
                async with aclosing(self.snapshot.registry.subscribe(listen_s=listen_s)) as events:
                    async for event in events:
                        pause_s = FIRST_PAUSE_S
                        if isinstance(event, Subscribed):
                            self._look.set()
                            self._on_policy()
                        else:
                            self.apply(event)
            except RegistryUnavailable as error:
                log.warning("the registry's events are lost, again in %.1f s: %s", pause_s, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _compare(self) -> None:
        while not _cancelled():
            await self.compare()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._compare_every_s):
                    await self._look.wait()
            self._look.clear()

    async def compare(self) -> bool:
        """Once: doubts what has changed unheard, tells `reach`; whether the registry answered."""
        snapshot, reach = self.snapshot, self.snapshot.reach
        if self._comparisons % COMPARISONS_A_PRUNING == 0:
            snapshot.forget_unused()
        self._comparisons += 1
        asked = dict(snapshot.seen)
        try:
            if not self._prepared:
                await self._prepare_registry()
                self._prepared = True
            async with asyncio.timeout(COMPARE_S):
                found = await snapshot.registry.generations(tuple(asked))
        except (RegistryUnavailable, TimeoutError) as error:
            if reach.lost():
                log.warning("the registry is away, this node answers from memory: %s", error)
            return False
        for (tenant, seen), generation in zip(asked.items(), found, strict=True):
            if generation != seen and snapshot.seen.get(tenant) == seen:  # else an event has told meanwhile
                snapshot.seen[tenant] = generation
                snapshot.doubt(tenant)
        snapshot.due.update(self._overdue)
        snapshot.recalled.update(self._missing)
        snapshot.recalled_keys.update(self._missing_keys)
        for waited in (self._overdue, self._missing, self._missing_keys):
            waited.clear()
        snapshot.changed.set()
        if reach.met():
            log.warning("the registry is back")
        return True

    async def _renew(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                await self.snapshot.changed.wait()
                self.snapshot.changed.clear()
                due, self.snapshot.due = self.snapshot.due, {}
                for key in due:
                    if key not in self._waiting:
                        self._waiting.add(key)
                        group.create_task(self._renew_one(key))
                recalled, self.snapshot.recalled = self.snapshot.recalled, {}
                for key in recalled:
                    self._recalls += 1
                    group.create_task(self._recall(key))
                recalled_keys, self.snapshot.recalled_keys = self.snapshot.recalled_keys, {}
                for key, key_id in recalled_keys.items():
                    self._recalls += 1
                    group.create_task(self._recall_key(key, key_id))

    async def _renew_one(self, key: Named) -> None:
        """Not one after the other for one function: a suspension does not wait for what a former version loads."""
        name = FunctionName(key.name)
        try:
            await self._loads.acquire()
            self._waiting.discard(key)
            await self.snapshot.refresh(key.tenant, name, on_loaded=self._loads.release)
            self._told.discard(key)
        except asyncio.CancelledError:
            self._overdue[key] = None
            raise
        except WispError as error:  # away, or a record that this wisp cannot read
            self._overdue[key] = None  # until the next comparison
            if key not in self._told:
                self._told.add(key)
                log.warning("%s/%s has changed, and its new state cannot be read yet: %s", *key, error)

    async def _recall(self, place: Named) -> None:
        try:
            async with self._loads:
                await self.snapshot.function(place.tenant, FunctionName(place.name))
        except WispError:
            self._missing[place] = None
        finally:
            self._recalls -= 1

    async def _recall_key(self, place: Named, key_id: KeyId) -> None:
        try:
            async with self._loads:
                await self.snapshot.recall_key(place, key_id)
        except WispError:
            self._missing_keys[place] = key_id
        finally:
            self._recalls -= 1


def _cancelled() -> bool:
    """A group cancels its tasks once, and the Redis client may lose a cancellation that arrives inside it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

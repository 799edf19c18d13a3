"""The usage ledger: what requests used, summed in memory by hour and function, delivered to the registry every second,
or, where many tenants have something in it, every few seconds.

Each answered request stands in the node's journal before its answer is sent, and is delivered in a numbered batch that
the registry takes once (`registry.usage`). What is never counted: requests that were running when the router was
killed, and, where the node does not come back to its data directory, what was not delivered yet: one interval, or as
long as Redis was away.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import defaultdict
from operator import itemgetter
from pathlib import Path
from typing import Final

from wisp.errors import NotFound, RegistryUnavailable
from wisp.names import FunctionName, TenantName
from wisp.registry.usage import METRICS, Place, Usage, Use
from wisp.usagejournal import Batch, Full, Journal, Key, left_behind
from wisp.wire.outcome import Receipt

log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0
LONGEST_S: Final = 5.0
PAUSE: Final = 40
"""Deliveries pause for an interval at least, and for so many times what the last one took, but for no longer than the
longest: a thousand tenants cost a thousand scripts each time."""
AT_ONCE: Final = 8
"""Tenants whose usage is delivered together: few enough to be put into words in a moment."""
LAST_FLUSH_S: Final = 5.0
MAX_PLACES: Final = 100_000
"""Hours and functions in one batch. Beyond, which takes days without Redis, hours are no longer told apart."""
HOUR_S: Final = 3600
SUMS: Final = itemgetter(*map(Receipt._fields.index, METRICS))
"""Of a receipt, what is summed, in its order."""


def pause_s(took_s: float) -> float:
    return min(LONGEST_S, max(INTERVAL_S, PAUSE * took_s))


class Ledger:
    """Belongs to one event loop. `run` delivers until it is cancelled, `close` delivers the rest."""

    def __init__(self, usage: Usage, directory: Path) -> None:
        self._usage = usage
        self._life = secrets.token_hex(8)
        self._waiting: list[Batch] = left_behind(directory)
        """To be delivered as they are, in this order; some may have been."""
        self._current = Batch(life=self._life, sequence=1)
        self._journal: Journal | None = None
        try:
            self._journal = Journal(directory, self._life)
            self._journal.begin(1)
        except OSError as error:
            log.warning("usage is kept in memory alone until it is delivered, %s: %s", directory, error.strerror)
        self._crowd: dict[tuple[TenantName, FunctionName], Key] = {}
        self._delivering = asyncio.Lock()

    def record(self, tenant: TenantName, function: FunctionName, outcome: str, receipt: Receipt) -> None:
        """One request. `outcome` is one of `registry.usage.OUTCOMES`."""
        hour = int(time.time()) // HOUR_S
        sums = SUMS(receipt)
        used = self._current.used
        key = (hour, tenant, function)
        use = used.get(key)
        if use is None:
            if len(used) >= MAX_PLACES:
                key = self._crowded(key)
            use = used.setdefault(key, Use())
        use.add(outcome, 1, sums)
        if self._journal is not None:
            try:
                self._journal.append(key[0], f"{tenant} {function} {outcome}".encode(), 1, sums)
            except Full:
                self._rewrite()

    def _crowded(self, key: Key) -> Key:
        """The place of an hour that is there, if this function has one."""
        if not self._crowd:
            self._crowd = {other[1:]: other for other in self._current.used}
        return self._crowd.setdefault(key[1:], key)

    def _rewrite(self) -> None:
        assert self._journal is not None
        try:
            self._journal.rewrite(self._current.used)
        except Full:
            log.warning("the usage journal is full: until Redis is back, more is kept in memory alone")
            self._journal.remove()
            self._journal = None

    def forget(self, tenant: TenantName) -> None:
        """The tenant was deleted: nothing of it goes to one that takes the name later."""
        for batch in (*self._waiting, self._current):
            for key in [key for key in batch.used if key[1] == tenant]:
                del batch.used[key]

    async def run(self) -> None:
        took_s = 0.0
        while True:
            await asyncio.sleep(pause_s(took_s))
            began = time.monotonic()
            await self.flush()
            took_s = time.monotonic() - began

    async def flush(self) -> bool:
        """Delivers what was recorded before; whether all of it was."""
        async with self._delivering:
            if not await self._deliver_waiting():
                return False
            if not self._current.used:
                return True
            self._waiting.append(self._current)
            self._current, self._crowd = Batch(life=self._life, sequence=self._current.sequence + 1), {}
            if self._journal is not None:
                self._journal.begin(self._current.sequence)
            return await self._deliver_waiting()

    async def _deliver_waiting(self) -> bool:
        while self._waiting:
            batch = self._waiting[0]
            tenants = _by_tenant(batch)
            for start in range(0, len(tenants), AT_ONCE):
                some = tenants[start : start + AT_ONCE]
                delivered = await asyncio.gather(*(self._deliver(batch, tenant, used) for tenant, used in some))
                if not all(delivered):
                    return False
            if batch.file is not None:
                batch.file.unlink(missing_ok=True)
            self._waiting.pop(0)
        return True

    async def _deliver(self, batch: Batch, tenant: TenantName, used: dict[Place, Use]) -> bool:
        """One tenant's. False where the registry cannot be reached."""
        try:
            await self._usage.add(tenant, batch.life, batch.sequence, used, now_s=int(time.time()))
        except RegistryUnavailable:
            return False
        except NotFound:
            log.info("usage of %s is dropped: there is no such tenant any more", tenant)
        for hour, function in used:
            batch.used.pop((hour, tenant, function), None)
        return True

    async def close(self) -> None:
        """What cannot be delivered stays in the journal, for the node's next life."""
        delivered = False
        try:
            async with asyncio.timeout(LAST_FLUSH_S):
                delivered = await self.flush()
        except TimeoutError:
            pass
        if self._journal is None:
            return
        if delivered:
            self._journal.remove()
        else:
            log.warning("usage that Redis did not take is kept in %s", self._journal.path)
            self._journal.close()


def _by_tenant(batch: Batch) -> list[tuple[TenantName, dict[Place, Use]]]:
    tenants: defaultdict[TenantName, dict[Place, Use]] = defaultdict(dict)
    for (hour, tenant, function), use in batch.used.items():
        tenants[tenant][hour, function] = use
    return list(tenants.items())

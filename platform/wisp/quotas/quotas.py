"""Quotas of tenants, across all nodes: leased from Redis in the background, spent in memory, given back when idle.

A warm request waits for nothing and makes no round trip. A lease is asked for by one task a tenant; requests that find
too little wait for it, shortly, and are refused if it brings nothing. While Redis is away the last leases go on, within
the bounds of `allowances`, and that is said once in the log and counted for `/metrics`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from wisp.errors import NotFound, RegistryUnavailable
from wisp.names import FunctionName, TenantName
from wisp.policy.grants import Concurrency
from wisp.policy.schema import Quota
from wisp.quotas.allowances import DRY_S, LEASE_S, Reservation
from wisp.quotas.turns import Desk, Turn
from wisp.registry.quotas import Quotas as QuotaRegistry
from wisp.registry.quotas import Resource

log = logging.getLogger(__name__)

WAIT_S: Final = 0.25
"""How long a request waits for a lease before it goes on without."""
TRIES: Final = 4
"""Leases that one request waits for, where each brings something and others take it."""
SWEEP_S: Final = 1.0
RENEW_S: Final = 6.0
"""A lease in use is renewed at this age, if it has lasted so long."""
IDLE_S: Final = 4.0
AGAIN_S: Final = 1.0
"""While Redis is away, one tenant at a time asks whether it is back, so often."""
AT_ONCE: Final = 8
"""Leases of the background under way together."""
CLOSING_S: Final = 2.0
CAPACITY: Final = 65_536


class Quotas:
    """`clock`: monotonic seconds. `run` must be running; `close` gives every lease back."""

    def __init__(self, registry: QuotaRegistry, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = registry
        self._clock = clock
        self._desks: dict[TenantName, Desk] = {}
        self._number = 0
        self._away_until = 0.0
        self._away = False
        self._background = asyncio.Semaphore(AT_ONCE)
        self._closing = False

    @property
    def cut_off(self) -> int:
        """Tenants that go on without a lease."""
        return sum(desk.allowance.cut_off_at is not None for desk in self._desks.values())

    def refuse_early(self, tenant: TenantName) -> None:
        """Before a body is read: raises `RateLimited` or `QuotaExceeded` where it is known that nothing is left."""
        desk = self._desks.get(tenant)
        if desk is not None and desk.allowance.dry_until > 0:
            allowance, now = desk.allowance, self._clock()
            if now < allowance.dry_until and (lacking := allowance.lacking(infers=False)) is not None:
                raise allowance.refusal(lacking, now)

    async def enter(
        self,
        tenant: TenantName,
        function: FunctionName,
        quota: Quota,
        concurrency: Concurrency,
        *,
        fuel: int,
        infers: bool,
        bytes_in: int,
    ) -> Turn:
        """Lets one request in. `fuel`: the most that it may use.

        Raises `RateLimited`, `QuotaExceeded`, `TooManyInflight`, `QueueTimeout`. Cancelled, it has used one request.
        """
        desk = self._desks.get(tenant)
        if desk is None:
            desk = self._desks[tenant] = Desk(tenant, quota)
        allowance, now = desk.allowance, self._clock()
        allowance.adopt(quota)
        allowance.expect(fuel)
        reservation = allowance.enter(now, fuel=fuel, infers=infers, bytes_in=bytes_in)
        if reservation is None:
            reservation = await self._enter_anew(desk, fuel, infers, bytes_in)
        waited_ns = 0
        if not desk.gate.try_pass(function, concurrency.max_inflight):
            try:
                waited_ns = await self._wait(desk, function, concurrency)
            except BaseException:
                allowance.settle(reservation, fuel=0, nn_ns=0, bytes_out=0, infers=infers)
                raise
        if desk.flight is None and allowance.running_low(now) and now >= self._away_until:
            self._start(desk)
        return Turn(desk, function, reservation, infers, waited_ns)

    async def _enter_anew(self, desk: Desk, fuel: int, infers: bool, bytes_in: int) -> Reservation:
        """There is too little here: with the next lease, if it brings enough. A lease that was under way already may
        have been asked for too early to know of this request, and others may be quicker: then again."""
        allowance = desk.allowance
        allowance.used_at = self._clock()  # not idle
        allowance.short += 1
        try:
            for _ in range(TRIES):
                if self._clock() < allowance.dry_until:
                    break
                await self._leased(desk)
                reservation = allowance.enter(self._clock(), fuel=fuel, infers=infers, bytes_in=bytes_in)
                if reservation is not None:
                    return reservation
        finally:
            allowance.short -= 1
        now = self._clock()
        lacking = allowance.lacking(infers)
        raise allowance.refusal(Resource.REQUESTS if lacking is None else lacking, now)

    async def _wait(self, desk: Desk, function: FunctionName, concurrency: Concurrency) -> int:
        """For the function's turn and a slot; how long it took, in nanoseconds."""
        allowance, began = desk.allowance, time.monotonic_ns()
        if desk.gate.is_short_of_slots() and allowance.slots < allowance.quota.max_inflight:
            if self._clock() >= allowance.dry_until:
                allowance.waiting += 1
                try:
                    await self._leased(desk)
                finally:
                    allowance.waiting -= 1
            if desk.gate.try_pass(function, concurrency.max_inflight):
                return time.monotonic_ns() - began
        if desk.flight is None:
            self._ask_again(desk)
        await desk.gate.wait(
            function,
            most=concurrency.max_inflight,
            max_queue=concurrency.max_queue,
            timeout_ns=concurrency.queue_timeout_ns,
        )
        return time.monotonic_ns() - began

    async def _leased(self, desk: Desk) -> None:
        """Waits for a lease, shortly; without one the tenant goes on as it is cut off."""
        now = self._clock()
        if now >= self._away_until:
            flight = desk.flight if desk.flight is not None else self._start(desk)
            await asyncio.wait({flight}, timeout=WAIT_S)
            if flight.done():
                return
            self._note_away(self._clock())
        desk.allowance.cut_off(self._clock())
        desk.gate.wake()

    def _start(self, desk: Desk) -> asyncio.Task[None]:
        if self._away:
            self._away_until = self._clock() + AGAIN_S
        task = asyncio.get_running_loop().create_task(self._lease(desk))
        desk.flight = task
        task.add_done_callback(_note_end)
        return task

    def note_short(self, tenant: TenantName) -> None:
        """Another node wants more in-flight slots than are left: those that this one does not use go back."""
        desk = self._desks.get(tenant)
        if desk is None or desk.flight is not None or self._closing or self._clock() < self._away_until:
            return
        if desk.allowance.slots > desk.allowance.inflight and not desk.allowance.waiting:
            self._start(desk)

    def _ask_again(self, desk: Desk) -> None:
        """Requests wait for slots that other nodes hold."""
        allowance = desk.allowance
        if allowance.slots < allowance.quota.max_inflight and not self._closing:
            asyncio.get_running_loop().call_later(DRY_S, self._renew_for_waiters, desk)

    def _renew_for_waiters(self, desk: Desk) -> None:
        if desk.flight is None and desk.allowance.waiting and not self._closing and self._clock() >= self._away_until:
            self._start(desk)

    async def _lease(self, desk: Desk, *, give_back: bool = False) -> None:
        allowance = desk.allowance
        self._number += 1
        sent_at = self._clock()
        asks = allowance.nothing() if give_back else allowance.asks(sent_at)
        try:
            lease = await self.registry.lease(
                allowance.tenant,
                holder=desk.name,
                number=self._number,
                length_s=0 if give_back else LEASE_S,
                rate=allowance.quota.requests_per_second,
                asks=asks,
            )
        except RegistryUnavailable as error:
            self._note_away(self._clock(), error)
            allowance.cut_off(self._clock())
        except NotFound:  # deleted meanwhile: the snapshot will say so; what runs is let end
            allowance.cut_off(self._clock())
        else:
            if self._away:
                self._away = False
                log.warning("quota leases are had again")
            self._away_until = 0.0
            allowance.take_over(lease, sent_at, self._clock())
            if give_back:
                allowance.nothing()
        finally:
            desk.flight = None
        desk.gate.wake()
        if allowance.waiting:
            self._ask_again(desk)

    def _note_away(self, now: float, error: RegistryUnavailable | None = None) -> None:
        self._away_until = now + AGAIN_S
        if not self._away:
            self._away = True
            log.warning(
                "quota leases cannot be had; the last ones go on at this node's share: %s", error or "no answer"
            )

    async def run(self) -> None:
        """Renews what is in use before it ends, gives back what is not; until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self._clock()
            async with asyncio.TaskGroup() as group:
                for desk in [desk for desk in self._desks.values() if self._is_due(desk, now)]:
                    group.create_task(self._tend(desk))

    def _is_due(self, desk: Desk, now: float) -> bool:
        allowance = desk.allowance
        if desk.flight is not None or now < self._away_until:
            return False
        return now - allowance.asked_at >= RENEW_S or allowance.idle(now, IDLE_S)

    async def _tend(self, desk: Desk) -> None:
        allowance = desk.allowance
        async with self._background:
            now = self._clock()
            if not self._is_due(desk, now):  # any more
                return
            desk.flight = asyncio.current_task()
            idle = allowance.idle(now, IDLE_S)
            await self._lease(desk, give_back=idle)
            if idle and allowance.idle(self._clock(), IDLE_S) and allowance.cut_off_at is None and desk.flight is None:
                del self._desks[allowance.tenant]

    async def close(self) -> None:
        """Every lease back, and what was used told, within a moment; what is not heard ends by itself."""
        self._closing = True
        try:
            async with asyncio.timeout(CLOSING_S), asyncio.TaskGroup() as group:
                for desk in self._desks.values():
                    group.create_task(self._give_back(desk))
        except TimeoutError:
            log.warning("some quota leases were not given back; they end by themselves")

    async def _give_back(self, desk: Desk) -> None:
        if desk.flight is not None:
            await asyncio.wait({desk.flight})
        async with self._background:
            if self._clock() >= self._away_until:
                await self._lease(desk, give_back=True)


def _note_end(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.error("a quota lease failed by a defect", exc_info=error)

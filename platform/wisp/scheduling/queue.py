"""Who gets the next free sandbox: deficit round-robin over tenants, each in its own order, each queue bounded.

Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round-Robin" (1995), with time for bytes: what a turn
costs is only known when it has ended, so a tenant is charged what it is expected to use and the rest afterwards. A
deficit may therefore be negative; it is bounded below, so that one long run does not shut a tenant out, and is paid off
by waiting, whether in the queue or out of it. Who has nothing waiting banks nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from wisp.errors import Overloaded, TooManyInflight
from wisp.scheduling.runtimes import RunTime

R = TypeVar("R")
W = TypeVar("W", bound="Waiter[Any]")

QUANTUM_NS: Final = 2_000_000
"""What a tenant of weight 1 may use a round."""
DEBT_NS: Final = 1_000_000_000
"""The most that a tenant can owe."""
MAX_DEBTORS: Final = 4096


class Waiter(Generic[R]):
    """One waiting request; `granted` resolves to what it waits for. `brief`: it may take what is kept for short runs.
    `expected_ns`: what it will use at least, 0 where nothing is known."""

    __slots__ = ("brief", "expected_ns", "granted", "runtime", "tenant")

    def __init__(self, tenant: str, runtime: RunTime, loop: asyncio.AbstractEventLoop, *, brief: bool) -> None:
        self.granted: asyncio.Future[R] = loop.create_future()
        self.tenant = tenant
        self.runtime = runtime
        self.brief = brief
        self.expected_ns = runtime.low_ns


class Lane(Generic[W]):
    """One tenant's waiters, and its account."""

    __slots__ = ("deficit_ns", "idle_since_ns", "waiters", "waiting_ns", "weight")

    def __init__(self) -> None:
        self.weight = 1
        self.deficit_ns = 0.0
        self.idle_since_ns = 0
        self.waiters: deque[W] = deque()
        self.waiting_ns = 0
        """What all its waiters are expected to use."""

    def first(self, tenant: str, may_take: Callable[[str, bool], bool]) -> W | None:
        """The first of those, brief or other, that may go."""
        first = self.waiters[0]
        if may_take(tenant, first.brief):
            return first
        if not may_take(tenant, not first.brief):
            return None
        return next((waiter for waiter in self.waiters if waiter.brief is not first.brief), None)

    def settle(self, now_ns: int) -> None:
        """Time that it did not wait pays off what it owes, and leaves it nothing more."""
        self.deficit_ns = min(0.0, self.deficit_ns + max(0, now_ns - self.idle_since_ns))


class FairQueue(Generic[W]):
    """A tenant with a thousand waiting requests delays another by what one round costs. `clock_ns` only ever grows."""

    def __init__(self, *, per_tenant: int, total: int, clock_ns: Callable[[], int]) -> None:
        self.per_tenant = per_tenant
        self.total = total
        self.length = 0
        self.waiting_ns = 0
        self._clock_ns = clock_ns
        self._lanes: OrderedDict[str, Lane[W]] = OrderedDict()
        """Those with waiters, in the order of their turns."""
        self._debtors: OrderedDict[str, Lane[W]] = OrderedDict()

    def push(self, waiter: W, weight: int = 1) -> None:
        """Raises `Overloaded` when the node's queue is full, `TooManyInflight` when the tenant's is."""
        tenant = waiter.tenant
        if self.length >= self.total:
            raise Overloaded("this node's queue is full; try again", limit=self.total, used=self.length)
        lane = self._lanes.get(tenant)
        if lane is not None and len(lane.waiters) >= self.per_tenant:
            raise TooManyInflight("this tenant's queue is full; try again", limit=self.per_tenant, used=self.per_tenant)
        if lane is None:
            lane = self._debtors.pop(tenant, None) or Lane()
            lane.settle(self._clock_ns())
            self._lanes[tenant] = lane
        lane.weight = weight
        lane.waiters.append(waiter)
        self.length += 1
        lane.waiting_ns += waiter.expected_ns
        self.waiting_ns += waiter.expected_ns

    def put_back(self, waiter: W, weight: int = 1) -> None:
        """One that had its turn, and did not get it: it is the next of its tenant again, whatever the bounds."""
        lane = self._lanes.get(waiter.tenant)
        if lane is None:
            lane = self._debtors.pop(waiter.tenant, None) or Lane()
            lane.settle(self._clock_ns())
            self._lanes[waiter.tenant] = lane
        lane.weight = weight
        lane.waiters.appendleft(waiter)
        self.length += 1
        lane.waiting_ns += waiter.expected_ns
        self.waiting_ns += waiter.expected_ns

    def next_of(self, tenant: str, may_go: Callable[[W], bool]) -> W | None:
        """The next waiter, if it is this tenant's turn and it may go. It costs no turn of anybody else's."""
        if not self._lanes:
            return None
        name = next(iter(self._lanes))
        lane = self._lanes[name]
        if name != tenant or (lane.deficit_ns <= 0 and len(self._lanes) > 1):
            return None
        waiter = lane.waiters[0]
        if not may_go(waiter):
            return None
        self._take_out(lane, waiter)
        return waiter

    def pop(self, may_take: Callable[[str, bool], bool]) -> W | None:
        """The next waiter that still waits, of those whose tenant `may_take` it now (tenant, whether it is brief). Its
        turn is still to be charged."""
        while (found := self._next(may_take)) is not None:
            lane, waiter = found
            self._take_out(lane, waiter)
            if not waiter.granted.done():
                return waiter
        return None

    def any_waits(self, is_one: Callable[[str, bool], bool]) -> bool:
        """Whether one does for which that holds (tenant, whether it is brief)."""
        return any(lane.first(tenant, is_one) is not None for tenant, lane in self._lanes.items())

    def _next(self, may_take: Callable[[str, bool], bool]) -> tuple[Lane[W], W] | None:
        if len(self._lanes) == 1:
            return self._only(may_take)
        ready: list[tuple[Lane[W], W]] = []
        for tenant, lane in self._lanes.items():
            waiter = lane.first(tenant, may_take)
            if waiter is not None:
                if lane.deficit_ns > 0:
                    return lane, waiter
                ready.append((lane, waiter))
        if not ready:
            return None
        # All the rounds at once in which nobody would have had a turn.
        rounds = min(int(-lane.deficit_ns // (QUANTUM_NS * lane.weight)) + 1 for lane, _ in ready)
        for lane, _ in ready:
            lane.deficit_ns += rounds * QUANTUM_NS * lane.weight
        return next(each for each in ready if each[0].deficit_ns > 0)

    def _only(self, may_take: Callable[[str, bool], bool]) -> tuple[Lane[W], W] | None:
        """As below: nobody else waits, so its rounds are its own."""
        ((tenant, lane),) = self._lanes.items()
        waiter = lane.first(tenant, may_take)
        if waiter is None:
            return None
        if lane.deficit_ns <= 0:
            quantum_ns = QUANTUM_NS * lane.weight
            lane.deficit_ns += (-lane.deficit_ns // quantum_ns + 1) * quantum_ns
        return lane, waiter

    def _take_out(self, lane: Lane[W], waiter: W) -> None:
        lane.waiters.remove(waiter)  # the first, or one of few that are passed over
        self.length -= 1
        lane.waiting_ns -= waiter.expected_ns
        self.waiting_ns -= waiter.expected_ns
        if not lane.waiters:
            del self._lanes[waiter.tenant]
            self._rest(waiter.tenant, lane)

    def _rest(self, tenant: str, lane: Lane[W]) -> None:
        lane.deficit_ns = min(0.0, lane.deficit_ns)
        lane.idle_since_ns = self._clock_ns()
        if lane.deficit_ns < 0:
            self._debtors[tenant] = lane
            if len(self._debtors) > MAX_DEBTORS:
                self._debtors.popitem(last=False)

    def charge(self, tenant: str, cost_ns: int) -> None:
        """For a turn that begins, or for one that ended and cost more, or less (then negative), than it was charged."""
        lane = self._lanes.get(tenant) if self._lanes else None
        if lane is not None:
            deficit_ns = lane.deficit_ns - cost_ns
            lane.deficit_ns = deficit_ns if deficit_ns > -DEBT_NS else -DEBT_NS
            if deficit_ns <= 0:
                self._lanes.move_to_end(tenant)
            return
        debtor = self._debtors.get(tenant)
        if debtor is None:
            if cost_ns <= 0:
                return  # who does not wait banks nothing
            debtor = self._debtors[tenant] = Lane()
            debtor.deficit_ns, debtor.idle_since_ns = float(max(-cost_ns, -DEBT_NS)), self._clock_ns()
            if len(self._debtors) > MAX_DEBTORS:
                self._debtors.popitem(last=False)
            return
        now_ns = self._clock_ns()
        deficit_ns = debtor.deficit_ns + (now_ns - debtor.idle_since_ns)  # as `settle` has it
        deficit_ns = (deficit_ns if deficit_ns < 0 else 0.0) - cost_ns
        if deficit_ns >= 0:
            del self._debtors[tenant]
            return
        debtor.deficit_ns = deficit_ns if deficit_ns > -DEBT_NS else -DEBT_NS
        debtor.idle_since_ns = now_ns
        self._debtors.move_to_end(tenant)

    def discard(self, waiter: W) -> None:
        """A caller that went away gives its place back at once."""
        lane = self._lanes.get(waiter.tenant)
        if lane is not None and waiter in lane.waiters:
            self._take_out(lane, waiter)

    def ahead_ns(self, tenant: str) -> int:
        """What the tenant's own waiters are expected to use."""
        lane = self._lanes.get(tenant)
        return 0 if lane is None else lane.waiting_ns

    def weights(self, tenant: str, weight: int) -> int:
        """Of all tenants that wait, and of this one, as if it did."""
        return sum(lane.weight for name, lane in self._lanes.items() if name != tenant) + weight

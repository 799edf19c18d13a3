"""What one node may use of a tenant's quotas without asking: leased, spent in memory, settled with the next lease.

Nothing here waits or knows Redis: a request costs a few comparisons and additions. `quotas` leases and renews.

A request reserves what requests like it have needed lately, and settles what it did need when it has ended. So what is
used beyond a daily budget is at most what the requests that run at that moment still need: their number times their
own limit. While leases cannot be had, the last one goes on at the tenant's average pace, divided by the nodes that
held leases then (`cut_off`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from wisp.errors import Exhausted, QuotaExceeded, RateLimited
from wisp.names import TenantName
from wisp.policy.schema import Quota
from wisp.quotas.leasedpools import Pool
from wisp.registry.quotas import Ask, Lease, Resource

LEASE_S: Final = 10.0
"""After it, by Redis' clock, an unrenewed lease is anybody's."""
TRUSTED_S: Final = 8.0
"""How long a node relies on one, by its own clock, from before it asked: clocks may differ in pace by a quarter."""
LEAST_REQUESTS: Final = 8
LEAST_BURST: Final = 64
"""A lease is for this part of the burst at least: tenants by the thousand would each ask for eight again and again."""
LEAST_SLOTS: Final = 4
PORTION: Final = 64
"""One lease holds at most this part of a daily budget, unless few requests need more ..."""
LEAST_PORTION: Final = 1024
"""... and at least this part."""
DRY_S: Final = 0.1
"""Where requests or slots are short, a node asks again no sooner; meanwhile it refuses by itself ..."""
SPENT_S: Final = 1.0
"""... and where a day's budget is."""
UNKNOWN_NODES: Final = 4
"""Where no lease was ever had, a node takes itself for one of so many."""
DAY_S: Final = 86_400
NS_PER_S: Final = 1_000_000_000
FIRST_NN_NS: Final = NS_PER_S // 20

DAILY: Final = (Resource.FUEL, Resource.NN_NS, Resource.BYTES_IN, Resource.BYTES_OUT)
NAMES: Final = {
    Resource.REQUESTS: "requests",
    Resource.INFLIGHT: "inflight",
    Resource.FUEL: "fuel",
    Resource.NN_NS: "nn",
    Resource.BYTES_IN: "bytes_in",
    Resource.BYTES_OUT: "bytes_out",
}
SAID: Final = {
    Resource.FUEL: ("fuel_per_day", 1),
    Resource.NN_NS: ("nn_seconds_per_day", NS_PER_S),
    Resource.BYTES_IN: ("bytes_in_per_day", 1),
    Resource.BYTES_OUT: ("bytes_out_per_day", 1),
}
"""The quota's key, and how many of our units are one of its."""


@dataclass(slots=True)
class Reservation:
    fuel: float
    nn_ns: float
    bytes_in: int


class Allowance:
    """One tenant on this node. Times are the node's monotonic seconds."""

    def __init__(self, tenant: TenantName, quota: Quota) -> None:
        self.tenant = tenant
        self.quota = quota
        self.pools = tuple(Pool(limit) for limit in _limits(quota))
        self.requests, _, self.fuel, self.nn, self.bytes_in, self.bytes_out = self.pools
        self.inflight = 0
        self.waiting = 0
        self.short = 0
        """Requests that wait for a lease, since there is too little here."""
        self.slots = 0
        self.trusted_until = -math.inf
        self.asked_at = -math.inf
        self.used_at = -math.inf
        self.dry_until = -math.inf
        self.cut_off_at: float | None = None
        self.nodes = UNKNOWN_NODES
        self.slots_used = 0
        """By all nodes, as far as this one knows."""
        self._slots_contended = False
        self._peak = 0
        self._day_ends = 0.0

    def adopt(self, quota: Quota) -> None:
        """The tenant's class, or the operator's document for it, has changed."""
        if quota is not self.quota:
            self.quota = quota
            for pool, limit in zip(self.pools, _limits(quota), strict=True):
                pool.limit = limit
            self.trusted_until = self.dry_until = -math.inf

    def enter(self, now: float, *, fuel: int, infers: bool, bytes_in: int) -> Reservation | None:
        """None: it takes a lease to say. `fuel`: the most that the request may use."""
        if self.cut_off_at is not None:
            self._go_on(now)
        elif now >= self.trusted_until:
            return None
        self.used_at = now
        if self.lacking(infers) is not None:
            return None
        self.requests.left -= 1
        self.requests.spent += 1
        if bytes_in:
            self.bytes_in.left -= bytes_in
            self.bytes_in.spent += bytes_in
        return Reservation(self.fuel.reserve(fuel), self.nn.reserve(math.inf) if infers else 0, bytes_in)

    def lacking(self, infers: bool) -> Resource | None:
        """What there is too little of for one more request, in-flight slots apart."""
        if self.requests.left < 1:
            return Resource.REQUESTS
        if self.fuel.left <= 0:
            return Resource.FUEL
        if self.bytes_in.limit is not None and self.bytes_in.left <= 0:
            return Resource.BYTES_IN
        if self.bytes_out.limit is not None and self.bytes_out.left <= 0:
            return Resource.BYTES_OUT
        if infers and self.nn.left <= 0:
            return Resource.NN_NS
        return None

    def settle(self, reservation: Reservation, *, fuel: int, nn_ns: int, bytes_out: int, infers: bool) -> None:
        self.fuel.settle(reservation.fuel, fuel)
        if infers:
            self.nn.settle(reservation.nn_ns, nn_ns)
        self.bytes_out.left -= bytes_out
        self.bytes_out.spent += bytes_out

    def charge_more(self, *, fuel: int, nn_ns: int) -> None:
        """What a request used beyond what it was charged when its caller went away; what it used less stays charged."""
        for pool, used in ((self.fuel, fuel), (self.nn, nn_ns)):
            if used > 0:
                pool.left -= used
                pool.spent += used
                pool.estimate += used

    def running_low(self, now: float) -> bool:
        if now < self.dry_until:
            return False
        requests, fuel = self.requests, self.fuel
        return (
            requests.left < requests.low
            or fuel.left < fuel.low
            or self.nn.left < self.nn.low
            or self.bytes_in.left < self.bytes_in.low
            or self.bytes_out.left < self.bytes_out.low
        )

    def expect(self, fuel: int) -> None:
        """Before anything is known of what this tenant's requests use."""
        if not self.fuel.estimate:
            self.fuel.estimate = fuel / 10
            self.nn.estimate = FIRST_NN_NS

    def asks(self, now: float) -> tuple[Ask, ...]:
        elapsed_s = min(now - self.asked_at, LEASE_S)
        self.asked_at = now
        quota = self.quota
        least = max(LEAST_REQUESTS, quota.burst // LEAST_BURST, 2 * self.short)
        requests = self.requests.ask(elapsed_s, min(least, quota.burst), quota.burst)
        demand = self.inflight + self.waiting
        slots = min(quota.max_inflight, max(LEAST_SLOTS, 2 * max(self._peak, demand)))
        if self._slots_contended:
            slots = max(self.inflight, min(slots, -(-quota.max_inflight // self.nodes)))
        self.slots = min(self.slots, slots)
        self._peak = demand
        inflight = Ask(limit=quota.max_inflight, keep=self.inflight, want=slots, spent=0, acknowledged=0)
        self.pools[Resource.INFLIGHT].want = slots
        daily = (
            pool.ask(
                elapsed_s,
                max(max(4, 2 * self.short) * pool.estimate, (pool.limit or 0) / LEAST_PORTION),
                (pool.limit or 0) / PORTION,
            )
            for pool in (self.fuel, self.nn, self.bytes_in, self.bytes_out)
        )
        return (requests, inflight, *daily)

    def nothing(self) -> tuple[Ask, ...]:
        """To give everything back, and to say what was used."""
        asks = []
        for pool in self.pools:
            pool.sent, pool.want, pool.left = pool.spent, 0, min(pool.left, 0)
            asks.append(Ask(limit=pool.limit, keep=0, want=0, spent=pool.spent, acknowledged=pool.acknowledged))
        self.slots = 0
        self.trusted_until = -math.inf
        return tuple(asks)

    def take_over(self, lease: Lease, sent_at: float, now: float) -> None:
        """What was granted to `asks`, which were made at `sent_at`."""
        for pool, grant in zip(self.pools, lease.grants, strict=True):
            pool.take_over(grant)
        inflight = lease.grants[Resource.INFLIGHT]
        self.slots, self.slots_used, self._slots_contended = inflight.granted, inflight.used, inflight.contended
        self.nodes = lease.nodes
        self.trusted_until = sent_at + TRUSTED_S
        self.cut_off_at = None
        self._day_ends = now + lease.day_left_s
        self.dry_until = -math.inf
        # A lease that was long under way may be used up when it comes: that is no reason not to ask for the next.
        short = lease.grants[Resource.REQUESTS].granted < self.requests.want
        if self.slots < self.pools[Resource.INFLIGHT].want or (short and self.requests.left < 1):
            self.dry_until = now + DRY_S
        elif short:
            self.dry_until = sent_at + DRY_S  # what it brought is there to be used; for the next it is too early
        for pool, grant in zip(self.pools[Resource.FUEL :], lease.grants[Resource.FUEL :], strict=True):
            if pool.limit is not None and grant.granted < pool.want:
                pool.low = -math.inf  # the last of the day: asking again before it is gone brings nothing
                if pool.left <= 0:
                    self.dry_until = now + SPENT_S

    def cut_off(self, now: float) -> None:
        """No lease can be had: from now on at the average pace of this node's share."""
        if self.cut_off_at is None:
            # To begin with: one second's worth where no lease was ever had, else that of the time since one was asked
            # for, or of a moment: those who wait for it at once would all be refused.
            asked_s = min(max(now - self.asked_at, DRY_S), LEASE_S - TRUSTED_S)
            self.cut_off_at = now - (1 if self.trusted_until == -math.inf else asked_s)
            self.slots = max(self.slots, -(-self.quota.max_inflight // self.nodes))

    def _go_on(self, now: float) -> None:
        assert self.cut_off_at is not None
        elapsed_s, self.cut_off_at = now - self.cut_off_at, now
        share = 1 / self.nodes
        burst = max(1.0, self.quota.burst * share)
        if self.requests.left < burst:
            grown = self.requests.left + self.quota.requests_per_second * share * elapsed_s
            self.requests.left = min(burst, grown)
        for resource in DAILY:
            pool = self.pools[resource]
            if pool.limit is not None and pool.left < (most := pool.limit * share / PORTION):
                pool.left = min(most, pool.left + pool.limit * share * elapsed_s / DAY_S)

    def take_slot(self) -> None:
        self.inflight += 1
        demand = self.inflight + self.waiting
        if demand > self._peak:
            self._peak = demand

    def idle(self, now: float, idle_s: float) -> bool:
        return not self.inflight and not self.waiting and now - self.used_at >= idle_s

    def refusal(self, lacking: Resource, now: float) -> Exhausted:
        """What to tell the caller who is refused for it."""
        pool, quota = self.pools[lacking], self.quota
        if lacking is Resource.REQUESTS:
            return RateLimited(
                f"this tenant may make {quota.requests_per_second} requests per second, {quota.burst} at once",
                retry_after_s=max(1, math.ceil((1 - pool.left) / quota.requests_per_second)),
                limit=quota.requests_per_second,
                used=quota.requests_per_second,
                policy=NAMES[lacking],
                window_s=1,
            )
        key, unit = SAID[lacking]
        limit = pool.limit or 0
        day_left_s = max(1, math.ceil(self._day_ends - now))
        return QuotaExceeded(
            f"this tenant has used its {key} of {limit // unit}",
            retry_after_s=1 if pool.reserved and pool.used < limit else day_left_s,
            limit=limit // unit,
            used=max(pool.used, 0) // unit,
            policy=NAMES[lacking],
            window_s=DAY_S,
            unit="content-bytes" if lacking in (Resource.BYTES_IN, Resource.BYTES_OUT) else None,
        )


def _limits(quota: Quota) -> tuple[int | None, ...]:
    """By `Resource`."""
    return (
        quota.burst,
        quota.max_inflight,
        quota.fuel_per_day,
        quota.nn_seconds_per_day * NS_PER_S,
        quota.bytes_in_per_day,
        quota.bytes_out_per_day,
    )

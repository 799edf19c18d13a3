"""Which inferences run next: one queue for each model and tenant, tenants served by deficit round-robin on rows.

A row costs what a row of its model has cost lately, so that a tenant with a large model does not get the time of many
with small ones. What waits for the same model in the same shape leaves together, each tenant's rows in proportion to
its weight; in even parts, where several threads may run it. Not safe for threads by itself: `inference.desk` guards
it.

See Shreedhar and Varghese, "Efficient Fair Queuing using Deficit Round-Robin" (1995).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar

QUANTUM_NS = 1_000_000
"""What a tenant of weight 1 gains each round."""
FIRST_ROW_NS = 1_000_000.0
"""Of a model that has not run yet."""
SMOOTHING = 0.2
PART_ROWS = 8
"""No batch is parted among threads into smaller ones: fewer rows cost nearly as much, on two cores instead of one."""


class Queued(Protocol):
    """`batch` is equal for jobs that may run together, None for one that runs alone. `rows` is at least 1, `max_rows`
    the most that a batch of its model may have."""

    @property
    def tenant(self) -> str: ...
    @property
    def weight(self) -> int: ...
    @property
    def model(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def max_rows(self) -> int: ...
    @property
    def batch(self) -> Hashable | None: ...


J = TypeVar("J", bound=Queued)


class Lane(Generic[J]):
    """One tenant: its queues by model, each in order of arrival, and what it may still spend in this round."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.weight = 1
        self.balance_ns = 0.0
        self.queues: dict[str, deque[tuple[int, J]]] = {}

    def oldest(self) -> J:
        return min((queue[0] for queue in self.queues.values()), key=lambda entry: entry[0])[1]

    def remove(self, job: J) -> bool:
        queue = self.queues.get(job.model)
        if queue is None:
            return False
        if queue[0][1] is job:
            queue.popleft()
        else:
            found = next((entry for entry in queue if entry[1] is job), None)
            if found is None:
                return False
            queue.remove(found)
        if not queue:
            del self.queues[job.model]
        return True


class FairQueue(Generic[J]):
    """Unbounded: whoever puts has bounded what it puts (one job a slot).

    At most `threads` takes are out at a time, and one more for a tenant that has none out while another has all. A
    tenant that has all but one gets no further while another waits.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._lanes: dict[str, Lane[J]] = {}
        self._arrivals = 0
        self._row_ns: dict[str, float] = {}
        self._out: list[list[J]] = []
        """What was taken and is not done, each for the tenant of its first."""
        self.length = 0

    def put(self, job: J) -> None:
        lane = self._lanes.get(job.tenant)
        if lane is None:
            lane = self._lanes[job.tenant] = Lane(job.tenant)
        lane.weight = job.weight
        self._arrivals += 1
        lane.queues.setdefault(job.model, deque()).append((self._arrivals, job))
        self.length += 1

    def discard(self, job: J) -> None:
        """Does nothing to one that was taken."""
        lane = self._lanes.get(job.tenant)
        if lane is not None and lane.remove(job):
            self.length -= 1
            self._tidy()

    def take(self) -> list[J]:
        """Those that are to run together now; none if nothing may run. `done` must follow with the same list."""
        lane = self._turn()
        if lane is None:
            return []
        first = lane.oldest()
        batch = [first]
        self._pop(lane, first)
        if first.batch is not None:
            self.fill(batch, self._part(first))
        self._out.append(batch)
        if lane.balance_ns <= 0 and lane.queues:
            self._lanes[lane.tenant] = self._lanes.pop(lane.tenant)
        self._tidy()
        return batch

    def fill(self, batch: list[J], most: int | None = None) -> None:
        """Adds what may run with the first, up to so many rows in all: each tenant's in order, tenants by rows in
        proportion to their weights."""
        first = batch[0]
        room = (first.max_rows if most is None else min(most, first.max_rows)) - sum(job.rows for job in batch)
        lanes = [lane for lane in self._lanes.values() if first.model in lane.queues]
        credit = dict.fromkeys((lane.tenant for lane in lanes), 0)
        while lanes and room > 0:
            for lane in list(lanes):
                credit[lane.tenant] += lane.weight
                while True:
                    job = self._fitting(lane, first, room)
                    if job is None:
                        lanes.remove(lane)
                        break
                    if job.rows > credit[lane.tenant]:
                        break
                    credit[lane.tenant] -= job.rows
                    room -= job.rows
                    self._pop(lane, job)
                    batch.append(job)

    def done(self, batch: list[J], spent_ns: int) -> None:
        """`batch` as it was taken; what all its rows cost together."""
        self._out = [other for other in self._out if other is not batch]
        row_ns = spent_ns / sum(job.rows for job in batch)
        former = self._row_ns.get(batch[0].model, row_ns)
        self._row_ns[batch[0].model] = former + SMOOTHING * (row_ns - former)

    def forget(self, model: str) -> None:
        self._row_ns.pop(model, None)

    def _part(self, first: J) -> int:
        """Rows of a batch that begins with this one, so that all threads that are free, or run the same, get as many.
        Otherwise who asked together would go on asking together, of one thread."""
        alike = [batch for batch in self._out if batch[0].model == first.model and batch[0].batch == first.batch]
        threads = 1 + len(alike) + max(0, self._threads - len(self._out) - 1)
        rows = first.rows + sum(job.rows for batch in alike for job in batch)
        for lane in self._lanes.values():
            rows += sum(job.rows for _, job in lane.queues.get(first.model, ()) if job.batch == first.batch)
        return max(PART_ROWS, -(-rows // threads))

    @property
    def may_run(self) -> bool:
        """Whether `take` would give something now."""
        return any(True for _ in self._eligible())

    def _turn(self) -> Lane[J] | None:
        lanes = list(self._eligible())
        if not lanes:
            return None
        if all(lane.balance_ns <= 0 for lane in lanes):
            rounds = min(-lane.balance_ns // (QUANTUM_NS * lane.weight) + 1 for lane in lanes)
            for lane in lanes:
                lane.balance_ns += rounds * QUANTUM_NS * lane.weight
        return next(lane for lane in lanes if lane.balance_ns > 0)

    def _eligible(self) -> Iterator[Lane[J]]:
        tenants = [batch[0].tenant for batch in self._out]
        running = len(tenants)
        waiting = sum(bool(lane.queues) for lane in self._lanes.values())
        if running >= self._threads and (running > self._threads or len(set(tenants)) > 1):
            return
        for lane in self._lanes.values():
            own = tenants.count(lane.tenant)
            full = own > 0 if running >= self._threads else waiting > 1 and own >= max(1, self._threads - 1)
            if lane.queues and not full:
                yield lane

    @staticmethod
    def _fitting(lane: Lane[J], first: J, room: int) -> J | None:
        for _, job in lane.queues.get(first.model, ()):
            if job.rows <= room and job.batch == first.batch:
                return job
        return None

    def _pop(self, lane: Lane[J], job: J) -> None:
        lane.remove(job)
        self.length -= 1
        lane.balance_ns -= job.rows * self._row_ns.get(job.model, FIRST_ROW_NS)

    def _tidy(self) -> None:
        """Once nothing waits nobody owes anybody anything."""
        if not self.length:
            self._lanes.clear()

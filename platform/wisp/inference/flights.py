"""The runs that are under way: which workers have one, which still gather rows, and which nobody waits for any more.

Not safe for threads by itself: `inference.desk` guards it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from wisp.inference.slots import Flight, Job
from wisp.inference.wide import Cores


class Flights:
    """`patience_ns`: how long one may run on that nobody waits for, 0 for ever; `idle` tells where a run may have
    several threads."""

    def __init__(self, *, patience_ns: int, idle: Cores | None) -> None:
        self.gathering: list[Flight] = []
        self._patience_ns = patience_ns
        self._idle = idle
        self._under_way: set[Flight] = set()

    @property
    def busy(self) -> int:
        """Workers that have one."""
        return len(self._under_way)

    def begin(self, jobs: list[Job], *, alone: bool) -> Flight:
        """`alone`: no other invocation could want to run beside it."""
        flight = Flight(jobs=jobs, threads=self._threads_for(jobs) if alone else 1)
        self._under_way.add(flight)
        self.start(flight, jobs)
        return flight

    @staticmethod
    def start(flight: Flight, jobs: list[Job]) -> None:
        now_ns = time.monotonic_ns()
        for job in jobs:
            job.flight = flight
            job.slot.running = job
            job.slot.uses += 1
            job.started_ns = now_ns
            job.slot.meter.start(job.invocation.number, now_ns, flight.threads)

    def end(self, flight: Flight) -> list[Job]:
        """What its slots asked for meanwhile, which may be queued now."""
        held = []
        for job in flight.jobs:
            slot = job.slot
            job.flight = None  # or each would keep the other, and the model, until a collection
            slot.running = None
            if slot.held is not None:
                held.append(slot.held)
                slot.held = None
            slot.uses -= 1
            slot.release()
        self._under_way.discard(flight)
        return held

    def _threads_for(self, jobs: list[Job]) -> int:
        wide = jobs[0].loaded.wide
        if wide is None or self._idle is None or self._under_way or len(jobs) > 1:
            return 1
        return wide.threads if wide.pays() and self._idle.are_free(wide.threads - 1) else 1

    def overdue_ns(self, flight: Flight) -> int:
        """When the process is to end with it, on CLOCK_MONOTONIC; 0 for never, as far as is known."""
        return flight.left_ns + self._patience_ns if flight.left_ns and self._patience_ns else 0

    def all_overdue_ns(self) -> Iterator[int]:
        return (at_ns for flight in self._under_way if (at_ns := self.overdue_ns(flight)))

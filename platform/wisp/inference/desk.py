"""What the main thread and the workers share, under one lock: slots, bindings, models, and the jobs that wait.

A worker that has nothing to run waits for the slots' sockets itself, so that an inference on an idle host goes from
its frame to its run on one thread. One worker more than may run at a time keeps reading while the others run; only
when that one runs too does the main thread read. What arrives meanwhile waits in the queue, and leaves it together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from wisp.inference.ears import Ears
from wisp.inference.flights import Flights
from wisp.inference.intake import admit, hear, is_known
from wisp.inference.notes import note
from wisp.inference.queues import FairQueue
from wisp.inference.requests import Request
from wisp.inference.sessions import LoadedModel
from wisp.inference.slots import Flight, Job, Slot
from wisp.inference.vouched import Vouched
from wisp.inference.wide import Cores
from wisp.wire.inferences import Binding, BoundModel, Status

GATHER_STEP_S = 0.001
HEARD_AT_ONCE = 32
"""Frames that a worker without a run reads before it looks what to run: what arrived together may leave together."""
NEVER_NS = 2**63 - 1


class Desk:
    """`threads` inferences run at a time; `delay_ns` is how long one that could share a batch waits for others;
    `patience_ns` how long one may run on that nobody waits for, 0 for ever; `idle` tells where a run may have several
    threads.

    `drain` handles what the router has sent so far; `alarm` makes the main thread call `expire`; `watch` tells it
    whether to call `read`.
    """

    def __init__(
        self,
        *,
        threads: int,
        delay_ns: int = 0,
        patience_ns: int = 0,
        idle: Cores | None = None,
        drain: Callable[[], None],
        alarm: Callable[[], None],
        watch: Callable[[bool], None],
    ) -> None:
        self.workers = threads + 1
        self.stopping = False
        self._delay_ns = delay_ns
        self._flights = Flights(patience_ns=patience_ns, idle=idle)
        self._vouched = Vouched()
        self.stuck = False
        """Something runs on, longer than this host's patience, that was told to stop."""
        self._drain = drain
        self._alarm = alarm
        self._watch = watch
        self._lock = threading.Lock()
        self._queue: FairQueue[Job] = FairQueue(threads)
        self._slots: dict[int, Slot] = {}
        self._watched = False
        self._wake_ns = NEVER_NS
        self._ears = Ears()

    def fileno(self) -> int:
        """Readable while a slot's socket is, and no worker has looked."""
        return self._ears.fileno()

    # For the router

    def attach(self, slot: Slot) -> None:
        with self._lock:
            former = self._slots.get(slot.number)
            if former is not None:
                self._close_slot(former)
            self._slots[slot.number] = slot
            self._ears.add(slot)

    def detach(self, number: int) -> None:
        with self._lock:
            if (slot := self._slots.get(number)) is not None:
                self._close_slot(slot)

    def bind(self, binding: Binding) -> None:
        with self._lock:
            self._vouched.bind(binding)

    def unbind(self, handle: int) -> None:
        with self._lock:
            self._vouched.unbind(handle)

    def has(self, digest: str) -> bool:
        return digest in self._vouched.models

    def put_model(self, model: LoadedModel) -> None:
        with self._lock:
            self._vouched.put_model(model)

    def drop_model(self, digest: str) -> None:
        with self._lock:
            self._vouched.drop_model(digest)
            self._queue.forget(digest)

    def open(self, number: int, handle: int, invocation: int, deadline_ns: int) -> None:
        with self._lock:
            slot = self._slots.get(number)
            if slot is None:
                return  # its sandbox has just died, or was cut off; the router will replace it
            if slot.pending is not None:
                self._settle(slot.pending, Status.UNKNOWN_INVOCATION)
            self._vouched.open(slot, handle, invocation, deadline_ns)

    def grant(self, number: int, invocation: int, model: BoundModel) -> None:
        with self._lock:
            if (slot := self._slots.get(number)) is not None:
                self._vouched.grant(slot, invocation, model)

    def close(self, number: int, invocation: int) -> None:
        with self._lock:
            slot = self._slots.get(number)
            if slot is None or slot.invocation is None or slot.invocation.number != invocation:
                return
            slot.invocation = None
            if slot.pending is not None:
                self._settle(slot.pending, Status.UNKNOWN_INVOCATION)

    def expire(self) -> float | None:
        """Ends what is past its time; for how many seconds nothing else will be."""
        now_ns = time.monotonic_ns()
        if now_ns >= self._wake_ns:
            with self._lock:
                self._wake_ns = NEVER_NS
                for slot in self._slots.values():
                    if (job := slot.pending) is not None:
                        expires_ns, status = job.expiry()
                        if now_ns >= expires_ns:
                            self._settle(job, status)
                        else:
                            self._wake_ns = min(self._wake_ns, expires_ns)
                for overdue_ns in self._flights.all_overdue_ns():
                    self.stuck |= now_ns >= overdue_ns
                    self._wake_ns = min(self._wake_ns, overdue_ns)
        return None if self._wake_ns == NEVER_NS else max(0.0, (self._wake_ns - now_ns) / 1e9)

    def read(self) -> None:
        """A worker's reading, done by the main thread while all workers run."""
        for fd in self._ears.wait(0, self.workers):
            self._hear(fd)
        with self._lock:
            self._poke_if_more()

    def stop(self) -> None:
        with self._lock:
            self.stopping = True
            for slot in list(self._slots.values()):
                self._close_slot(slot)
            self._ears.poke()

    # For the workers

    def next(self) -> Flight | None:
        """Waits for something to run; None when all is to end."""
        with self._lock:
            flight = self._take()
        while flight is None:
            if self.stopping:
                self._ears.poke()  # the next worker's turn to see it
                return None
            for fd in self._ears.wait(-1, HEARD_AT_ONCE):
                self._hear(fd)
            with self._lock:
                flight = self._take()
        return self._gather(flight) if self._delay_ns else flight

    def finish(self, flight: Flight, spent_ns: int) -> Flight | None:
        """What to run next, if something waits already."""
        with self._lock:
            for held in self._flights.end(flight):
                self._queue.put(held)
            self._queue.done(flight.jobs, spent_ns)
        if len(flight.jobs) > 1:
            # Those that were answered have asked again: what is heard now leaves together, not one by one.
            for fd in self._ears.wait(0, HEARD_AT_ONCE):
                self._hear(fd)
        with self._lock:
            following = self._take()
            self._set_watch()
        return following if following is None or not self._delay_ns else self._gather(following)

    def live(self, flight: Flight) -> list[Job]:
        """Those for which somebody still waits: the others' rows are not run."""
        with self._lock:
            return [job for job in flight.jobs if not job.claimed]

    def alone(self, flight: Flight, job: Job) -> bool:
        """From now on this one runs by itself. False if nobody waits for it any more."""
        with self._lock:
            if job.claimed:
                return False
            flight.alone(job)
            job.started_ns = time.monotonic_ns()
            return True

    def claim(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that the worker may answer; then it must."""
        with self._lock:
            claimed = [job for job in jobs if not job.claimed]
            for job in claimed:
                job.claimed = True
                job.slot.pending = None
        return claimed

    def stop_batching(self, model: LoadedModel) -> None:
        with self._lock:
            self._vouched.stop_batching(model)
        note(f"model {model.digest} does not answer a stack of rows with a row for each; it is run singly from now on")

    # Under the lock

    def _set_watch(self) -> None:
        if self._watched != (self._flights.busy == self.workers):
            self._watched = not self._watched
            self._watch(self._watched)

    def _take(self) -> Flight | None:
        """For a worker that has no flight."""
        for open_flight in self._flights.gathering:
            self._join(open_flight)
        jobs = self._queue.take() if self._queue.length and not self.stopping else []
        if not jobs:
            return None
        flight = self._flights.begin(jobs, alone=jobs[0].loaded.wide is not None and self._is_alone(jobs[0].slot))
        self._wake_for(jobs)
        self._set_watch()
        self._poke_if_more()
        return flight

    def _is_alone(self, slot: Slot) -> bool:
        """Whether no other slot has an invocation."""
        return not self._queue.length and not any(
            other.invocation is not None for other in self._slots.values() if other is not slot
        )

    def _join(self, flight: Flight) -> None:
        known = len(flight.jobs)
        # What was told to stop is nobody's company.
        if self._queue.length and flight.threads == 1 and not flight.left_ns:
            self._queue.fill(flight.jobs)
            self._flights.start(flight, flight.jobs[known:])
            self._wake_for(flight.jobs[known:])

    def _poke_if_more(self) -> None:
        if self._flights.busy < self.workers and self._queue.length and self._queue.may_run:
            self._ears.poke()

    def _wake_for(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._wake_by(job.expiry()[0])

    def _wake_by(self, expires_ns: int) -> None:
        if expires_ns < self._wake_ns:
            self._wake_ns = expires_ns
            self._alarm()

    def _settle(self, job: Job, status: Status | None) -> None:
        """Ends a job that has not ended by itself: answers it at once, even where it cannot be stopped."""
        if job.claimed:
            return
        spent_ns = job.spent_ns(time.monotonic_ns())
        job.claimed = True
        job.slot.pending = None
        if job.slot.held is job:
            job.slot.held = None
        if job.flight is None:
            self._queue.discard(job)
            self._poke_if_more()  # its tenant may have been what kept another back
        else:
            job.flight.leave(job)
            if overdue_ns := self._flights.overdue_ns(job.flight):
                self._wake_by(overdue_ns)
        if status is not None:
            job.slot.settle(job, status, [], spent_ns)

    def _close_slot(self, slot: Slot) -> None:
        if slot.closed:
            return
        self._ears.remove(slot)
        slot.invocation = None
        if slot.pending is not None:
            self._settle(slot.pending, None)
        slot.shut()
        slot.closed = True
        slot.release()
        if self._slots.get(slot.number) is slot:
            del self._slots[slot.number]

    # The slots

    def _gather(self, flight: Flight) -> Flight:
        """Waits a little for more rows to run with these."""
        first = flight.jobs[0]
        with self._lock:
            self._flights.gathering.append(flight)
        while first.batch is not None and self._has_room(flight):
            left_ns = first.arrived_ns + self._delay_ns - time.monotonic_ns()
            if left_ns <= 0:
                break
            # In small steps, since whoever fills this batch up meanwhile may be another worker.
            for fd in self._ears.wait(min(left_ns / 1e9, GATHER_STEP_S), 1):
                self._hear(fd)
            with self._lock:
                self._join(flight)
                self._poke_if_more()
        with self._lock:
            self._flights.gathering.remove(flight)
            for job in flight.jobs:
                job.started_ns = time.monotonic_ns()
        return flight

    @staticmethod
    def _has_room(flight: Flight) -> bool:
        """And somebody still waits for it."""
        jobs = flight.jobs
        return sum(job.rows for job in jobs) < jobs[0].max_rows and not all(job.claimed for job in jobs)

    def _hear(self, fd: int) -> None:
        """One frame of one slot. A frame that breaks the protocol costs its sender the socket, never the host."""
        with self._lock:
            slot = self._ears.slots.get(fd)
            if slot is None:
                return  # closed meanwhile; or what woke us was no socket
            slot.uses += 1
        request, lost, reason = hear(slot)
        if request is not None and not is_known(slot.invocation, request):
            # The router opened it before the guest started, and granted what the guest brought before it could ask, so
            # the frames that did have arrived by now.
            self._drain()
        with self._lock:
            if request is not None and slot.pending is not None:
                reason = "an inference while another one is not answered"
            elif request is not None and not slot.closed:
                self._admit(slot, request)
            if reason and not slot.closed:
                note(f"slot {slot.number} is closed: {reason}")
            if lost or reason:
                self._close_slot(slot)
            slot.uses -= 1
            slot.release()
        if not slot.closed:
            self._ears.arm(fd)

    def _admit(self, slot: Slot, request: Request) -> None:
        """Puts it into the queue, or says why not."""
        job = admit(slot, request, self._vouched.models)
        if not isinstance(job, Job):
            slot.answer(request.invocation, request.sequence, job, [])
            return
        slot.pending = job
        if slot.running is not None:
            slot.held = job
        else:
            self._queue.put(job)
        self._wake_by(job.expiry()[0])

"""What the main thread and the workers share, under one lock: slots, bindings, models, and the jobs that wait.

A worker that has nothing to run waits for the slots' sockets itself, so that an inference on an idle host goes from
its frame to its run on one thread. One worker more than may run at a time keeps reading while the others run; only
when that one runs too does the main thread read. What arrives meanwhile waits in the queue, and leaves it together.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from wisp.errors import InvalidFrame
from wisp.inference import batches, runs
from wisp.inference.queues import FairQueue
from wisp.inference.reasons import plain
from wisp.inference.requests import Request
from wisp.inference.sessions import LoadedModel
from wisp.inference.slots import Flight, Invocation, Job, Slot
from wisp.inference.wide import Cores, WideModels
from wisp.wire.inferences import Binding, BoundModel, Status

READ_ONCE = select.EPOLLIN | select.EPOLLONESHOT
"""One thread at a time reads a slot; it arms the socket again when it is done with the frame."""
GATHER_STEP_S = 0.001
NEVER_NS = 2**63 - 1


def note(text: str) -> None:
    """One line to standard error, which the router reads; losing it is no reason to fail."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"inference host: {plain(text)}\n")
        sys.stderr.flush()


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
        self._patience_ns = patience_ns
        self._idle = idle
        self._wide = WideModels(self._narrow)
        self._flights: set[Flight] = set()
        self.stuck = False
        """Something runs on, longer than this host's patience, that was told to stop."""
        self._drain = drain
        self._alarm = alarm
        self._watch = watch
        self._lock = threading.Lock()
        self._queue: FairQueue[Job] = FairQueue(threads)
        self._slots: dict[int, Slot] = {}
        self._by_fd: dict[int, Slot] = {}
        self._bindings: dict[int, Binding] = {}
        self._models: dict[str, LoadedModel] = {}
        self._gathering: list[Flight] = []
        self._busy = 0
        """Workers that have a flight."""
        self._watched = False
        self._wake_ns = NEVER_NS
        self._epoll = select.epoll()
        # Edge-triggered: each write wakes one worker, and nobody has to read it.
        self._poke = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._poke, select.EPOLLIN | select.EPOLLET)

    def fileno(self) -> int:
        """Readable while a slot's socket is, and no worker has looked."""
        return self._epoll.fileno()

    # For the router

    def attach(self, slot: Slot) -> None:
        with self._lock:
            former = self._slots.get(slot.number)
            if former is not None:
                self._close_slot(former)
            self._slots[slot.number] = self._by_fd[slot.channel.fileno()] = slot
            self._epoll.register(slot.channel, READ_ONCE)

    def detach(self, number: int) -> None:
        with self._lock:
            if (slot := self._slots.get(number)) is not None:
                self._close_slot(slot)

    def bind(self, binding: Binding) -> None:
        with self._lock:
            self._bindings[binding.handle] = binding

    def unbind(self, handle: int) -> None:
        with self._lock:
            self._bindings.pop(handle, None)

    def has(self, digest: str) -> bool:
        return digest in self._models

    def put_model(self, model: LoadedModel) -> None:
        with self._lock:
            self._models[model.digest] = model
            if model.wide is not None:
                self._wide.add(model.digest, model.wide)

    def drop_model(self, digest: str) -> None:
        """Inferences that were accepted keep the session; the last one to end drops it."""
        with self._lock:
            self._models.pop(digest, None)
            self._wide.forget(digest)
            self._queue.forget(digest)

    def open(self, number: int, handle: int, invocation: int, deadline_ns: int) -> None:
        with self._lock:
            slot = self._slots.get(number)
            binding = self._bindings.get(handle)
            if slot is None:
                return  # its sandbox has just died, or was cut off; the router will replace it
            if binding is None:
                note(f"invocation {invocation} on slot {number} has the unknown handle {handle}")
                return
            if slot.pending is not None:
                self._settle(slot.pending, Status.UNKNOWN_INVOCATION)
            slot.meter.begin(invocation)
            slot.invocation = Invocation(
                number=invocation, binding=binding, deadline_ns=deadline_ns, spent=[0] * len(binding.models)
            )

    def grant(self, number: int, invocation: int, model: BoundModel) -> None:
        """One model more for this invocation; what it has spent of the others stays spent."""
        with self._lock:
            slot = self._slots.get(number)
            if slot is None or slot.invocation is None or slot.invocation.number != invocation:
                return
            binding = slot.invocation.binding
            slot.invocation.binding = replace(binding, models=(*binding.models, model))
            slot.invocation.spent.append(0)

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
                for left_ns in [flight.left_ns for flight in self._flights if flight.left_ns and self._patience_ns]:
                    self.stuck |= now_ns >= left_ns + self._patience_ns
                    self._wake_ns = min(self._wake_ns, left_ns + self._patience_ns)
        return None if self._wake_ns == NEVER_NS else max(0.0, (self._wake_ns - now_ns) / 1e9)

    def read(self) -> None:
        """A worker's reading, done by the main thread while all workers run."""
        for fd, _ in self._epoll.poll(0, self.workers):
            self._hear(fd)
        with self._lock:
            self._poke_if_more()

    def stop(self) -> None:
        with self._lock:
            self.stopping = True
            for slot in list(self._slots.values()):
                self._close_slot(slot)
            os.eventfd_write(self._poke, 1)

    # For the workers

    def next(self) -> Flight | None:
        """Waits for something to run; None when all is to end."""
        with self._lock:
            flight = self._take()
        while flight is None:
            if self.stopping:
                os.eventfd_write(self._poke, 1)  # the next worker's turn to see it
                return None
            for fd, _ in self._epoll.poll(-1, 1):
                self._hear(fd)
            with self._lock:
                flight = self._take()
        return self._gather(flight) if self._delay_ns else flight

    def finish(self, flight: Flight, spent_ns: int) -> Flight | None:
        """What to run next, if something waits already."""
        with self._lock:
            for job in flight.jobs:
                slot = job.slot
                job.flight = None  # or each would keep the other, and the model, until a collection
                slot.running = None
                if slot.held is not None:
                    self._queue.put(slot.held)
                    slot.held = None
                slot.uses -= 1
                slot.release()
            self._flights.discard(flight)
            self._queue.done(flight.jobs, spent_ns)
            self._busy -= 1
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

    def claim(self, job: Job) -> bool:
        """Whether the worker may answer; then it must."""
        with self._lock:
            if job.claimed:
                return False
            job.claimed = True
            job.slot.pending = None
            return True

    def stop_batching(self, model: LoadedModel) -> None:
        with self._lock:
            if self._models.get(model.digest) is model:
                self._models[model.digest] = model.unbatched()
        note(f"model {model.digest} does not answer a stack of rows with a row for each; it is run singly from now on")

    # Under the lock

    def _set_watch(self) -> None:
        if self._watched != (self._busy == self.workers):
            self._watched = not self._watched
            self._watch(self._watched)

    def _take(self) -> Flight | None:
        """For a worker that has no flight."""
        for open_flight in self._gathering:
            self._join(open_flight)
        jobs = self._queue.take() if self._queue.length and not self.stopping else []
        if not jobs:
            return None
        flight = Flight(jobs=jobs, threads=self._threads_for(jobs))
        self._flights.add(flight)
        self._start(flight, jobs)
        self._busy += 1
        self._set_watch()
        self._poke_if_more()
        return flight

    def _start(self, flight: Flight, jobs: list[Job]) -> None:
        now_ns = time.monotonic_ns()
        for job in jobs:
            job.flight = flight
            job.slot.running = job
            job.slot.uses += 1
            job.started_ns = now_ns
            job.slot.meter.start(job.invocation.number, now_ns, flight.threads)
            self._wake_by(job.expiry()[0])

    def _threads_for(self, jobs: list[Job]) -> int:
        """Several for a run that no other invocation here could want to run beside."""
        wide = jobs[0].loaded.wide
        if wide is None or self._idle is None or self._busy or self._queue.length or len(jobs) > 1:
            return 1
        if any(slot.invocation is not None for slot in self._slots.values() if slot is not jobs[0].slot):
            return 1
        return wide.threads if wide.pays() and self._idle.are_free(wide.threads - 1) else 1

    def _narrow(self, digest: str) -> None:
        if (model := self._models.get(digest)) is not None:
            self._models[digest] = replace(model, wide=None)

    def _join(self, flight: Flight) -> None:
        known = len(flight.jobs)
        if self._queue.length and flight.threads == 1:
            self._queue.fill(flight.jobs)
            self._start(flight, flight.jobs[known:])

    def _poke_if_more(self) -> None:
        if self._busy < self.workers and self._queue.length and self._queue.may_run:
            os.eventfd_write(self._poke, 1)

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
            if job.flight.left_ns and self._patience_ns:
                self._wake_by(job.flight.left_ns + self._patience_ns)
        if status is not None:
            job.slot.settle(job, status, [], spent_ns)

    def _close_slot(self, slot: Slot) -> None:
        if slot.closed:
            return
        fd = slot.channel.fileno()
        self._epoll.unregister(fd)
        del self._by_fd[fd]
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
            self._gathering.append(flight)
        while first.batch is not None and self._has_room(flight):
            left_ns = first.arrived_ns + self._delay_ns - time.monotonic_ns()
            if left_ns <= 0:
                break
            # In small steps, since whoever fills this batch up meanwhile may be another worker.
            for fd, _ in self._epoll.poll(min(left_ns / 1e9, GATHER_STEP_S), 1):
                self._hear(fd)
            with self._lock:
                self._join(flight)
                self._poke_if_more()
        with self._lock:
            self._gathering.remove(flight)
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
            slot = self._by_fd.get(fd)
            if slot is None:
                return  # closed meanwhile; or what woke us was no socket
            slot.uses += 1
        request, lost, reason = None, False, ""
        try:
            frame = slot.channel.receive()
            if frame is None:
                lost = True
            else:
                request = Request.decode(frame, slot.segment.size_bytes)
        except BlockingIOError:
            pass
        except ConnectionError:  # it died with answers unread
            lost = True
        except (InvalidFrame, OSError) as error:
            reason = str(error)
        known = slot.invocation
        if request is not None and (
            known is None or known.number != request.invocation or request.model >= len(known.binding.models)
        ):
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
            with contextlib.suppress(OSError):  # closed in this very moment
                self._epoll.modify(fd, READ_ONCE)

    def _admit(self, slot: Slot, request: Request) -> None:
        """Puts it into the queue, or says why not. Only an inference that runs counts against the budget."""
        invocation = slot.invocation
        if invocation is None or invocation.number != request.invocation:
            slot.answer(request.invocation, request.sequence, Status.UNKNOWN_INVOCATION, [])
            return
        status, model = self._judge(invocation, request)
        if model is None:
            slot.answer(request.invocation, request.sequence, status, [])
            return
        invocation.spent[request.model] += 1
        bound = invocation.binding.models[request.model]
        rows = batches.rows_of(model, request.inputs)
        company = "" if bound.shares_batches else invocation.binding.tenant
        job = Job(
            slot=slot,
            invocation=invocation,
            request=request,
            loaded=model,
            bound=bound,
            rows=max(rows, 1),
            batch=(company, batches.shape_of(request.inputs)) if rows else None,
            arrived_ns=time.monotonic_ns(),
        )
        slot.pending = job
        if slot.running is not None:
            slot.held = job
        else:
            self._queue.put(job)
        self._wake_by(job.expiry()[0])

    def _judge(self, invocation: Invocation, request: Request) -> tuple[Status, LoadedModel | None]:
        """The model to run, or why not."""
        models = invocation.binding.models
        if request.model >= len(models):
            return Status.INVALID_ARGUMENT, None
        bound = models[request.model]
        if invocation.spent[request.model] >= bound.max_inferences:
            return Status.BUDGET, None
        if time.monotonic_ns() >= invocation.deadline_ns:
            return Status.DEADLINE, None
        model = self._models.get(bound.digest)
        if model is None:
            return Status.RUNTIME, None
        if not runs.accepts(model, request.inputs):
            return Status.INVALID_ARGUMENT, None
        return Status.OK, model

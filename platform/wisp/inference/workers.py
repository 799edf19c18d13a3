"""The threads that infer."""

from __future__ import annotations

import threading
import time

from wisp.inference import batches, runs
from wisp.inference.desk import Desk
from wisp.inference.runs import Part
from wisp.inference.slots import Flight, Job
from wisp.wire.inferences import Status

NO_ROOM = runs.Run(status=Status.INVALID_ARGUMENT)


class Workers:
    """Run what the desk gives them until it stops, and answer those that nobody cancelled meanwhile."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._threads = [
            threading.Thread(target=self._serve, name=f"infer-{number}", daemon=True) for number in range(desk.workers)
        ]
        for thread in self._threads:
            thread.start()

    def join(self, grace_s: float) -> bool:
        """Whether every thread ended in time; a kernel in the middle of a huge operation does not."""
        until_s = time.monotonic() + grace_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self) -> None:
        # A worker that waits keeps no flight, and with it no unloaded model, alive.
        while (flight := self._desk.next()) is not None:
            while flight is not None:
                flight = self._desk.finish(flight, self._run(flight))

    def _run(self, flight: Flight) -> int:
        """The time that the model took on all its threads, in ns."""
        jobs = flight.jobs if len(flight.jobs) == 1 else self._desk.live(flight)
        if len(jobs) == 1:
            return self._run_alone(flight, jobs[0])
        return self._run_stacked(flight, jobs) if jobs else 0

    def _run_alone(self, flight: Flight, job: Job) -> int:
        feed = runs.read(job.loaded, job.request.inputs, job.slot.segment.view)
        run = NO_ROOM if feed is None else runs.run(job.loaded, feed, flight.options, flight.threads)
        if job.loaded.wide is not None and run.status is Status.OK:
            job.loaded.wide.note(flight.threads, run.nn_ns // flight.threads)
        for claimed in self._desk.claim((job,)):
            self._answer(claimed, run.status, runs.whole(run.outputs), run.nn_ns)
        return run.nn_ns

    def _run_stacked(self, flight: Flight, jobs: list[Job]) -> int:
        """Each is charged for its share of the rows. What fails together is run again one by one."""
        model, rows = jobs[0].loaded, [job.rows for job in jobs]
        feed = batches.stack(model, [(job.request.inputs, job.slot.segment.view) for job in jobs])
        run = NO_ROOM if feed is None else runs.run(model, feed, flight.options)
        parts = batches.split(run.outputs, rows) if run.status is Status.OK else None
        if parts is None:
            if run.status is Status.OK:
                self._desk.stop_batching(model)
            alone_ns = [self._run_alone(flight, job) for job in jobs if self._desk.alone(flight, job)]
            return run.nn_ns + sum(alone_ns)
        part_of = dict(zip(jobs, parts, strict=True))
        row_ns = run.nn_ns // sum(rows)
        for job in self._desk.claim(jobs):
            self._answer(job, Status.OK, part_of[job], row_ns * job.rows)
        return run.nn_ns

    @staticmethod
    def _answer(job: Job, status: Status, outputs: tuple[Part, ...], nn_ns: int) -> None:
        now_ns = time.monotonic_ns()
        expires_ns, expired = job.expiry()
        if now_ns >= expires_ns:
            # Past it the sandbox may have turned to its next guest, whose inputs share the segment.
            status = expired
        refs = runs.place(outputs, job.request.room_offset, job.request.room_bytes) if status is Status.OK else []
        if refs is None:
            status, refs = Status.TOO_LARGE, []
        elif status is Status.OK:
            runs.copy_out(outputs, refs, job.slot.segment.view)
        job.slot.settle(job, status, refs, nn_ns)

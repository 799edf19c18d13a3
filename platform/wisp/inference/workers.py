"""The threads that infer, and the one that opens models. The main loop does neither."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from queue import SimpleQueue

from wisp.errors import InvalidModel
from wisp.inference import runs
from wisp.inference.queues import FairQueue
from wisp.inference.sessions import LoadedModel, Sessions
from wisp.inference.slots import Job
from wisp.wire.inferences import Status


class Workers:
    """Takes jobs from the queue until it is closed, and answers those that nobody cancelled meanwhile.

    `lock` guards the hand-over of a job between main loop and worker: `Job.claimed`, `started_ns`, and the slot's
    `pending`, `running`, `held` and `closed`.
    """

    def __init__(self, queue: FairQueue[Job], lock: threading.Lock, threads: int) -> None:
        self._queue = queue
        self._lock = lock
        self._threads = [
            threading.Thread(target=self._serve, name=f"infer-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, grace_s: float) -> bool:
        """Whether every thread ended in time; a kernel in the middle of a huge operation does not."""
        self._queue.close(len(self._threads))
        until_s = time.monotonic() + grace_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self) -> None:
        while self._next():
            pass

    def _next(self) -> bool:
        """Its own frame, so that a waiting worker keeps no job, and with it no unloaded model, alive."""
        job = self._queue.take()
        if job is None:
            return False
        slot = job.slot
        with self._lock:
            if job.claimed:
                return True
            slot.running = job
            job.started_ns = time.monotonic_ns()
            slot.meter.start(job.invocation.number, job.started_ns)
        run = runs.run(job.model, job.request.inputs, slot.segment.view, job.options)
        with self._lock:
            answers = not job.claimed
            job.claimed = True
            if answers:
                slot.pending = None
        if answers:
            self._answer(job, run)
        with self._lock:
            slot.running = None
            held, slot.held = slot.held, None
            if slot.closed:
                slot.release()
        if held is not None:
            self._queue.put(held)
        return True

    @staticmethod
    def _answer(job: Job, run: runs.Run) -> None:
        status = run.status
        now_ns = time.monotonic_ns()
        expires_ns, expired = job.expiry(now_ns)
        if now_ns >= expires_ns:
            # Past it the sandbox may have turned to its next guest, whose inputs share the segment.
            status = expired
        refs = runs.place(run.outputs, job.request.room_offset, job.request.room_bytes) if status is Status.OK else []
        if refs is None:
            status, refs = Status.TOO_LARGE, []
        elif status is Status.OK:
            runs.copy_out(run.outputs, refs, job.slot.segment.view)
        job.slot.settle(job, status, refs, run.nn_ns)


@dataclass(slots=True, kw_only=True, eq=False)
class Load:
    """One model being opened, for as many LOAD frames as asked for it meanwhile."""

    digest: str
    fd: int
    prepared: str = ""
    batch: int = 0
    frames: int = 1
    model: LoadedModel | None = None
    error: str = ""
    load_ms: int = 0


class Loader:
    """Opens models in order. `fileno` turns readable when `finished` has something."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._waiting: SimpleQueue[Load | None] = SimpleQueue()
        self._finished: deque[Load] = deque()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._serve, name="load", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        return self._event

    def put(self, load: Load) -> None:
        """Takes the load's descriptor over."""
        self._waiting.put(load)

    def finished(self) -> list[Load]:
        os.eventfd_read(self._event)
        return [self._finished.popleft() for _ in range(len(self._finished))]

    def stop(self, grace_s: float) -> bool:
        """Whether the thread ended in time; creating a session cannot be cancelled."""
        self._waiting.put(None)
        self._thread.join(grace_s)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while self._next():
            pass

    def _next(self) -> bool:
        load = self._waiting.get()
        if load is None:
            return False
        began = time.monotonic()
        try:
            load.model = self._sessions.open(load.digest, load.fd, prepared=load.prepared, batch=load.batch)
        except (InvalidModel, OSError, MemoryError) as error:
            load.error = str(error) or type(error).__name__
        finally:
            os.close(load.fd)
        load.load_ms = round((time.monotonic() - began) * 1000)
        self._finished.append(load)
        os.eventfd_write(self._event, 1)
        return True

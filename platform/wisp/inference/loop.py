"""The inference host's main loop: one thread that talks to the router and every slot, and never infers.

The router is trusted, a slot in nothing: a frame that breaks the protocol costs its sender the socket, never the host.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys
import threading
import time
from typing import Any

from wisp.errors import InvalidFrame
from wisp.inference import runs
from wisp.inference.queues import FairQueue
from wisp.inference.reasons import plain
from wisp.inference.requests import Request
from wisp.inference.sessions import LoadedModel, Sessions
from wisp.inference.slots import Invocation, Job, Slot
from wisp.inference.workers import Load, Loader, Workers
from wisp.wire import inferences as wire
from wisp.wire.channel import Channel, Frame
from wisp.wire.inferences import Binding, Kind, Status
from wisp.wire.meters import Meter
from wisp.wire.segments import Segment
from wisp.wire.walls import Report, encode_report

STOP_GRACE_S = 2.0


def note(text: str) -> None:
    """One line to standard error, which the router reads; losing it is no reason to fail."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"inference host: {plain(text)}\n")
        sys.stderr.flush()


class Host:
    """Serves `control` until its end of file."""

    def __init__(self, control: Channel, sessions: Sessions, *, threads: int) -> None:
        control.sock.setblocking(False)
        self._control = control
        self._outbox: list[tuple[Kind, bytes]] = []
        self._serving = True
        self._slots: dict[int, Slot] = {}
        self._bindings: dict[int, Binding] = {}
        self._models: dict[str, LoadedModel] = {}
        self._loads: dict[str, Load] = {}
        self._lock = threading.Lock()
        self._queue: FairQueue[Job] = FairQueue()
        self._workers = Workers(self._queue, self._lock, threads)
        self._loader = Loader(sessions)
        self._selector = selectors.EpollSelector()
        self._selector.register(control, selectors.EVENT_READ, self._drain_control)
        self._selector.register(self._loader, selectors.EVENT_READ, self._report_loads)

    def serve(self, walls: Report) -> bool:
        """Runs to the end; whether every thread ended with it."""
        self._tell(Kind.READY, {"walls": encode_report(walls)})
        while self._serving:
            for key, _ in self._selector.select(self._timeout_s()):
                if isinstance(key.data, Slot):
                    self._hear(key.data)
                else:
                    key.data()
            self._expire()
        for slot in list(self._slots.values()):
            self._close_slot(slot)
        loaded = self._loader.stop(STOP_GRACE_S)
        return self._workers.stop(STOP_GRACE_S) and loaded

    # The router

    def _tell(self, kind: Kind, fields: dict[str, object]) -> None:
        self._outbox.append((kind, json.dumps(fields).encode()))
        self._flush()

    def _flush(self) -> None:
        """Sends what it can; the rest goes when the router reads again."""
        events = selectors.EVENT_READ
        try:
            while self._outbox:
                self._control.send(*self._outbox[0])
                del self._outbox[0]
        except BlockingIOError:
            events |= selectors.EVENT_WRITE
        except OSError:
            self._serving = False
        self._selector.modify(self._control, events, self._drain_control)

    def _drain_control(self) -> None:
        """Handles all that the router has sent so far."""
        if self._outbox:
            self._flush()
        while self._serving:
            try:
                frame = self._control.receive()
            except BlockingIOError:
                return
            except ConnectionError:
                frame = None
            if frame is None:
                self._serving = False
                return
            self._obey(frame)

    def _obey(self, frame: Frame) -> None:
        match Kind(frame.kind):
            case Kind.OPEN:
                self._open(*wire.OPEN.unpack(frame.payload))
            case Kind.CLOSE:
                self._close(*wire.CLOSE.unpack(frame.payload))
            case Kind.BIND:
                binding = Binding.decode(frame.payload)
                self._bindings[binding.handle] = binding
            case Kind.UNBIND:
                self._bindings.pop(wire.HANDLE.unpack(frame.payload)[0], None)
            case Kind.SLOT:
                self._attach(wire.SLOT.unpack(frame.payload)[0], frame)
            case Kind.LOAD:
                self._load(json.loads(frame.payload), frame)
            case Kind.UNLOAD:
                # Inferences that were accepted keep the session; the last one to end drops it.
                digest = frame.payload.decode()
                self._models.pop(digest, None)
                self._loads.pop(digest, None)
            case other:
                raise InvalidFrame(f"the router sent {other.name}")

    def _load(self, fields: dict[str, Any], frame: Frame) -> None:
        (fd,) = frame.fds
        digest = fields["digest"]
        load = self._loads.get(digest)
        if load is None and digest not in self._models:
            self._loads[digest] = Load(
                digest=digest, fd=fd, prepared=fields.get("prepared", ""), batch=fields.get("batch", 0)
            )
            self._loader.put(self._loads[digest])
            return
        frame.close_fds()
        if load is not None:
            load.frames += 1
        else:
            self._tell(Kind.LOADED, {"digest": digest, "ok": True, "error": "", "load_ms": 0, "shared": False})

    def _report_loads(self) -> None:
        for load in self._loader.finished():
            if self._loads.get(load.digest) is load:
                del self._loads[load.digest]
                if load.model is not None:
                    self._models[load.digest] = load.model
            elif not load.error:
                load.error = "unloaded while it was being opened"
            for _ in range(load.frames):
                self._tell(
                    Kind.LOADED,
                    {
                        "digest": load.digest,
                        "ok": not load.error,
                        "error": load.error,
                        "load_ms": load.load_ms,
                        "shared": load.model is not None and load.model.shared,
                    },
                )

    def _attach(self, number: int, frame: Frame) -> None:
        former = self._slots.get(number)
        if former is not None:
            self._close_slot(former)
        sock_fd, segment_fd, meter_fd = frame.fds
        slot = Slot(number, socket.socket(fileno=sock_fd), Segment(segment_fd), Meter(Segment(meter_fd)))
        self._slots[number] = slot
        self._selector.register(slot.channel, selectors.EVENT_READ, slot)

    def _open(self, number: int, handle: int, invocation: int, deadline_ns: int) -> None:
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

    def _close(self, number: int, invocation: int) -> None:
        slot = self._slots.get(number)
        if slot is None or slot.invocation is None or slot.invocation.number != invocation:
            return
        slot.invocation = None
        if slot.pending is not None:
            self._settle(slot.pending, Status.UNKNOWN_INVOCATION)

    # The slots

    def _hear(self, slot: Slot) -> None:
        """One frame of one slot, so that a busy slot does not keep the others waiting."""
        if slot.closed:
            return  # earlier in this round
        try:
            frame = slot.channel.receive()
            if frame is None:
                self._close_slot(slot)
            else:
                self._compute(slot, frame)
        except BlockingIOError:
            return
        except ConnectionError:  # it died with answers unread
            self._close_slot(slot)
        except (InvalidFrame, OSError) as error:
            note(f"slot {slot.number} is closed: {error}")
            self._close_slot(slot)

    def _compute(self, slot: Slot, frame: Frame) -> None:
        """Raises `InvalidFrame` for what no honest sandbox sends."""
        request = Request.decode(frame, slot.segment.size_bytes)
        if slot.pending is not None:
            raise InvalidFrame("an inference while another one is not answered")
        if slot.invocation is None or slot.invocation.number != request.invocation:
            # The router opened it before the guest started, so the frame that did has arrived by now.
            self._drain_control()
            if slot.closed:
                return
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
        job = Job(slot=slot, invocation=invocation, request=request, model=model, bound=bound)
        with self._lock:
            slot.pending = job
            if slot.running is not None:
                slot.held = job
                return
        self._queue.put(job)

    def _judge(self, invocation: Invocation, request: Request) -> tuple[Status, LoadedModel | None]:
        """The model to run, or why not. Only an inference that runs counts against the budget."""
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

    def _settle(self, job: Job, status: Status | None) -> None:
        """Ends a job that has not ended by itself: stops it, and answers it at once even if it cannot be stopped."""
        with self._lock:
            if job.claimed:
                return
            job.claimed = True
            job.slot.pending = None
            if job.slot.held is job:
                job.slot.held = None
            job.options.terminate = True
        if status is not None:
            job.slot.settle(job, status, [], job.spent_ns(time.monotonic_ns()))

    def _close_slot(self, slot: Slot) -> None:
        self._selector.unregister(slot.channel)
        slot.invocation = None
        if slot.pending is not None:
            self._settle(slot.pending, None)
        slot.shut()
        with self._lock:
            slot.closed = True
            if slot.running is None:
                slot.release()
        if self._slots.get(slot.number) is slot:
            del self._slots[slot.number]

    # The clock

    def _timeout_s(self) -> float | None:
        now_ns = time.monotonic_ns()
        expiries = [job.expiry(now_ns)[0] for slot in self._slots.values() if (job := slot.pending) is not None]
        return max(0.0, (min(expiries) - now_ns) / 1e9) if expiries else None

    def _expire(self) -> None:
        now_ns = time.monotonic_ns()
        for slot in self._slots.values():
            if (job := slot.pending) is not None:
                expires_ns, status = job.expiry(now_ns)
                if now_ns >= expires_ns:
                    self._settle(job, status)

"""A slot: one sandbox as the inference host sees it, with the invocation that runs there and the inference it awaits.

Who may answer an inference is settled by `Job.claimed`, under the desk's lock: the worker that ran it, or whoever
cancelled it, never both. While a thread reads or runs something of a slot (`Slot.uses`), socket and segment stay open,
so that neither a mapping nor a descriptor number changes hands under it.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

import onnxruntime

from wisp.inference.requests import Request
from wisp.inference.sessions import LoadedModel
from wisp.wire.channel import Channel
from wisp.wire.inferences import DONE_HEAD, Binding, BoundModel, Kind, Status
from wisp.wire.meters import Meter
from wisp.wire.segments import Segment
from wisp.wire.tensors import TensorRef, TensorSpec, pack_tensors


@dataclass(slots=True, kw_only=True, eq=False)
class Invocation:
    """What the router vouched for. `spent` counts inferences by model number."""

    number: int
    binding: Binding
    deadline_ns: int
    spent: list[int]


class Fit(NamedTuple):
    """That these inputs are ones that a model with these specifications, and so many rows in a batch, takes; how many
    rows they have, 0 where they run alone, and what is equal for those that stack."""

    inputs: list[TensorRef]
    specs: tuple[TensorSpec, ...]
    batch: int
    rows: int
    shape: Hashable


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One inference from COMPUTE to DONE. `batch` is equal for those that may be stacked, None where that is not so."""

    slot: Slot
    invocation: Invocation
    request: Request
    loaded: LoadedModel
    bound: BoundModel
    rows: int
    batch: Hashable | None
    arrived_ns: int
    started_ns: int = 0
    claimed: bool = False
    flight: Flight | None = None

    def spent_ns(self, now_ns: int) -> int:
        """How long it has been running, on all its threads; in a batch, its rows' share of that."""
        if self.flight is None or not self.started_ns:
            return 0
        return (now_ns - self.started_ns) * self.flight.threads * self.rows // self.flight.rows

    @property
    def tenant(self) -> str:
        return self.invocation.binding.tenant

    @property
    def weight(self) -> int:
        return self.invocation.binding.weight

    @property
    def model(self) -> str:
        return self.loaded.digest

    @property
    def max_rows(self) -> int:
        return self.loaded.batch

    def expiry(self) -> tuple[int, Status]:
        """When it is over, on CLOCK_MONOTONIC, and what it is then. A model's time does not run while it waits."""
        deadline_ns = self.invocation.deadline_ns
        if self.started_ns and (model_ns := self.started_ns + self.bound.max_time_ns) < deadline_ns:
            return model_ns, Status.MODEL_TIME
        return deadline_ns, Status.DEADLINE


@dataclass(slots=True, kw_only=True, eq=False)
class Flight:
    """What one worker runs at a time: one job, or several stacked. `solo`: the one that runs by itself after the stack
    of all had failed."""

    jobs: list[Job]
    solo: Job | None = None
    threads: int = 1
    """Of its model's session."""
    left_ns: int = 0
    """Since when nobody waits for it, on CLOCK_MONOTONIC."""
    # A terminated RunOptions stays terminated: one for each run.
    options: onnxruntime.RunOptions = field(default_factory=onnxruntime.RunOptions)

    @property
    def rows(self) -> int:
        """Of what runs now."""
        return sum(job.rows for job in self.jobs) if self.solo is None else self.solo.rows

    def leave(self, job: Job) -> None:
        """Nobody waits for this one any more; what nobody at all waits for is stopped."""
        if self.solo is job or (self.solo is None and all(one.claimed for one in self.jobs)):
            self.options.terminate = True
            self.left_ns = time.monotonic_ns()

    def alone(self, job: Job) -> None:
        self.solo, self.left_ns = job, 0
        self.options = onnxruntime.RunOptions()


class Slot:
    def __init__(self, number: int, sock: socket.socket, segment: Segment, meter: Meter) -> None:
        sock.setblocking(False)
        self.number = number
        self.meter = meter
        self.channel = Channel(sock)
        self.segment = segment
        self.invocation: Invocation | None = None
        self.pending: Job | None = None
        """Not answered yet."""
        self.running: Job | None = None
        """With a worker, answered or not."""
        self.held: Job | None = None
        """Waits for `running` to leave its worker: a slot never occupies two."""
        self.former: Request | None = None
        """What it asked for last, right or wrong."""
        self.fit: Fit | None = None
        """What of it was right last."""
        self.uses = 0
        """Threads that read or run something of it."""
        self.closed = False

    def answer(self, invocation: int, sequence: int, status: Status, outputs: list[TensorRef], nn_ns: int = 0) -> None:
        """Never waits: a sandbox that lets its answers pile up loses its socket."""
        head = DONE_HEAD.pack(invocation, sequence, status, len(outputs), nn_ns)
        try:
            self.channel.send(Kind.DONE, head + pack_tensors(outputs))
        except OSError:
            self.shut()

    def settle(self, job: Job, status: Status, outputs: list[TensorRef], nn_ns: int) -> None:
        """Meters an inference that was accepted, and answers it: in this order, so that no answer goes uncounted."""
        moved_bytes = 0
        for ref in (*job.request.inputs, *outputs):
            moved_bytes += ref.length
        self.meter.add(job.invocation.number, nn_ns, moved_bytes)
        self.answer(job.invocation.number, job.request.sequence, status, outputs, nn_ns)

    def shut(self) -> None:
        """Ends the socket without giving up its descriptor; whoever reads it next sees the end of file."""
        with contextlib.suppress(OSError):
            self.channel.sock.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Once it is closed and nobody uses it any more."""
        if self.closed and not self.uses:
            self.channel.close()
            self.segment.close()
            self.meter.close()

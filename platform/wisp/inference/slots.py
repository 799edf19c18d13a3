"""A slot: one sandbox as the inference host sees it, with the invocation that runs there and the inference it awaits.

Who may answer an inference is settled by `Job.claimed`, under the host's lock: the worker that ran it, or the main
thread that cancelled it, never both. While a worker holds a job (`Slot.running`), socket and segment stay open, so that
neither a mapping nor a descriptor number changes hands under it; whatever the slot asks next waits in `held`.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field

import onnxruntime

from wisp.inference.requests import Request
from wisp.inference.sessions import LoadedModel
from wisp.wire.channel import Channel
from wisp.wire.inferences import DONE_HEAD, Binding, BoundModel, Kind, Status
from wisp.wire.meters import Meter
from wisp.wire.segments import Segment
from wisp.wire.tensors import TensorRef, pack_tensors


@dataclass(slots=True, kw_only=True, eq=False)
class Invocation:
    """What the router vouched for. `spent` counts inferences by model number."""

    number: int
    binding: Binding
    deadline_ns: int
    spent: list[int]


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One inference from COMPUTE to DONE."""

    slot: Slot
    invocation: Invocation
    request: Request
    model: LoadedModel
    bound: BoundModel
    # A terminated RunOptions stays terminated: one for each run.
    options: onnxruntime.RunOptions = field(default_factory=onnxruntime.RunOptions)
    started_ns: int = 0
    claimed: bool = False

    def spent_ns(self, now_ns: int) -> int:
        """How long it has been running."""
        return now_ns - self.started_ns if self.started_ns else 0

    @property
    def tenant(self) -> str:
        return self.invocation.binding.tenant

    def expiry(self, now_ns: int) -> tuple[int, Status]:
        """When it is over, on CLOCK_MONOTONIC, and what it is then. A model's time does not run while it waits."""
        model_ns = (self.started_ns or now_ns) + self.bound.max_time_ns
        deadline_ns = self.invocation.deadline_ns
        return (model_ns, Status.MODEL_TIME) if model_ns < deadline_ns else (deadline_ns, Status.DEADLINE)


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
        """On a worker, answered or not."""
        self.held: Job | None = None
        """Waits for `running` to leave its worker: a slot never occupies two."""
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
        tensors = (*job.request.inputs, *outputs)
        self.meter.add(job.invocation.number, nn_ns, sum(ref.length for ref in tensors))
        self.answer(job.invocation.number, job.request.sequence, status, outputs, nn_ns)

    def shut(self) -> None:
        """Ends the socket without giving up its descriptor; the main loop then sees the end of file."""
        with contextlib.suppress(OSError):
            self.channel.sock.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        self.channel.close()
        self.segment.close()
        self.meter.close()

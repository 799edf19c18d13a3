"""The inference host's two peers, played by a test: the router on the control channel, a sandbox on each slot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wisp.wire import admissions
from wisp.wire import inferences as wire
from wisp.wire.channel import Channel, Frame, socket_pair
from wisp.wire.confinement import Limits, child_arguments
from wisp.wire.inferences import Binding, BoundModel, Kind, Status
from wisp.wire.meters import Meter
from wisp.wire.segments import Segment, create_fixed, create_frozen
from wisp.wire.tensors import BY_NUMPY_NAME, NUMPY_NAMES, TensorRef, pack_tensors, unpack_tensors

Array = npt.NDArray[Any]
PATIENCE_S = 20.0
SECOND_NS = 1_000_000_000
HOST_LIMITS = Limits(open_files=256)
ADMISSION_LIMITS = Limits(address_space_bytes=1536 << 20, cpu_s=5)


def spawn(module: str, limits: Limits, cwd: Path, **options: int) -> tuple[subprocess.Popen[bytes], Channel]:
    """A child as production starts it: one socket, an empty environment, an empty directory."""
    mine, theirs = socket_pair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", module, *child_arguments(limits, theirs.fileno(), **options)],
            pass_fds=(theirs.fileno(), *(fd for name, fd in options.items() if name.endswith("fd"))),
            env={},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    mine.settimeout(PATIENCE_S)
    return process, Channel(mine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: Status
    outputs: list[Array]
    nn_ns: int


class Sandbox:
    def __init__(self, channel: Channel, segment: Segment, meter: Meter, number: int) -> None:
        self.channel = channel
        self.meter = meter
        self.segment = segment
        self.number = number
        self.sequence = 0

    def lay(self, inputs: Sequence[Array]) -> tuple[list[TensorRef], int]:
        """Writes the inputs to the segment from its start; the references, and where the room begins."""
        refs, at = [], 0
        for index, array in enumerate(inputs):
            data = array.tobytes()
            self.segment.view[at : at + len(data)] = data
            dtype = BY_NUMPY_NAME[array.dtype.name]
            refs.append(TensorRef(index=index, dtype=dtype, dims=array.shape, offset=at, length=len(data)))
            at += (len(data) + 63) & -64
        return refs, at

    def ask(self, invocation: int, refs: list[TensorRef], room: tuple[int, int], model: int = 0) -> None:
        self.sequence += 1
        head = wire.COMPUTE_HEAD.pack(invocation, self.sequence, model, len(refs), *room)
        self.channel.send(Kind.COMPUTE, head + pack_tensors(refs))

    def start(self, invocation: int, *inputs: Array, model: int = 0, room_bytes: int | None = None) -> None:
        refs, at = self.lay(inputs)
        self.ask(invocation, refs, (at, self.segment.size_bytes - at if room_bytes is None else room_bytes), model)

    def answer(self, invocation: int) -> Answer:
        frame = self.channel.receive()
        assert frame is not None, "the host closed the slot"
        assert frame.kind == Kind.DONE
        number, sequence, status, count, nn_ns = wire.DONE_HEAD.unpack_from(frame.payload)
        assert (number, sequence) == (invocation, self.sequence)
        refs = unpack_tensors(frame.payload, wire.DONE_HEAD.size, count, self.segment.size_bytes)
        assert all(ref.offset % 64 == 0 for ref in refs)
        assert [ref.index for ref in refs] == list(range(count))
        outputs = []
        for ref in refs:
            data = bytes(self.segment.view[ref.offset : ref.offset + ref.length])
            outputs.append(np.frombuffer(data, NUMPY_NAMES[ref.dtype]).reshape(ref.dims))
        return Answer(status=Status(status), outputs=outputs, nn_ns=nn_ns)

    def compute(self, invocation: int, *inputs: Array, model: int = 0, room_bytes: int | None = None) -> Answer:
        self.start(invocation, *inputs, model=model, room_bytes=room_bytes)
        return self.answer(invocation)

    def wait_until_it_runs(self, invocation: int) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not self.meter.read(invocation).inferences:
            assert time.monotonic() < until_s, "the inference does not start"
            time.sleep(0.002)

    def is_shut(self) -> bool:
        """Waits until the host says something or nothing more."""
        try:
            return self.channel.receive() is None
        except ConnectionError:
            return True

    def close(self) -> None:
        self.channel.close()
        self.segment.close()
        self.meter.close()


class Router:
    """Starts a host and speaks for the router; what it handed out is closed with it."""

    def __init__(self, cwd: Path, **options: int) -> None:
        self.process, self.channel = spawn("wisp.inference.host", HOST_LIMITS, cwd, **options)
        self.sandboxes: list[Sandbox] = []
        self.stderr = b""
        frame = self.channel.receive()
        assert frame is not None, self.finish()
        assert frame.kind == Kind.READY

    def load(self, digest: str, model: bytes, *, batch: int = 0, wide: bool = False) -> dict[str, Any]:
        self.send_load(digest, model, batch=batch, wide=wide)
        return self.loaded()

    def send_load(self, digest: str, model: bytes, *, prepared: str = "", batch: int = 0, wide: bool = False) -> None:
        fd = create_frozen("model", [model])
        fields = {"digest": digest, "bytes": len(model), "batch": batch, "prepared": prepared, "wide": wide}
        frame = Frame(kind=Kind.LOAD, payload=json.dumps(fields).encode(), fds=(fd,))
        self.channel.send(frame.kind, frame.payload, frame.fds)
        frame.close_fds()

    def loaded(self) -> dict[str, Any]:
        frame = self.channel.receive()
        assert frame is not None, self.finish()
        assert frame.kind == Kind.LOADED
        answer: dict[str, Any] = json.loads(frame.payload)
        return answer

    def unload(self, digest: str) -> None:
        self.channel.send(Kind.UNLOAD, digest.encode())

    def slot(self, number: int, segment_bytes: int = 1 << 20) -> Sandbox:
        mine, theirs = socket_pair()
        mine.settimeout(PATIENCE_S)
        fd = create_fixed("tensors", segment_bytes)
        meter = Meter.create()
        with theirs:
            self.channel.send(Kind.SLOT, wire.SLOT.pack(number), (theirs.fileno(), fd, meter.fd))
        sandbox = Sandbox(Channel(mine), Segment(fd), meter, number)
        self.sandboxes.append(sandbox)
        return sandbox

    def bind(
        self,
        handle: int,
        *digests: str,
        tenant: str = "acme",
        max_inferences: int = 1_000_000,
        max_time_ms: int = 20_000,
        shares_batches: bool = True,
        weight: int = 1,
    ) -> None:
        models = tuple(
            BoundModel(
                digest=digest,
                max_inferences=max_inferences,
                max_time_ns=max_time_ms * 1_000_000,
                shares_batches=shares_batches,
            )
            for digest in digests
        )
        binding = Binding(handle=handle, tenant=tenant, models=models, weight=weight)
        self.channel.send(Kind.BIND, binding.encode())

    def open(self, sandbox: Sandbox, invocation: int, handle: int = 1, *, deadline_s: float = PATIENCE_S) -> None:
        deadline_ns = time.monotonic_ns() + int(deadline_s * SECOND_NS)
        self.channel.send(Kind.OPEN, wire.OPEN.pack(sandbox.number, handle, invocation, deadline_ns))

    def close_invocation(self, sandbox: Sandbox, invocation: int) -> None:
        self.channel.send(Kind.CLOSE, wire.CLOSE.pack(sandbox.number, invocation))

    def finish(self) -> int:
        """Ends the host by the end of its channel, and keeps what it printed; its exit status."""
        self.channel.close()
        for sandbox in self.sandboxes:
            sandbox.close()
        try:
            _, printed = self.process.communicate(timeout=PATIENCE_S)
        finally:
            self.process.kill()
        self.stderr += printed
        return self.process.returncode


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """`verdict` is None if the child's limits ended it first."""

    verdict: admissions.ModelFacts | admissions.Refusal | None
    peak_bytes: int


def judge(
    upload: bytes,
    cwd: Path,
    terms: admissions.Terms,
    limits: Limits = ADMISSION_LIMITS,
    *,
    prepared: tuple[int, ...] = (),
    **options: int,
) -> Judgement:
    """Hands an upload to a fresh admission child, with the memory files to prepare it in."""
    process, channel = spawn("wisp.inference.admission", limits, cwd, **options)
    assert process.stderr is not None
    with process.stderr:
        try:
            ready = channel.receive()
            assert ready is None or ready.kind == admissions.Kind.READY
            fd = create_frozen("upload", [upload])
            channel.send(admissions.Kind.JUDGE, terms.encode(), (fd, *prepared))
            os.close(fd)
            frame = channel.receive()
        except ConnectionError:
            frame = None
        finally:
            channel.close()
            os.kill(process.pid, signal.SIGKILL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    verdict = None if frame is None else admissions.decode_verdict(frame.payload)
    return Judgement(verdict=verdict, peak_bytes=usage.ru_maxrss * 1024)

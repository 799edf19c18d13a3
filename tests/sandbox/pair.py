"""A real sandbox and a real inference host, joined as the router joins them; the test speaks for the router."""

from __future__ import annotations

import signal
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference.peers import Router
from sandbox.children import PATIENCE_S, SandboxChild
from sandbox.guests import ROOT, model, vector
from sandbox.puppet import SCRATCH, Script, Told, puppet, read
from wisp.wire.invocations import ModelLink
from wisp.wire.outcome import Ending, Outcome
from wisp.wire.tensors import ElementType, TensorSpec

TINY = ROOT / "tests/models/tiny"
SLOT = 0
SEGMENT_BYTES = 1 << 20


def f32(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=ElementType.F32, shape=shape)


def i64(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=ElementType.I64, shape=shape)


SIDES: dict[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]] = {
    f"identity_{dtype.name.lower()}": ((vector(dtype),), (vector(dtype, "y"),)) for dtype in ElementType
} | {
    "two_io": ((f32("a", 2, 2), f32("b", 2, 2)), (f32("sum", 2, 2), f32("difference", 2, 2))),
    "static_2x3": ((f32("x", 2, 3),), (f32("y", 2, 3),)),
    "grow": ((i64("n", 1),), (f32("y", -1),)),
    "endless": ((f32("x", 1),), (f32("y", 1),)),
    "fails": ((i64("x", 1),), (f32("y", 1),)),
}


class Pair:
    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self.child = SandboxChild(cwd)
        self.host = Router(cwd, threads=2)
        self.join()

    def join(self) -> None:
        """Gives the sandbox a new line to the host."""
        self.slot = self.host.slot(SLOT, SEGMENT_BYTES)
        self.child.attach(self.slot.channel.fileno(), self.slot.segment.fd)
        self._loaded: set[str] = set()
        self._bound: set[int] = set()

    def replace_host(self) -> None:
        """Kills it and starts another, as the router would."""
        self.host.process.send_signal(signal.SIGKILL)
        self.host.finish()
        self.host = Router(self.cwd, threads=2)
        self.join()

    def start(
        self,
        guest: str | bytes | Path,
        body: bytes,
        *names: str,
        head: bytes = b"",
        timeout_s: float = PATIENCE_S,
        max_inferences: int = 1000,
        max_time_ms: int = 20_000,
        **grants: Any,
    ) -> int:
        """Starts a guest that may infer these of the tiny models; the invocation's number."""
        for name in names:
            if name not in self._loaded:
                assert self.host.load(name, (TINY / f"{name}.onnx").read_bytes())["ok"]
                self._loaded.add(name)
        links: tuple[ModelLink, ...] = tuple(model(name, *SIDES[name]) for name in names)
        function = self.child.link(guest, models=links, **grants)
        self.host.bind(function.handle, *names, max_inferences=max_inferences, max_time_ms=max_time_ms)
        self.child.number += 1
        number = self.child.number
        self.host.open(self.slot, number, function.handle, deadline_s=timeout_s)
        return self.child.send(function, body, head=head, timeout_s=timeout_s, number=number)

    def run(self, guest: str | bytes | Path, body: bytes, *names: str, **options: Any) -> Ending:
        number = self.start(guest, body, *names, **options)
        ending = self.child.result(number)
        self.host.close_invocation(self.slot, number)
        return ending

    def play(self, script: Script, *names: str, **options: Any) -> Told:
        ending = self.run(puppet(), script.body(), *names, **options)
        assert ending.outcome is Outcome.OK, ending.detail
        return read(ending, len(script.steps))

    def close(self) -> None:
        self.child.finish()
        self.host.process.kill()
        self.host.finish()


class Talk(Script):
    """A script of wasi-nn calls. Handles count from 0, so they are known before they are given."""

    OUT = SCRATCH
    BUFFER = SCRATCH + 256

    def __init__(self, steps: int = 60) -> None:
        super().__init__(steps)

    def load(self, name: str | bytes) -> None:
        raw = name if isinstance(name, bytes) else name.encode()
        self.call("load_by_name", self.data(raw), len(raw), self.OUT)

    def context(self, graph: int = 0) -> None:
        self.call("init_execution_context", graph, self.OUT + 4)

    def tensor(self, dims: Sequence[int], kind: int, content: bytes, length: int | None = None) -> int:
        """The address of a record; the bytes behind the type are what an old guest leaves there."""
        size = len(content) if length is None else length
        return self.words(self.words(*dims), len(dims), kind | 0xABCDEF00, self.data(content, 1), size)

    def set_input(self, context: int, index: int, dims: Sequence[int], kind: int, content: bytes) -> None:
        self.call("set_input", context, index, self.tensor(dims, kind, content))

    def compute(self, context: int = 0) -> None:
        self.call("compute", context)

    def get_output(
        self, context: int = 0, index: int = 0, *, at: int = BUFFER, room: int = 1024, size: int = OUT
    ) -> None:
        self.call("get_output", context, index, at, room, size)

    def open(self, *names: str) -> Talk:
        """A graph and a context each, numbered alike."""
        for number, name in enumerate(names):
            self.load(name)
            self.context(number)
        return self


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)

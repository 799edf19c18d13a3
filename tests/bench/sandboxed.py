"""A function in a sandbox's own runner, in this process, as a sandbox runs it: from the decoded frame to the ending."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wisp.sandbox.engine import Engine
from wisp.sandbox.guest import GuestRunner
from wisp.sandbox.hostline import HostLine
from wisp.sandbox.modules import LinkedModules
from wisp.sandbox.pagemap import open_pagemap
from wisp.wire.channel import Channel, socket_pair
from wisp.wire.confinement import Limits, child_arguments
from wisp.wire.exchange import encode_request_head
from wisp.wire.inferences import CLOSE, OPEN, SLOT, Binding
from wisp.wire.inferences import Kind as HostKind
from wisp.wire.invocations import FunctionLink, ModelLink
from wisp.wire.meters import Meter
from wisp.wire.outcome import Ending, Outcome
from wisp.wire.segments import Segment, create_fixed, create_frozen

REPOSITORY = Path(__file__).resolve().parents[2]
ACME = REPOSITORY / "tenants" / "acme"
NS = 1_000_000_000


def link(name: str, models: tuple[ModelLink, ...] = ()) -> FunctionLink:
    return FunctionLink(
        handle=1, module=name, abi="handler", entrypoint="", fuel=NS, memory_bytes=32 << 20, response_bytes=1 << 20,
        log_bytes=8192, environment=(), models=models, clock="coarse", random="real", trap_on_violation=True,
    )  # fmt: skip


def request_head(path: bytes = b"/") -> bytes:
    return encode_request_head(b"POST", path, b"name=ada", ((b"host", b"localhost"),))


class Bench:
    """A guest runner in this process, and one module in it."""

    def __init__(self) -> None:
        self.runner = GuestRunner(open_pagemap())
        self.modules = LinkedModules(self.runner.engine, self.runner.linker)
        self.answer = Segment.create("answer", 1 << 20)

    def prepared(
        self,
        module: Path,
        function: FunctionLink,
        *,
        path: bytes = b"/",
        body: bytes = b"",
        line: HostLine | None = None,
    ) -> Callable[[], Ending]:
        """One request, as a call without arguments. `module`: a file, or an example's folder."""
        file = module / "module.wasm" if module.is_dir() else module
        self.modules.add(function.module, create_frozen("code", [Engine().compile(file.read_bytes())]))
        self.modules.link(function)
        found, prepared = self.modules.function(function.handle)
        files = self.modules.files(function.handle)
        head = request_head(path)

        def once() -> Ending:
            ending, _ = self.runner.run(
                number=1, function=found, prepared=prepared, deadline_ns=time.monotonic_ns() + NS, head=head, body=body,
                line=line, answer=self.answer.view, files=files, request_id=b"r-1",
            )  # fmt: skip
            assert ending.outcome is Outcome.OK, ending
            return ending

        return once


@contextmanager
def inference_host(binding: Binding, model: Path) -> Iterator[tuple[HostLine, Callable[[int], None]]]:
    """A host process with the model loaded, and the two things that a router does for each invocation."""
    ours, theirs = socket_pair()
    with tempfile.TemporaryDirectory() as empty:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "wisp.inference.host", *child_arguments(Limits(), theirs.fileno(), threads=2)],
            pass_fds=(theirs.fileno(),), env={}, cwd=empty,
        )  # fmt: skip
        theirs.close()
        control = Channel(ours)
        assert control.receive() is not None
        with model.open("rb") as file:
            digest = binding.models[0].digest
            payload = json.dumps({"digest": digest, "bytes": model.stat().st_size}).encode()
            control.send(HostKind.LOAD, payload, (file.fileno(),))
            assert control.receive() is not None
        near, far = socket_pair()
        tensors = create_fixed("tensors", 1 << 20)
        meter = Meter.create()
        control.send(HostKind.SLOT, SLOT.pack(0), (far.fileno(), tensors, meter.fd))
        far.close()
        control.send(HostKind.BIND, binding.encode())
        line = HostLine(Channel(near), Segment(tensors))

        def before(deadline_ns: int) -> None:
            control.send(HostKind.CLOSE, CLOSE.pack(0, 1))
            control.send(HostKind.OPEN, OPEN.pack(0, binding.handle, 1, deadline_ns))

        try:
            yield line, before
        finally:
            line.close()
            control.close()
            process.wait(10)
            meter.close()

"""The compile child: one module's facts, then its code, then its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.children import PATIENCE_S
from sandbox.guests import ROOT, Bench, assembled, handler, link
from wisp.policy.facts import ModuleFacts
from wisp.sandbox.sections import read_facts
from wisp.wire.channel import Channel, socket_pair
from wisp.wire.compilations import LENGTH, MAX_REASON_BYTES, Kind
from wisp.wire.confinement import Limits, child_arguments
from wisp.wire.segments import Segment, create_frozen

ROOM = 8 << 20
LIMITS = Limits(address_space_bytes=1536 << 20, cpu_s=10, file_bytes=ROOM, open_files=32)


class CompileChild:
    def __init__(self, cwd: Path, room: int = ROOM) -> None:
        ours, theirs = socket_pair()
        self.output = Segment.create("output", room)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-m", "wisp.sandbox.compiler", *child_arguments(LIMITS, theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env={},
                cwd=cwd,
                stderr=subprocess.PIPE,
            )
        ours.settimeout(PATIENCE_S)
        self.channel = Channel(ours)
        frame = self.channel.receive()
        assert frame is not None
        assert frame.kind == Kind.READY

    def ask(self, kind: Kind, payload: bytes = b"", fds: tuple[int, ...] = ()) -> tuple[int, bytes]:
        self.channel.send(kind, payload, fds)
        frame = self.channel.receive()
        assert frame is not None
        return frame.kind, frame.payload

    def read(self, wasm: bytes, most: int = 1 << 20) -> tuple[int, bytes]:
        fd = create_frozen("module", [wasm])
        answer = self.ask(Kind.READ, LENGTH.pack(most), (fd, self.output.fd))
        os.close(fd)
        return answer

    def taken(self, payload: bytes) -> bytes:
        return bytes(self.output.view[: LENGTH.unpack(payload)[0]])

    def finish(self) -> int:
        self.channel.close()
        self.process.communicate(timeout=PATIENCE_S)
        self.output.close()
        return self.process.returncode


@pytest.fixture
def compiler(tmp_path: Path) -> Iterator[CompileChild]:
    made = CompileChild(tmp_path)
    yield made
    assert made.finish() == 0


def test_a_module_gives_its_facts_and_then_code_that_runs(compiler: CompileChild, bench: Bench) -> None:
    wasm = (ROOT / "tenants/acme/hello/module.wasm").read_bytes()
    kind, payload = compiler.read(wasm)
    assert kind == Kind.FACTS
    assert ModuleFacts.from_json(json.loads(compiler.taken(payload))) == read_facts(wasm)
    kind, payload = compiler.ask(Kind.COMPILE)
    assert kind == Kind.CODE
    bench.modules.add("compiled", create_frozen("code", [compiler.taken(payload)]))
    bench.modules.link(link(handle=7, module="compiled"))
    assert bench.modules.function(7)[1]
    bench.modules.drop("compiled")


@pytest.mark.parametrize(
    ("wasm", "says"),
    [
        pytest.param(handler().encode(), "text format", id="text"),
        pytest.param(b"\0", "not WebAssembly", id="a byte"),
        pytest.param(b"\0asm\x0d\0\x01\0", "component", id="component"),
        pytest.param(bytes(2 << 20), "at most", id="too large"),
    ],
)
def test_a_module_that_cannot_be_read_is_refused(compiler: CompileChild, wasm: bytes, says: str) -> None:
    kind, payload = compiler.read(wasm)
    assert kind == Kind.REFUSED
    assert says in payload.decode()


@pytest.mark.parametrize(
    "wat",
    [
        pytest.param("(module (func (result i32)))", id="a body that does not type"),
        pytest.param("(module (memory i64 1))", id="memory64"),
        pytest.param("(module (memory 1) (memory 1))", id="two memories"),
        pytest.param("(module (memory 1 1 shared))", id="shared memory"),
        pytest.param('(module (import "\\1b[2J\\0d" "f" (func $f)) (func (return_call $f)))', id="tail calls"),
    ],
)
def test_what_is_not_offered_is_refused_with_a_printable_reason(compiler: CompileChild, wat: str) -> None:
    kind, payload = compiler.read(assembled(wat))
    if kind == Kind.FACTS:
        kind, payload = compiler.ask(Kind.COMPILE)
    assert kind == Kind.REFUSED
    assert payload.decode().isprintable()
    assert 0 < len(payload) <= MAX_REASON_BYTES


def test_code_that_takes_too_much_room_is_refused(tmp_path: Path) -> None:
    wasm = (ROOT / "tenants/acme/hello/module.wasm").read_bytes()
    compiler = CompileChild(tmp_path, room=20_000)
    assert compiler.read(wasm)[0] == Kind.FACTS
    kind, payload = compiler.ask(Kind.COMPILE)
    assert (kind, b"at most 20000" in payload) == (Kind.REFUSED, True)
    assert compiler.finish() == 0


def test_a_router_that_does_not_want_it_compiled_ends_it(compiler: CompileChild) -> None:
    assert compiler.read(assembled(handler()))[0] == Kind.FACTS

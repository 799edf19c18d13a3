"""Guests for tests: written as WAT in the test's own text, compiled as uploads are, run in this process.

What may crash its process belongs into a real sandbox: see `sandbox.children`.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from wisp.sandbox.engine import Engine
from wisp.sandbox.guest import GuestRunner
from wisp.sandbox.habits import Habit
from wisp.sandbox.hostline import HostLine
from wisp.sandbox.modules import LinkedModules
from wisp.sandbox.pagemap import open_pagemap
from wisp.sandbox.sections import read_facts
from wisp.wire.exchange import MalformedExchange, decode_response
from wisp.wire.invocations import FunctionLink, ModelLink
from wisp.wire.outcome import Ending, Outcome
from wisp.wire.segments import Segment, create_frozen
from wisp.wire.tensors import ElementType, TensorSpec

ROOT = Path(__file__).parents[2]
SECOND_NS = 1_000_000_000
ANSWER_BYTES = 1 << 20
OK_RESPONSE = rb"\01\00\00\00\c8\00\00\00\00\00\00\00".decode()
"""As a WAT string: version 1, status 200, no headers."""
ANSWER = f"(i64.const {16 << 32 | 12})"
"""What `wisp_handle` returns for the response that `handler` lays at 16."""


def handler(handle: str = ANSWER, *, before: str = "", memory: str = "1") -> str:
    """A module of the handler ABI. `handle` is the body of `wisp_handle` ($ptr, $len), `before` stands at the start of
    the module (imports), room for requests begins at 4096."""
    return f"""(module {before}
      (memory (export "memory") {memory})
      (data (i32.const 16) "{OK_RESPONSE}")
      (func (export "wisp_alloc") (param i32) (result i32) (i32.const 4096))
      (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64) {handle}))"""


@cache
def compiled(wasm: bytes) -> bytes:
    """Native code, after the bytes have passed the reader that stands before the engine."""
    read_facts(wasm)
    engine = Engine()
    try:
        return engine.compile(wasm)
    finally:
        engine.close()


@cache
def assembled(wat: str) -> bytes:
    return bytes(wasmtime.wat2wasm(wat))


def to_wasm(guest: str | bytes | Path) -> bytes:
    """WAT text, module bytes, or the path of either."""
    if isinstance(guest, Path):
        guest = guest.read_bytes() if guest.suffix == ".wasm" else guest.read_text()
    return assembled(guest) if isinstance(guest, str) else guest


def vector(dtype: ElementType, name: str = "x") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=(-1,))


def model(name: str, *sides: tuple[TensorSpec, ...], **changes: Any) -> ModelLink:
    """By default one f32 vector in, one out."""
    inputs, outputs = sides or ((vector(ElementType.F32),), (vector(ElementType.F32, "y"),))
    fields: dict[str, Any] = {"target": "cpu", "max_inferences": 1000, "max_time_ns": 20 * SECOND_NS} | changes
    return ModelLink(name=name, inputs=inputs, outputs=outputs, **fields)


def link(**changes: Any) -> FunctionLink:
    fields: dict[str, Any] = {
        "handle": 1,
        "module": "m",
        "abi": "handler",
        "entrypoint": "",
        "fuel": 1_000_000_000,
        "memory_bytes": 16 << 20,
        "response_bytes": 256 << 10,
        "log_bytes": 4096,
        "environment": (),
        "models": (),
        "clock": "real",
        "random": "real",
        "trap_on_violation": True,
    }
    return FunctionLink(**(fields | changes))


def verdict(ending: Ending, function: FunctionLink) -> Outcome:
    """The outcome that a caller sees: the router reads a response that the sandbox only copied."""
    if ending.outcome is not Outcome.OK:
        return ending.outcome
    try:
        response = decode_response(memoryview(ending.response))
    except MalformedExchange:
        return Outcome.INVALID_GUEST_RESPONSE
    return Outcome.RESPONSE_TOO_LARGE if len(response.body) > function.response_bytes else Outcome.OK


class Bench:
    """A `GuestRunner` of this process, the modules it has linked, and an answer segment."""

    def __init__(self) -> None:
        self.runner = GuestRunner(open_pagemap())
        self.modules = LinkedModules(self.runner.engine, self.runner.linker)
        self.answer = Segment.create("answer", ANSWER_BYTES)
        self.number = 0
        self._loaded: dict[bytes, str] = {}

    def prepare(self, guest: str | bytes | Path) -> int:
        wasm = to_wasm(guest)
        digest = self._loaded.get(wasm)
        if digest is None:
            digest = self._loaded[wasm] = f"m{len(self._loaded)}"
            self.modules.add(digest, create_frozen("code", [compiled(wasm)]))
        self.modules.link(link(module=digest))
        return self.modules.function(1)[1]

    def run(
        self,
        guest: str | bytes | Path,
        body: bytes | memoryview = b"",
        *,
        head: bytes = b"",
        timeout_s: float = 20.0,
        line: HostLine | None = None,
        probe: bool = False,
        habit: Habit | None = None,
        **grants: Any,
    ) -> Ending:
        """The ending, with a response that went by the segment put back into it."""
        self.number += 1
        ending, in_segment = self.runner.run(
            number=self.number,
            function=link(**grants),
            prepared=self.prepare(guest),
            deadline_ns=time.monotonic_ns() + int(timeout_s * SECOND_NS),
            head=head,
            body=body,
            line=line,
            answer=self.answer.view,
            probe=probe,
            habit=habit,
        )
        if not in_segment:
            return ending
        response = bytes(self.answer.view[:in_segment])
        return Ending(
            outcome=ending.outcome, receipt=ending.receipt, response=response, logs=ending.logs, detail=ending.detail
        )

    def close(self) -> None:
        self.modules.close()
        self.runner.close()
        self.answer.close()


def descriptors(pid: int) -> int:
    """Past its walls only root may look into a child."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except PermissionError:
        pytest.skip("only root can count the descriptors of a child")


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")

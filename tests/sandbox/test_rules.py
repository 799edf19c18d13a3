"""The rules that carry the isolation (ARCHITECTURE.md), as far as they are the sandbox's to keep.

More of rule 3, 7 and 8, function by function: test_wasi.py, test_nn.py, test_memory.py, and tests/guests/hostile.
"""

from __future__ import annotations

import gc
import io
import os
import sys
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.guests import ANSWER, ROOT, Bench, descriptors, handler, model, resident_bytes, threads
from sandbox.puppet import MAX_ARGUMENTS, MEMORY_BYTES, NAMES, ROOM, SCRATCH, Step, pack, puppet
from wisp.sandbox import nn, wasi
from wisp.sandbox.handler import MissingExport
from wisp.wire.exchange import encode_request_head
from wisp.wire.outcome import Outcome

HELLO = ROOT / "tenants/acme/hello/module.wasm"
YIELD = '(import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))'
YIELDS = handler(f"(drop (call $yield)) {ANSWER}", before=YIELD)
LOOP = handler(f"(loop $again (br $again)) {ANSWER}")
PATIENCE_S = 10.0


class Unforeseen(BaseException):
    """Not even an `Exception`."""


class BrokenPipe(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError


# Rule 1: a host function never raises


@pytest.mark.parametrize(
    "error", [ValueError("secret /path"), MemoryError(), RecursionError(), KeyboardInterrupt(), Unforeseen()], ids=repr
)
@pytest.mark.parametrize("reader_is_gone", [False, True])
def test_rule_1_a_host_function_never_raises(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, reader_is_gone: bool
) -> None:
    def fail(*_arguments: object) -> int:
        raise error

    monkeypatch.setitem(wasi.FUNCTIONS, "sched_yield", fail)
    printed = BrokenPipe() if reader_is_gone else io.StringIO()
    monkeypatch.setattr(sys, "stderr", printed)
    bench = Bench()
    try:
        ending = bench.run(YIELDS)
        assert ending.outcome is Outcome.CHILD_LOST
        assert ending.response == b""
        assert type(error).__name__ in ending.detail
        assert "secret" not in ending.detail
        assert reader_is_gone or "Traceback" in printed.getvalue()
        assert bench.run(handler()).outcome is Outcome.OK
    finally:
        bench.close()


def test_rule_1_a_host_function_that_answers_nonsense_ends_only_its_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nn.FUNCTIONS, "compute", lambda *_: "no errno")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    bench = Bench()
    try:
        assert bench.run(puppet(), pack(("compute", 0))).outcome is Outcome.CHILD_LOST
        assert bench.run(handler()).outcome is Outcome.OK
    finally:
        bench.close()


# Rule 2: linked once, one invocation at a time, no store outlives its request


def test_rule_2_no_store_outlives_its_request_on_any_path(bench: Bench) -> None:
    proc_exit = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
    exits = handler(f"(call $exit (i32.const 1)) {ANSWER}", before=proc_exit)
    head = encode_request_head(b"GET", b"/", b"name=ada", ())
    incomplete = handler().replace('(export "wisp_handle")', "")
    memory = "(memory.fill (i32.const 28) (i32.const 1) (i32.const 4000000))"

    def mixed() -> None:
        assert bench.run(HELLO, head=head).outcome is Outcome.OK
        assert bench.run(handler("unreachable")).outcome is Outcome.GUEST_TRAP
        assert bench.run(LOOP, fuel=10_000).outcome is Outcome.FUEL_EXHAUSTED
        assert bench.run(handler(memory + ANSWER, memory="64")).outcome is Outcome.OK
        assert bench.run(handler(memory="300"), memory_bytes=1 << 20).outcome is Outcome.MEMORY_EXCEEDED
        assert bench.run(exits).outcome is Outcome.GUEST_EXIT
        assert bench.run(YIELDS, probe=True).outcome is Outcome.OK
        assert bench.run(handler("(i64.const -1)")).outcome is Outcome.RESPONSE_TOO_LARGE
        with pytest.raises(MissingExport):
            bench.run(incomplete)
        assert bench.run(puppet(), pack(("load_by_name", 0, 4, 0))).outcome is Outcome.CAPABILITY_DENIED

    for _ in range(40):
        mixed()
    assert bench.run(LOOP, timeout_s=0.001, fuel=2**62).outcome is Outcome.DEADLINE_EXCEEDED
    gc.collect()
    pid = os.getpid()
    before_bytes, before_fds, before_threads = resident_bytes(pid), descriptors(pid), threads(pid)
    for turn in range(200):
        mixed()
        if turn % 20 == 0:
            assert bench.run(LOOP, timeout_s=0.001, fuel=2**62).outcome is Outcome.DEADLINE_EXCEEDED
    gc.collect()
    assert resident_bytes(pid) - before_bytes < 8 << 20
    assert descriptors(pid) == before_fds
    until_s = time.monotonic() + PATIENCE_S
    while threads(pid) > before_threads and time.monotonic() < until_s:
        time.sleep(0.01)
    assert threads(pid) <= before_threads


def test_rule_2_functions_are_linked_once_per_engine(bench: Bench) -> None:
    callbacks = list(bench.runner.linker.callbacks)
    assert len(callbacks) == len(NAMES)
    for _ in range(3):
        bench.run(YIELDS)
    assert bench.runner.linker.callbacks == callbacks


def test_rule_2_a_guest_knows_nothing_of_the_one_before(bench: Bench) -> None:
    """Its logs, its exit, its inference handles and its refusal are its own."""
    first = pack(("load_by_name", ROOM, 0, SCRATCH), ("proc_exit", 9))
    assert bench.run(puppet(), first, models=(model(""),)).outcome is Outcome.GUEST_EXIT
    ending = bench.run(puppet(), pack(("init_execution_context", 0, SCRATCH)), models=(model(""),))
    assert (ending.outcome, ending.logs, ending.detail) == (Outcome.OK, b"", "")
    assert ending.receipt.host_calls == 1


# Rule 3: every number from a guest is hostile

EDGES = [
    0, 1, 2, 3, 4, 7, 8, 64, SCRATCH, ROOM, ROOM + 8, ROOM + 88, MEMORY_BYTES - 8, MEMORY_BYTES - 1, MEMORY_BYTES,
    MEMORY_BYTES + 1, 2**31 - 1, 2**31, 2**32 - 8, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1,
]  # fmt: skip
numbers = st.sampled_from(EDGES) | st.integers(0, 2**64 - 1) | st.integers(0, MEMORY_BYTES)
steps = st.builds(
    lambda name, arguments: (name, *arguments[: len(NAMES[name][1])]),
    st.sampled_from(sorted(NAMES)),
    st.lists(numbers, min_size=MAX_ARGUMENTS, max_size=MAX_ARGUMENTS),
)
# A call may write over the script itself, whose next step is then none.
ENDINGS = {Outcome.OK, Outcome.GUEST_TRAP, Outcome.GUEST_EXIT, Outcome.CAPABILITY_DENIED, Outcome.DEADLINE_EXCEEDED}


def survive(bench: Bench, body: bytes, *, trap: bool) -> None:
    grants: dict[str, Any] = {"models": (model("x"),), "environment": (("NAME", "value"),), "trap_on_violation": trap}
    ending = bench.run(puppet(), body, timeout_s=0.05, **grants)
    assert ending.outcome in ENDINGS, ending.detail
    assert ending.detail.isprintable()
    assert len(ending.logs) <= 4096
    assert ending.receipt.memory_peak_bytes == MEMORY_BYTES


@given(st.lists(steps, min_size=1, max_size=8), st.binary(max_size=200), st.booleans())
@settings(max_examples=600, deadline=None)
def test_rule_3_no_number_gets_past_a_host_function(bench: Bench, calls: list[Step], data: bytes, trap: bool) -> None:
    survive(bench, pack(*calls) + data, trap=trap)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_rule_3_every_function_survives_every_edge(bench: Bench, name: str) -> None:
    width = len(NAMES[name][1])
    for value in EDGES:
        survive(bench, pack((name, *[value] * width)), trap=False)
        for at in range(width):
            mixed = [SCRATCH] * width
            mixed[at] = value
            survive(bench, pack((name, *mixed)), trap=False)


@given(st.binary(min_size=4, max_size=300))
@settings(max_examples=200, deadline=None)
def test_rule_3_no_response_gets_past_its_reader(bench: Bench, numbers: bytes) -> None:
    """The guest returns whatever eight bytes the message holds as pointer and length."""
    wat = handler("(i64.load (local.get $ptr))")
    ending = bench.run(wat, numbers.ljust(8, b"\0"))
    assert ending.outcome in {Outcome.OK, Outcome.INVALID_GUEST_RESPONSE, Outcome.RESPONSE_TOO_LARGE}
    if ending.outcome is Outcome.OK:
        assert len(ending.response) == int.from_bytes(numbers.ljust(8, b"\0")[:4], "little")


SCATTER = 2654435761
SCATTERED = handler().replace("(i32.const 4096))", f"(i32.mul (local.get 0) (i32.const {SCATTER - 2**32})))")


@given(st.integers(0, 70_000))
@settings(max_examples=300, deadline=None)
def test_rule_3_no_room_gets_past_the_copy(bench: Bench, length: int) -> None:
    """The guest gives room anywhere in 32 bits, depending on how much it was asked for."""
    pointer = length * SCATTER % 2**32
    ending = bench.run(SCATTERED, bytes(length))
    if pointer + length > 65536:
        assert ending.outcome is Outcome.INVALID_GUEST_RESPONSE
    else:
        assert ending.outcome is Outcome.OK


@pytest.mark.parametrize(
    ("pointer", "outcome"),
    [
        (65536 - 10, Outcome.OK),
        (65536 - 9, Outcome.INVALID_GUEST_RESPONSE),
        (65536, Outcome.INVALID_GUEST_RESPONSE),
        (-1, Outcome.INVALID_GUEST_RESPONSE),
        (-10, Outcome.INVALID_GUEST_RESPONSE),
        (-(2**31), Outcome.INVALID_GUEST_RESPONSE),
    ],
)
def test_rule_3_room_at_the_edges(bench: Bench, pointer: int, outcome: Outcome) -> None:
    wat = handler().replace("(i32.const 4096))", f"(i32.const {pointer}))")
    assert bench.run(wat, b"ten bytes.").outcome is outcome


# Rule 9: nothing internal leaves


@pytest.mark.parametrize("body", ["unreachable", "(drop (i32.load (i32.const -1)))", "(call $down)"])
def test_rule_9_a_guests_detail_names_no_path_and_no_address_of_the_host(bench: Bench, body: str) -> None:
    wat = handler(body + ANSWER).removesuffix(")") + "(func $down (call $down)))"
    detail = bench.run(wat, fuel=2**62).detail
    assert str(ROOT) not in detail
    assert "/" not in detail
    assert hex(bench.runner.arena.base)[2:] not in detail

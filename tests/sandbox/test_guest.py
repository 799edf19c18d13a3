"""How guests end, and what their receipts say."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.guests import ANSWER, ROOT, Bench, handler
from wisp.sandbox.handler import MissingExport
from wisp.wire.exchange import decode_response, encode_request_head
from wisp.wire.outcome import Outcome

PAGE = 65536
HELLO = ROOT / "tenants/acme/hello/module.wasm"
BURN = ROOT / "tenants/acme/burn/module.wasm"
LOOP = "(loop $again (br $again))"


def test_an_ordinary_guest_answers(bench: Bench) -> None:
    head = encode_request_head(b"GET", b"/", b"name=ada", ((b"host", b"edge"),))
    ending = bench.run(HELLO, head=head, environment=(("GREETING", "good day"),))
    response = decode_response(memoryview(ending.response))
    assert (ending.outcome, response.status, bytes(response.body)) == (Outcome.OK, 200, b"good day, ada\n")
    receipt = ending.receipt
    assert 0 < receipt.fuel < 1_000_000
    assert receipt.memory_peak_bytes >= PAGE
    assert receipt.memory_peak_bytes % PAGE == 0
    assert receipt.host_calls > 0
    assert (receipt.inferences, receipt.nn_ns, receipt.tensor_bytes) == (0, 0, 0)
    assert ending.detail == ""


def test_a_guest_that_burns_reports_its_whole_fuel(bench: Bench) -> None:
    head = encode_request_head(b"GET", b"/", b"", ())
    ending = bench.run(BURN, head=head, fuel=3_000_000)
    assert (ending.outcome, ending.receipt.fuel) == (Outcome.FUEL_EXHAUSTED, 3_000_000)
    assert "3000000" in ending.detail


def test_the_message_reaches_the_guest_head_and_body(bench: Bench) -> None:
    # Answers with the message itself as body: the head of the response lies right before the room for requests.
    echo = f"""
      (memory.copy (i32.const 4084) (i32.const 16) (i32.const 12))
      (i64.or (i64.const {4084 << 32}) (i64.extend_i32_u (i32.add (local.get $len) (i32.const 12))))"""
    body = bytes(range(256)) * 40
    for sent in (body, memoryview(body), b""):
        ending = bench.run(handler(echo), sent, head=b"head,")
        assert decode_response(memoryview(ending.response)).body.tobytes() == b"head," + bytes(sent)


@pytest.mark.parametrize("length", [60 * 1024 - 1, 60 * 1024, 60 * 1024 + 1, 200_000])
def test_a_response_of_any_size_comes_back_whole(bench: Bench, length: int) -> None:
    fill = f"""(memory.fill (i32.const 28) (i32.const 120) (i32.const {length - 12}))
      (i64.const {16 << 32 | length})"""
    ending = bench.run(handler(fill, memory="5"))
    assert decode_response(memoryview(ending.response)).body.tobytes() == b"x" * (length - 12)


def test_a_response_may_not_take_the_room_of_the_logs(bench: Bench) -> None:
    """Were the answer segment smaller than a policy allows, a response must not pass its end."""
    length = len(bench.answer.view) - 4096 + 1
    grants: dict[str, Any] = {"response_bytes": 8 << 20, "memory_bytes": 64 << 20}
    for asked, outcome in ((length, Outcome.RESPONSE_TOO_LARGE), (length - 1, Outcome.OK)):
        ending = bench.run(handler(f"(i64.const {16 << 32 | asked})", memory="20"), **grants)
        assert ending.outcome is outcome


def test_a_trap_says_what_happened_in_one_printable_line(bench: Bench) -> None:
    ending = bench.run(handler("unreachable"))
    assert ending.outcome is Outcome.GUEST_TRAP
    assert "unreachable" in ending.detail
    assert ending.detail.isprintable()
    assert ending.response == b""


def test_a_function_name_cannot_forge_a_line_of_the_log(bench: Bench) -> None:
    name = r"\1b[2J\0aok\0d\u{202e}" + "x" * 5000
    wat = handler("(call $f) (i64.const 0)").removesuffix(")") + f'(func $f (@name "{name}") unreachable))'
    ending = bench.run(wat)
    assert ending.outcome is Outcome.GUEST_TRAP
    assert ending.detail.isprintable()
    assert len(ending.detail) < 4000


def test_the_deadline_ends_a_guest_that_has_all_the_fuel_there_is(bench: Bench) -> None:
    ending = bench.run(handler(LOOP + ANSWER), timeout_s=0.05, fuel=2**63 - 1)
    assert ending.outcome is Outcome.DEADLINE_EXCEEDED
    assert ending.receipt.guest_ns >= 50_000_000 - 10_000_000


def test_a_deadline_that_has_passed_ends_even_a_start_function(bench: Bench) -> None:
    wat = handler().removesuffix(")") + f"(func $s {LOOP}) (start $s))"
    ending = bench.run(wat, timeout_s=-1.0, fuel=2**63 - 1)
    assert ending.outcome is Outcome.DEADLINE_EXCEEDED


def test_more_fuel_than_the_engine_can_count_is_bounded_and_not_wrapped(bench: Bench) -> None:
    assert bench.run(handler(), fuel=2**64 + 5).outcome is Outcome.OK


def test_what_the_platform_decided_comes_before_what_the_engine_saw(bench: Bench) -> None:
    exits = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
    ending = bench.run(
        handler(f"(drop (memory.grow (i32.const 65535))) (call $exit (i32.const 3)) {ANSWER}", before=exits)
    )
    assert (ending.outcome, ending.detail) == (Outcome.GUEST_EXIT, "the guest exited with code 3")


def test_a_refused_grow_names_the_limit(bench: Bench) -> None:
    wat = handler("(if (i32.eq (memory.grow (i32.const 64)) (i32.const -1)) (then unreachable))" + ANSWER)
    ending = bench.run(wat, memory_bytes=10 * PAGE)
    assert ending.outcome is Outcome.MEMORY_EXCEEDED
    assert f"memory limit of {10 * PAGE} bytes" in ending.detail
    assert ending.receipt.memory_peak_bytes == PAGE
    assert bench.run(wat, memory_bytes=65 * PAGE).receipt.memory_peak_bytes == 65 * PAGE


def test_a_module_whose_memory_begins_above_its_limit_is_memory_exceeded(bench: Bench) -> None:
    ending = bench.run(handler(memory="11"), memory_bytes=10 * PAGE)
    assert (ending.outcome, ending.receipt.memory_peak_bytes) == (Outcome.MEMORY_EXCEEDED, 0)


def test_a_missing_export_is_the_platforms_fault_and_leaves_no_store(bench: Bench) -> None:
    for absent in ("memory", "wisp_alloc", "wisp_handle"):
        wat = handler().replace(f'(export "{absent}")', "")
        with pytest.raises(MissingExport, match=absent):
            bench.run(wat, probe=True)
    assert bench.run(handler()).outcome is Outcome.OK


def test_an_export_of_another_kind_is_a_missing_one(bench: Bench) -> None:
    wat = handler().replace('(export "wisp_handle")', "").removesuffix(")")
    wat += '(global (export "wisp_handle") i32 (i32.const 0)))'
    with pytest.raises(MissingExport, match="wisp_handle"):
        bench.run(wat)


def test_a_probe_initialises_and_handles_nothing(bench: Bench) -> None:
    wat = handler("unreachable").removesuffix(")")
    assert bench.run(wat + ")", probe=True).outcome is Outcome.OK
    trapping = wat + '(func (export "_initialize") unreachable))'
    assert bench.run(trapping, probe=True).outcome is Outcome.GUEST_TRAP


def test_logs_are_bounded_and_say_what_was_dropped(bench: Bench) -> None:
    imports = '(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
    write = f"""(i32.store (i32.const 64) (i32.const 8192)) (i32.store (i32.const 68) (i32.const 5000))
      (memory.fill (i32.const 8192) (i32.const 35) (i32.const 5000))
      (drop (call $write (i32.const 2) (i32.const 64) (i32.const 1) (i32.const 72))) {ANSWER}"""
    ending = bench.run(handler(write, before=imports), log_bytes=1000)
    assert len(ending.logs) <= 1000
    kept = ending.logs.count(b"#")
    assert ending.logs.endswith(b"\n[%d bytes over limits.logs were dropped]\n" % (5000 - kept))
    assert bench.run(handler(write, before=imports), log_bytes=5000).logs == b"#" * 5000
    assert bench.run(handler(write, before=imports), log_bytes=0).logs == b""

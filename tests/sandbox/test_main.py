"""The sandbox process, started as production starts it and spoken to in frames."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from sandbox.children import SandboxChild, fixed_segment, unsealed_segment
from sandbox.guests import ANSWER, ROOT, assembled, compiled, descriptors, handler, link
from wisp.sandbox.engine import configuration_fingerprint
from wisp.sandbox.handler import ENVELOPE_BYTES
from wisp.scheduling.loaded import MAX_MODULES
from wisp.wire.channel import MAX_FRAME_BYTES
from wisp.wire.exchange import decode_response, encode_request_head
from wisp.wire.invocations import (
    FAILED_HEAD,
    HANDLE,
    INLINE_BYTES,
    INVOKE_HEAD,
    LAID_BYTES,
    RESULT_HEAD,
    Kind,
    decode_result,
)
from wisp.wire.outcome import Outcome
from wisp.wire.segments import create_frozen

HELLO = ROOT / "tenants/acme/hello/module.wasm"
# Answers with the message itself as body.
ECHO = handler(
    f"""
    (memory.copy (i32.const 4084) (i32.const 16) (i32.const 12))
    (i64.or (i64.const {4084 << 32}) (i64.extend_i32_u (i32.add (local.get $len) (i32.const 12))))""",
    memory="8",
)
WRITE = '(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'


def failure(child: SandboxChild, number: int) -> str:
    payload = child.expect(Kind.FAILED).payload
    assert FAILED_HEAD.unpack_from(payload) == (number,)
    return payload[FAILED_HEAD.size :].decode()


def test_it_says_what_compiled_code_must_have_been_made_for(child: SandboxChild) -> None:
    assert child.ready["fingerprint"] == configuration_fingerprint()


def test_module_link_and_invoke_may_come_in_one_go(child: SandboxChild) -> None:
    head = encode_request_head(b"GET", b"/", b"name=ada", ())
    number = child.send(child.link(HELLO, environment=(("GREETING", "hello"),)), head=head)
    response = decode_response(memoryview(child.result(number).response))
    assert (response.status, bytes(response.body)) == (200, b"hello, ada\n")


def test_requests_are_answered_in_order(child: SandboxChild) -> None:
    function = child.link(ECHO)
    sent = [(child.send(function, body), body) for body in (b"one", b"", b"three" * 1000)]
    for number, body in sent:
        assert decode_response(memoryview(child.result(number).response)).body.tobytes() == body


@pytest.mark.parametrize("length", [0, 100, INLINE_BYTES - 12, INLINE_BYTES, 400_000])
def test_bodies_and_responses_of_any_size_pass(child: SandboxChild, length: int) -> None:
    """Small ones in the frame, large ones by a frozen segment there and by the answer segment back."""
    body = os.urandom(length)
    function = child.link(ECHO, response_bytes=500_000)
    number = child.send(function, body)
    payload = child.expect(Kind.RESULT).payload
    assert len(payload) < MAX_FRAME_BYTES
    in_segment = payload[struct.calcsize("<QB")]
    assert in_segment == (length + 12 > INLINE_BYTES)
    answered, ending = decode_result(payload, child.answer.view)
    assert answered == number
    assert decode_response(memoryview(ending.response)).body.tobytes() == body


@pytest.mark.parametrize("length", [0, 1, 40_000, 400_000])
def test_a_body_that_was_laid_into_its_segment(child: SandboxChild, length: int) -> None:
    body = os.urandom(length)
    function = child.link(ECHO, response_bytes=500_000)
    for sent in (body, body[: length // 2]):
        ending = child.result(child.send(function, sent, kind=Kind.LAID))
        assert decode_response(memoryview(ending.response)).body.tobytes() == sent


def test_a_body_that_would_leave_its_segment_ends_it(child: SandboxChild) -> None:
    function = child.link(ECHO)
    payload = INVOKE_HEAD.pack(1, function.handle, 0, LAID_BYTES + 1, 2**62)
    child.channel.send(Kind.LAID, payload)
    assert child.ended() == 1
    assert b"InvalidFrame" in child.stderr


def test_a_body_segment_is_given_back(child: SandboxChild) -> None:
    function = child.link(ECHO, response_bytes=500_000)

    def held_after(body: bytes) -> int:
        child.result(child.send(function, body))
        child.result(child.send(function, b"small"))  # it turns to this when it is done with that
        return descriptors(child.pid)

    before = held_after(b"x")
    assert [held_after(bytes(100_000)) for _ in range(5)] == [before] * 5


@pytest.mark.parametrize("make", [unsealed_segment, fixed_segment])
def test_a_body_that_could_still_change_is_refused(child: SandboxChild, make: Any) -> None:
    """Only the router sends bodies, so there is nothing to go on with."""
    function = child.link(ECHO)
    child.send(function, b"body", body_fd=make(b"body"))
    assert child.ended() == 1
    assert b"InvalidFrame" in child.stderr


@pytest.mark.parametrize("kind", [0, Kind.READY, Kind.RESULT, Kind.FAILED, 200])
def test_a_frame_that_it_does_not_know_ends_it(child: SandboxChild, kind: int) -> None:
    child.channel.send(kind, b"x")
    assert child.ended() == 1
    assert b"InvalidFrame" in child.stderr


def test_the_end_of_its_channel_is_its_end(child: SandboxChild) -> None:
    assert child.finish() == 0
    assert child.stderr == b""


def test_logs_are_bounded_whichever_way_they_travel(child: SandboxChild) -> None:
    def chatty(response_bytes: int) -> str:
        return handler(
            f"""(i32.store (i32.const 1024) (i32.const 8192)) (i32.store (i32.const 1028) (i32.const 50000))
            (memory.fill (i32.const 8192) (i32.const 35) (i32.const 50000))
            (drop (call $write (i32.const 2) (i32.const 1024) (i32.const 1) (i32.const 1032)))
            (i64.const {16 << 32 | response_bytes})""",
            before=WRITE,
            memory="8",
        )

    for response_bytes in (12, 50_000, 100_000):
        ending = child.run(chatty(response_bytes), log_bytes=20_000)
        assert len(ending.response) == response_bytes
        assert len(ending.logs) <= 20_000
        kept = ending.logs.count(b"#")
        assert ending.logs.endswith(b"\n[%d bytes over limits.logs were dropped]\n" % (50_000 - kept))


def test_a_response_and_logs_at_their_limits_fit_the_answer_segment(tmp_path: Path) -> None:
    """The segment is made for exactly that much (`node`); the note of what was dropped must not outgrow it."""
    limit, logs = 100_000, 1_000
    child = SandboxChild(tmp_path, answer_bytes=limit + logs + ENVELOPE_BYTES)
    try:
        full = handler(
            f"""(i32.store (i32.const 1024) (i32.const 8192)) (i32.store (i32.const 1028) (i32.const 50000))
            (drop (call $write (i32.const 2) (i32.const 1024) (i32.const 1) (i32.const 1032)))
            (i64.const {16 << 32 | limit + ENVELOPE_BYTES})""",
            before=WRITE,
            memory="8",
        )
        for _ in range(2):
            ending = child.run(full, response_bytes=limit, log_bytes=logs)
            assert (ending.outcome, len(ending.response)) == (Outcome.OK, limit + ENVELOPE_BYTES)
            assert logs - 64 < len(ending.logs) <= logs
    finally:
        assert child.finish() == 0, child.stderr


def test_a_broken_module_fails_its_requests_and_not_the_process(child: SandboxChild) -> None:
    good = child.link(ECHO)
    broken = [b"", b"\x7fELF" + bytes(200), compiled(assembled(ECHO))[:-100], os.urandom(5000)]
    for number, code in enumerate(broken[1:], start=50):
        child.load(code, f"broken{number}")
        child.channel.send(Kind.LINK, link(module=f"broken{number}", handle=number).encode())
        answered = child.send(link(handle=number))
        assert failure(child, answered)
    assert child.result(child.send(good, b"still here")).outcome is Outcome.OK


def test_a_module_that_does_not_link_fails_its_requests_and_says_why(child: SandboxChild) -> None:
    unknown = handler(before='(import "env" "nothing\\0a" (func))')
    child.link(unknown)
    number = child.send(child.link(unknown))
    reason = failure(child, number)
    assert "env" in reason
    assert reason.isprintable()
    assert child.run(ECHO, b"x").outcome is Outcome.OK


def test_a_module_without_its_entry_points_fails_its_requests(child: SandboxChild) -> None:
    incomplete = handler().replace('(export "wisp_alloc")', "")
    for body in (b"small", bytes(100_000)):
        number = child.send(child.link(incomplete), body)
        assert "wisp_alloc" in failure(child, number)
    assert child.run(ECHO, b"x").outcome is Outcome.OK


def test_what_was_not_linked_fails(child: SandboxChild) -> None:
    assert "not linked" in failure(child, child.send(link(handle=99)))
    assert "not linked" in failure(child, child.send(link(handle=99), bytes(100_000)))
    child.channel.send(Kind.LINK, link(handle=98, module="sha256:never").encode())
    assert "not loaded" in failure(child, child.send(link(handle=98)))


def test_what_was_unlinked_or_unloaded_is_gone_and_can_come_back(child: SandboxChild) -> None:
    function = child.link(ECHO)
    assert child.result(child.send(function, b"x")).outcome is Outcome.OK
    before = descriptors(child.pid)
    child.channel.send(Kind.UNLINK, HANDLE.pack(function.handle))
    assert "not linked" in failure(child, child.send(function))
    child.channel.send(Kind.LINK, function.encode())
    child.channel.send(Kind.UNLOAD, function.module.encode())
    assert "not loaded" in failure(child, child.send(function))
    assert descriptors(child.pid) == before - 1
    child.load(compiled(assembled(ECHO)), function.module)
    assert child.result(child.send(function, b"x")).outcome is Outcome.OK
    assert descriptors(child.pid) == before


def test_a_module_sent_again_replaces_the_former(child: SandboxChild) -> None:
    function = child.link(ECHO)
    child.result(child.send(function, b"x"))
    before = descriptors(child.pid)
    for _ in range(3):
        child.load(compiled(assembled(handler())), function.module)
    assert child.result(child.send(function, b"x")).response == child.run(handler()).response
    assert descriptors(child.pid) == before + 1  # the one of `handler()` under its own name


def test_a_module_that_could_still_change_is_not_mapped(child: SandboxChild) -> None:
    fd = fixed_segment(compiled(assembled(ECHO)))
    child.channel.send(Kind.MODULE, b"unsafe", (fd,))
    os.close(fd)
    child.channel.send(Kind.LINK, link(handle=77, module="unsafe").encode())
    assert "seals" in failure(child, child.send(link(handle=77)))


def test_as_many_modules_as_the_router_may_send_can_be_linked(child: SandboxChild) -> None:
    """Each keeps a descriptor; `scheduling.slots.MAX_MODULES` of them must fit."""
    code = compiled(assembled(handler()))
    for number in range(MAX_MODULES):
        child.load(code, f"m{number}")
    child.channel.send(Kind.LINK, link(handle=9, module=f"m{MAX_MODULES - 1}").encode())
    function = link(handle=9, response_bytes=500_000)
    assert child.result(child.send(function, bytes(100_000))).outcome is Outcome.INVALID_GUEST_RESPONSE
    assert child.result(child.send(function, b"x")).outcome is Outcome.OK


def test_a_probe_is_answered_as_an_invocation_is(child: SandboxChild) -> None:
    def probe(guest: str, **options: Any) -> Outcome:
        return child.result(child.send(child.link(guest), kind=Kind.PROBE, **options)).outcome

    assert probe(handler("unreachable")) is Outcome.OK
    loop = handler().removesuffix(")") + '(func (export "_initialize") (loop $again (br $again))))'
    assert probe(loop, timeout_s=0.05) is Outcome.DEADLINE_EXCEEDED
    number = child.send(child.link(handler().replace('(export "memory")', "")), kind=Kind.PROBE)
    assert "memory" in failure(child, number)


def test_a_result_is_as_long_as_its_parts(child: SandboxChild) -> None:
    number = child.send(child.link(handler("unreachable")))
    payload = child.expect(Kind.RESULT).payload
    _, ending = decode_result(payload, child.answer.view)
    assert len(payload) == RESULT_HEAD.size + len(ending.detail.encode())
    assert number == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="past its walls only root may look into a child")
def test_a_running_sandbox_has_nothing_to_tell_and_nobody_to_ask(child: SandboxChild) -> None:
    """No environment, no working directory's file, no network socket, no Python module of the router's."""
    child.run(ECHO, b"x")
    root = Path(f"/proc/{child.pid}")
    assert (root / "environ").read_bytes().strip(b"\0") in (b"", b"LC_CTYPE=C.UTF-8")
    assert os.listdir(root / "cwd") == []
    targets = [os.readlink(entry) for entry in (root / "fd").iterdir()]
    assert sum(target.startswith("socket:") for target in targets) == 1
    maps = (root / "maps").read_text()
    assert "_libwasmtime.so" in maps
    for foreign in ("pydantic", "onnxruntime", "hiredis", "uvloop", "_yaml"):
        assert foreign not in maps


def test_a_body_frozen_by_the_router_is_read_in_place(child: SandboxChild) -> None:
    function = child.link(ECHO, response_bytes=500_000)
    body = bytes(range(256)) * 300
    number = child.send(function, body, body_fd=create_frozen("body", [body[:1000], body[1000:]]))
    assert decode_response(memoryview(child.result(number).response)).body.tobytes() == body


def test_an_answer_that_says_nothing_is_an_answer(child: SandboxChild) -> None:
    ending = child.run(handler(ANSWER))
    assert (ending.outcome, ending.logs, ending.detail) == (Outcome.OK, b"", "")

"""Programs on a whole node: from an upload with files to an answer, and what the tenant's log says of refusals."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
import wasmtime

from platforms import REPOSITORY, Tenancy
from test_dispatch import until
from wat import answering, escaped, handler
from wisp.errors import ExceedsCeiling, InvalidModule, InvalidRequest
from wisp.names import parse_function
from wisp.node import Node
from wisp.tenantlog import LogLine, Stream
from wisp.wire.outcome import Outcome

PROBE = (REPOSITORY / "tests/guests/probe/module.wasm").read_bytes()
CGI = (REPOSITORY / "tests/guests/cgi/module.wasm").read_bytes()
COMMAND = b"wisp: 1\nabi: command\n"
FILES = {"labels.txt": b"cat\ndog\n", "words/en/a.txt": b"a", "secret.key": b"k"}
MOUNTED = COMMAND + (
    b'files:\n  - {mount: /data, from: bundle, allow: ["*.txt", "words/**"]}\n'
    b"  - {mount: /log, from: log}\n  - {mount: /tmp, from: scratch, quota: 1Mi}\n"
)


def lines(node: Node, tenant: Tenancy, function: str, stream: Stream) -> list[LogLine]:
    return [line for line in node.tenantlog.lines(tenant.name, parse_function(function)) if line.stream is stream]


async def test_a_program_sees_its_request_and_who_it_is(acme: Tenancy) -> None:
    await acme.deploy("env", PROBE, COMMAND + b"environment: {LEVEL: info}\n")
    reply = await acme.call("env", b"body", path=b"/env", query=b"a=b", headers=((b"content-type", b"text/x"),))
    told = dict(line.split("=", 1) for line in reply.body.decode().splitlines())
    assert told.pop("WISP_REQUEST_ID")
    assert told == {
        "CONTENT_LENGTH": "4", "CONTENT_TYPE": "text/x", "GATEWAY_INTERFACE": "CGI/1.1", "LEVEL": "info",
        "PATH_INFO": "/env", "QUERY_STRING": "a=b", "REQUEST_METHOD": "POST", "SCRIPT_NAME": "/t/acme/env",
        "SERVER_PROTOCOL": "HTTP/1.1", "WISP_FUNCTION": "env", "WISP_TENANT": "acme",
    }  # fmt: skip


@pytest.mark.parametrize("size", [0, 30_000, 32_769, 3_000_000])
async def test_bodies_of_every_size_come_through_whole(acme: Tenancy, size: int) -> None:
    await acme.deploy("echo", PROBE, COMMAND + b"limits: {request_body: 4Mi, response_body: 4Mi}\n")
    sent = os.urandom(size)
    reply = await acme.call("echo", sent, path=b"/echo")
    assert (reply.status, reply.body == sent) == (200, True)
    assert acme.node.budget.used_bytes == 0


async def test_the_bundle_is_where_the_policy_mounts_it(node: Node, acme: Tenancy) -> None:
    deployed = await acme.deploy("fn", PROBE, MOUNTED, bundle=FILES)
    assert deployed.warnings == ()
    for path, body in (
        (b"/read/data/labels.txt", b"cat\ndog\n"),
        (b"/read/data/words/en/a.txt", b"a"),
        (b"/list/data", b"labels.txt\nwords\n"),
        (b"/list/", b"data\nlog\ntmp\n"),
    ):
        reply = await acme.call("fn", path=path)
        assert (reply.status, reply.body) == (200, body)
    assert (await acme.call("fn", path=b"/read/data/none.txt")).status == 404
    reply = await acme.call("fn", path=b"/read/data/secret.key")
    assert (reply.outcome, reply.body) == (Outcome.CAPABILITY_DENIED, b"")
    assert 'mount: /data, from: bundle, allow: ["secret.key"]' in lines(node, acme, "fn", Stream.PLATFORM)[-1].text


async def test_the_line_that_a_refusal_names_is_the_one_that_allows_it(node: Node, acme: Tenancy) -> None:
    bundle = {"names.csv": b"ada\n"}
    await acme.deploy("fn", PROBE, COMMAND, bundle=bundle)
    assert (await acme.call("fn", path=b"/read/etc/names.csv")).outcome is Outcome.CAPABILITY_DENIED
    said = lines(node, acme, "fn", Stream.PLATFORM)[-1].text
    line = said.partition("the policy line that would allow it: ")[2]
    await node.deployer.change_policy(
        tenant=acme.name, function=parse_function("fn"), policy=COMMAND + line.encode(), author="test"
    )
    assert (await acme.call("fn", path=b"/read/etc/names.csv")).body == b"ada\n"


async def test_with_errno_the_program_goes_on_and_the_refusal_is_told(node: Node, acme: Tenancy) -> None:
    await acme.deploy("fn", PROBE, COMMAND + b"on_violation: errno\n")
    reply = await acme.call("fn", path=b"/read/etc/passwd")
    assert (reply.outcome, reply.status) == (Outcome.OK, 500)
    assert "mount: /etc" in lines(node, acme, "fn", Stream.PLATFORM)[-1].text


async def test_log_mounts_and_standard_error_are_streams_of_the_tenants_log(node: Node, acme: Tenancy) -> None:
    await acme.deploy("fn", CGI, MOUNTED)
    assert (await acme.call("fn", path=b"/log", query=b"first")).status == 204
    assert (await acme.call("fn", path=b"/exit")).outcome is Outcome.GUEST_EXIT
    assert [line.text for line in lines(node, acme, "fn", Stream.LOG)] == ["first"]
    assert [line.text for line in lines(node, acme, "fn", Stream.STDERR)] == ["leaving"]


async def test_an_entrypoint_is_called_instead_of_start(acme: Tenancy) -> None:
    await acme.deploy("fn", CGI, MOUNTED + b"entrypoint: run\n", bundle=FILES)
    assert (await acme.call("fn", path=b"/count/labels.txt")).body == b"2 lines, 8 bytes\n"
    reply = await acme.call("fn", path=b"/away")
    assert (reply.status, reply.headers) == (303, ((b"location", b"/elsewhere"),))
    with pytest.raises(InvalidModule, match="serve"):
        await acme.deploy("other", CGI, COMMAND + b"entrypoint: serve\n")


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        (b"/exit/3", Outcome.GUEST_EXIT),
        (b"/panic", Outcome.GUEST_TRAP),
        (b"/headless", Outcome.INVALID_GUEST_RESPONSE),
        (b"/silent", Outcome.INVALID_GUEST_RESPONSE),
        (b"/stdout/5000000", Outcome.RESPONSE_TOO_LARGE),
        (b"/sleep/60000", Outcome.DEADLINE_EXCEEDED),
    ],
)
async def test_every_bad_ending_has_its_name(acme: Tenancy, path: bytes, outcome: Outcome) -> None:
    await acme.deploy("fn", PROBE, COMMAND + b"limits: {timeout: 500ms, response_body: 1Mi}\n")
    assert (await acme.call("fn", path=path)).outcome is outcome
    assert (await acme.call("fn", b"after", path=b"/echo")).body == b"after"


async def test_requests_share_no_scratch(acme: Tenancy) -> None:
    await acme.deploy("fn", PROBE, MOUNTED)
    assert (await acme.call("fn", b"mine", path=b"/write/tmp/f")).body == b"mine"
    replies = await asyncio.gather(*(acme.call("fn", path=b"/read/tmp/f") for _ in range(8)))
    assert {reply.status for reply in replies} == {404}


async def test_equal_bundles_of_two_tenants_are_each_their_own(acme: Tenancy, globex: Tenancy) -> None:
    for tenant, content in ((acme, b"acme's"), (globex, b"globex's")):
        await tenant.deploy("fn", PROBE, MOUNTED, bundle={"labels.txt": content})
    answers = await asyncio.gather(*(t.call("fn", path=b"/read/data/labels.txt") for t in (acme, globex) * 6))
    assert {answer.body for answer in answers[::2]} == {b"acme's"}
    assert {answer.body for answer in answers[1::2]} == {b"globex's"}


async def test_a_new_version_brings_its_own_files_and_the_old_ones_are_let_go(node: Node, acme: Tenancy) -> None:
    for turn in range(12):
        content = b"%d" % turn
        await acme.deploy("fn", PROBE, MOUNTED, bundle={"labels.txt": content})
        replies = await asyncio.gather(*(acme.call("fn", path=b"/read/data/labels.txt") for _ in range(4)))
        assert {reply.body for reply in replies} == {content}
    for slot in node.sandboxes.slots:
        with open(f"/proc/{slot.pid}/maps") as maps:
            assert sum("memfd:bundle" in line for line in maps) <= 2


async def test_a_new_sandbox_gets_the_files_again(node: Node, acme: Tenancy) -> None:
    await acme.deploy("fn", PROBE, MOUNTED, bundle=FILES)
    await acme.call("fn", path=b"/list/data")
    former = [slot.pid for slot in node.sandboxes.slots]
    for pid in former:
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    await until(lambda: all(slot.ready and slot.pid not in former for slot in node.sandboxes.slots))
    replies = await asyncio.gather(*(acme.call("fn", path=b"/list/data") for _ in range(6)))
    assert {reply.body for reply in replies} == {b"labels.txt\nwords\n"}


async def test_a_link_that_outgrows_a_frame_travels_by_segment(acme: Tenancy) -> None:
    """A policy of 64 KiB may say more than that in JSON: what is not ASCII takes six characters there."""
    value = "é" * 8000
    policy = COMMAND + "".join(["environment:\n"] + [f"  V{number}: {value}\n" for number in range(3)]).encode()
    await acme.deploy("fn", PROBE, policy + MOUNTED.partition(COMMAND)[2], bundle=FILES)
    reply = await acme.call("fn", path=b"/read/data/labels.txt")
    assert reply.body == FILES["labels.txt"]
    assert f"V2={value}\n".encode() in (await acme.call("fn", path=b"/env")).body


READING_HANDLER = """
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))"""


async def test_a_handler_has_mounts_too(acme: Tenancy) -> None:
    """It reads the file right behind the head of its answer."""
    name = b"data/labels.txt"
    head = b"\1\0\0\0\xc8\0\0\0\0\0\0\0"
    module = handler(
        f"""(if (call $open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const {len(name)}) (i32.const 0)
              (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 200)) (then unreachable))
            (if (call $read (i32.load (i32.const 200)) (i32.const 208) (i32.const 1) (i32.const 216))
              (then unreachable))
            (i64.or (i64.const {2048 << 32}) (i64.extend_i32_u
              (i32.add (i32.const {len(head)}) (i32.load (i32.const 216)))))""",
        before=READING_HANDLER,
        data=f"""(data (i32.const 100) "{escaped(name)}") (data (i32.const 2048) "{escaped(head)}")
                 (data (i32.const 208) "\\0c\\08\\00\\00\\40\\00\\00\\00")""",
    )
    policy = b'wisp: 1\nabi: handler\nfiles: [{mount: /data, from: bundle, allow: ["*.txt"]}]\n'
    await acme.deploy("fn", module, policy, bundle=FILES)
    assert (await acme.call("fn")).body == FILES["labels.txt"]


class TestUploads:
    async def test_a_bundle_that_contradicts_itself_is_refused(self, acme: Tenancy) -> None:
        with pytest.raises(InvalidRequest, match="files below it"):
            await acme.deploy("fn", PROBE, MOUNTED, bundle={"a": b"", "a/b": b""})

    async def test_a_mount_that_shows_nothing_is_a_warning(self, acme: Tenancy) -> None:
        deployed = await acme.deploy("fn", PROBE, MOUNTED, bundle={"x.bin": b""})
        assert deployed.warnings == ("files[0]: no file of the bundle matches what /data allows",)
        assert (await acme.call("fn", path=b"/list/data")).body == b""

    async def test_directories_of_the_host_are_the_ceilings_to_name(self, acme: Tenancy) -> None:
        with pytest.raises(ExceedsCeiling) as refused:
            await acme.deploy("fn", PROBE, COMMAND + b"files: [{mount: /srv, from: host, path: /srv}]\n")
        assert refused.value.faults[0].line == 3

    async def test_a_trial_does_not_run_the_program(self, node: Node, acme: Tenancy) -> None:
        module = wasmtime.wat2wasm('(module (memory (export "memory") 1) (func (export "_start") unreachable))')
        deployed = await acme.deploy("fn", bytes(module), COMMAND)
        assert deployed.warnings == ()
        assert (await acme.call("fn")).outcome is Outcome.GUEST_TRAP

    async def test_an_initialiser_of_another_signature_is_refused(self, acme: Tenancy) -> None:
        module = wasmtime.wat2wasm(
            '(module (memory (export "memory") 1) (func (export "_initialize") (param i64)) (func (export "run")))'
        )
        with pytest.raises(InvalidModule, match="_initialize"):
            await acme.deploy("fn", bytes(module), COMMAND + b"entrypoint: run\n")

    async def test_a_handler_is_no_program(self, acme: Tenancy) -> None:
        with pytest.raises(InvalidModule, match="_start"):
            await acme.deploy("fn", answering(b"hi"), COMMAND)

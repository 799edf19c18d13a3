"""The request path below HTTP: who may call, what a guest sees, how it ends, and what a dead child costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from platforms import HANDLER_POLICY, TENANTS, TINY_MODELS, Tenancy
from wat import LOOP, answering, handler
from wisp.errors import Forbidden, FunctionNotFound, RequestTooLarge, Suspended, Unauthorized
from wisp.names import parse_function, parse_tenant
from wisp.node import Node
from wisp.registry.records import Role
from wisp.wire.invocations import LAID_BYTES
from wisp.wire.outcome import Outcome

SLOW_POLICY = b"wisp: 1\nabi: handler\nlimits: {fuel: 8G, timeout: 2s}\n"


async def until(condition: object, *, seconds: float = 10.0) -> None:
    """Waits for `condition()` to hold."""
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


class TestResolve:
    async def test_the_order_is_key_then_function(self, node: Node, acme: Tenancy, globex: Tenancy) -> None:
        await acme.deploy("hello", answering(b"hi"))
        hello, nothing = parse_function("hello"), parse_function("nothing")
        resolve = node.dispatcher.resolve
        assert (await resolve(acme.name, hello, acme.secret)).version == 1
        for secret in (None, "", "nonsense", "wisp_acme_0123456789abcdef_" + "x" * 43, acme.secret[:-1] + "!"):
            for function in (hello, nothing):
                with pytest.raises(Unauthorized):
                    await resolve(acme.name, function, secret)
        for function in (hello, nothing):
            with pytest.raises(Forbidden):
                await resolve(acme.name, function, globex.secret)
            with pytest.raises(Forbidden):
                await resolve(acme.name, function, node.settings.operator_key)
        with pytest.raises(FunctionNotFound):
            await resolve(acme.name, nothing, acme.secret)
        with pytest.raises(Unauthorized):
            await resolve(parse_tenant("nobody"), hello, None)

    async def test_a_public_function_needs_no_key_but_refuses_a_strangers(
        self, node: Node, acme: Tenancy, globex: Tenancy
    ) -> None:
        await acme.deploy("open", answering(b"hi"), HANDLER_POLICY + b"access: public\n")
        name = parse_function("open")
        assert (await node.dispatcher.resolve(acme.name, name, None)).version == 1
        assert (await node.dispatcher.resolve(acme.name, name, "unknown")).version == 1
        with pytest.raises(Forbidden):
            await node.dispatcher.resolve(acme.name, name, globex.secret)

    async def test_an_invoke_key_reaches_only_its_functions(self, node: Node, acme: Tenancy) -> None:
        await acme.deploy("one", answering(b"1"))
        await acme.deploy("two", answering(b"2"))
        one, two = parse_function("one"), parse_function("two")
        _, secret = await node.registry.keys.issue(acme.name, Role.INVOKE, (one,))
        assert (await node.dispatcher.resolve(acme.name, one, secret)).function == one
        with pytest.raises(Forbidden):
            await node.dispatcher.resolve(acme.name, two, secret)

    async def test_the_next_request_sees_a_suspension(self, node: Node, acme: Tenancy) -> None:
        await acme.deploy("hello", answering(b"hi"))
        assert (await acme.call("hello")).outcome is Outcome.OK
        await node.registry.functions.suspend(acme.name, parse_function("hello"))
        node.snapshot.invalidate(acme.name)
        with pytest.raises(Suspended):
            await acme.call("hello")


class TestEndings:
    @pytest.mark.parametrize(
        ("module", "outcome"),
        [
            (handler("(unreachable)"), Outcome.GUEST_TRAP),
            (handler(LOOP), Outcome.FUEL_EXHAUSTED),
            (handler("(drop (memory.grow (i32.const 60000))) (unreachable)"), Outcome.MEMORY_EXCEEDED),
            (handler("(i64.const 5)"), Outcome.INVALID_GUEST_RESPONSE),
            (handler("(i64.const -1)"), Outcome.RESPONSE_TOO_LARGE),
            (answering(b"x" * 10, status=99), Outcome.INVALID_GUEST_RESPONSE),
        ],
    )
    async def test_each_has_its_name_and_the_next_request_is_served(
        self, acme: Tenancy, module: bytes, outcome: Outcome
    ) -> None:
        await acme.deploy("bad", module, HANDLER_POLICY + b"limits: {fuel: 10M}\n")
        await acme.deploy("good", answering(b"fine"))
        assert (await acme.call("bad")).outcome is outcome
        assert (await acme.call("good")).body == b"fine"

    async def test_the_deadline_ends_a_guest_that_has_fuel_left(self, acme: Tenancy) -> None:
        await acme.deploy("slow", handler(LOOP), b"wisp: 1\nabi: handler\nlimits: {fuel: 8G, timeout: 50ms}\n")
        reply = await acme.call("slow")
        assert reply.outcome is Outcome.DEADLINE_EXCEEDED
        assert 0 < reply.receipt.fuel < 8_000_000_000
        assert reply.receipt.cpu_ns > 10_000_000

    async def test_a_refused_capability_is_named_in_the_tenants_log_only(self, node: Node, acme: Tenancy) -> None:
        await acme.push_model("digits", TENANTS / "acme" / "digits" / "digits.onnx")
        nn = """(import "wasi_ephemeral_nn" "load_by_name" (func $load (param i32 i32 i32) (result i32)))"""
        data = '(data (i32.const 100) "secret-model")'
        module = handler(
            "(drop (call $load (i32.const 100) (i32.const 12) (i32.const 200))) (i64.const 0)", before=nn, data=data
        )
        policy = HANDLER_POLICY + b"models: [{name: digits, model: digits}]\n"
        await acme.deploy("spy", module, policy)
        assert (await acme.call("spy")).outcome is Outcome.CAPABILITY_DENIED
        line = node.tenantlog.lines(acme.name, parse_function("spy"))[-1]
        assert "secret-model" in line.text
        assert "models:" in line.text


class TestContent:
    async def test_the_rust_guest_sees_query_and_environment(self, acme: Tenancy, globex: Tenancy) -> None:
        await acme.deploy_folder("hello")
        await globex.deploy_folder("hello")
        ours = await acme.call("hello", query=b"name=J%C3%BCrgen")
        theirs = await globex.call("hello", query=b"name=J%C3%BCrgen")
        assert "Jürgen".encode() in ours.body
        assert ours.body != theirs.body

    async def test_a_header_that_is_not_utf8_does_not_trap_the_guest(self, acme: Tenancy) -> None:
        await acme.deploy_folder("hello")
        reply = await acme.call("hello", headers=((b"x-name", b"J\xfcrgen"),))
        assert reply.outcome is Outcome.OK

    @pytest.mark.parametrize("size", [0, 1, 30_000, 32_768, 32_769, 100_000, LAID_BYTES, LAID_BYTES + 1, 3_000_000])
    async def test_bodies_of_every_size_come_through_whole(self, acme: Tenancy, size: int) -> None:
        """The guest answers with the request message itself, made into a response by its first twelve bytes."""
        echo = handler(
            """(i32.store (local.get $pointer) (i32.const 1))
               (i32.store offset=4 (local.get $pointer) (i32.const 200))
               (i32.store offset=8 (local.get $pointer) (i32.const 0))
               (i64.or (i64.shl (i64.extend_i32_u (local.get $pointer)) (i64.const 32))
                       (i64.extend_i32_u (local.get $length)))""",
            memory='(memory (export "memory") 64)',
        )
        await acme.deploy("echo", echo, HANDLER_POLICY + b"limits: {request_body: 4Mi, response_body: 4Mi}\n")
        sent = os.urandom(size)
        reply = await acme.call("echo", sent)
        assert reply.outcome is Outcome.OK
        assert reply.body.endswith(sent)
        assert acme.node.budget.used_bytes == 0

    async def test_a_body_over_the_functions_limit_is_refused(self, node: Node, acme: Tenancy) -> None:
        await acme.deploy("small", answering(b"x"), HANDLER_POLICY + b"limits: {request_body: 1Ki}\n")
        with pytest.raises(RequestTooLarge):
            await acme.call("small", bytes(1025))
        assert node.budget.used_bytes == 0

    async def test_no_request_sees_what_an_earlier_one_left_in_memory(self, acme: Tenancy) -> None:
        """The guest counts in its memory; each request must find the count at zero."""
        counting = answering(
            b"fresh",
            work="""
            (if (i32.load (i32.const 131072)) (then (unreachable)))
            (i32.store (i32.const 131072) (i32.const 1))""",
        )
        await acme.deploy("count", counting)
        replies = await asyncio.gather(*(acme.call("count") for _ in range(20)))
        assert {reply.body for reply in replies} == {b"fresh"}

    async def test_digits_reads_a_real_digit(self, acme: Tenancy) -> None:
        folder = TENANTS / "acme" / "digits"
        await acme.push_model("digits", folder / "digits.onnx")
        await acme.deploy_folder("digits")
        reply = await acme.call("digits", (folder / "samples" / "7-a.png").read_bytes())
        assert b'"label": 7' in reply.body
        assert reply.receipt.inferences == 1
        assert reply.receipt.nn_ns > 0


class TestLostChildren:
    async def test_a_killed_sandbox_costs_only_its_request(self, node: Node, acme: Tenancy) -> None:
        await acme.deploy("slow", handler(LOOP), SLOW_POLICY)
        await acme.deploy("hello", answering(b"hi"))
        running = asyncio.create_task(acme.call("slow"))
        await until(lambda: any(slot.busy for slot in node.sandboxes.slots))
        (busy,) = [slot for slot in node.sandboxes.slots if slot.busy]
        assert busy.pid is not None
        os.kill(busy.pid, signal.SIGKILL)
        lost = await running
        assert lost.outcome is Outcome.CHILD_LOST
        assert (await acme.call("hello")).body == b"hi"
        await until(lambda: all(slot.ready for slot in node.sandboxes.slots))
        replies = await asyncio.gather(*(acme.call("hello") for _ in range(20)))
        assert {reply.body for reply in replies} == {b"hi"}

    async def test_a_sandbox_that_stops_answering_is_killed_at_its_deadline(self, node: Node, acme: Tenancy) -> None:
        """SIGSTOP is the hang that nothing inside the process can notice."""
        await acme.deploy("slow", handler(LOOP), b"wisp: 1\nabi: handler\nlimits: {fuel: 8G, timeout: 300ms}\n")
        running = asyncio.create_task(acme.call("slow"))
        await until(lambda: any(slot.busy for slot in node.sandboxes.slots))
        (busy,) = [slot for slot in node.sandboxes.slots if slot.busy]
        assert busy.pid is not None
        os.kill(busy.pid, signal.SIGSTOP)
        assert (await running).outcome is Outcome.DEADLINE_EXCEEDED
        assert node.sandboxes.kills == 1
        await until(lambda: all(slot.ready for slot in node.sandboxes.slots))

    async def test_a_killed_inference_host_is_replaced_and_its_models_come_back(
        self, node: Node, acme: Tenancy
    ) -> None:
        folder = TENANTS / "acme" / "digits"
        await acme.push_model("digits", folder / "digits.onnx")
        await acme.deploy_folder("digits")
        png = (folder / "samples" / "3-a.png").read_bytes()
        assert b'"label": 3' in (await acme.call("digits", png)).body
        host = node.own_hosts.get(acme.name)
        assert host is not None
        former = host.pid
        assert former is not None
        os.kill(former, signal.SIGKILL)
        await until(lambda: host.ready and host.pid != former, seconds=30)
        assert b'"label": 3' in (await acme.call("digits", png)).body
        assert (host.restarts, node.host.restarts) == (1, 0)

    async def test_an_endless_model_ends_at_the_deadline_and_harms_nobody(self, node: Node, acme: Tenancy) -> None:
        await acme.push_model("endless", TINY_MODELS / "endless.onnx")
        await acme.push_model("digits", TENANTS / "acme" / "digits" / "digits.onnx")
        await acme.deploy_folder("digits")
        infer = (TENANTS.parent / "tests" / "guests" / "infer" / "module.wasm").read_bytes()
        policy = (
            b"wisp: 1\nabi: handler\nlimits: {timeout: 400ms}\n"
            b"models: [{name: endless, model: endless, max_time: 10s}]\n"
        )
        await acme.deploy("endless", infer, policy)
        png = (TENANTS / "acme" / "digits" / "samples" / "3-a.png").read_bytes()
        endless, digit = await asyncio.gather(
            acme.call("endless", bytes(4), query=b"graph=endless&type=f32&dims=1"), acme.call("digits", png)
        )
        assert b'"label": 3' in digit.body
        assert endless.outcome is Outcome.INFERENCE_TIMEOUT
        assert b'"label": 3' in (await acme.call("digits", png)).body

    async def test_a_caller_that_leaves_gives_its_sandbox_back(self, node: Node, acme: Tenancy) -> None:
        await acme.deploy("slow", handler(LOOP), SLOW_POLICY)
        await acme.deploy("hello", answering(b"hi"))
        tasks = [asyncio.create_task(acme.call("slow")) for _ in range(6)]
        await until(lambda: node.sandboxes.queued == 4)  # of four sandboxes two are left to others
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert node.sandboxes.queued == 0
        await until(lambda: any(slot.ready and not slot.busy for slot in node.sandboxes.slots))
        assert (await acme.call("hello")).body == b"hi"
        await until(lambda: all(slot.ready and not slot.busy for slot in node.sandboxes.slots))


async def test_nothing_is_left_when_a_node_has_stopped(tmp_path: Path) -> None:
    from platforms import OPERATOR_KEY
    from wisp.settings import Settings

    before = set(os.listdir("/proc/self/fd"))
    settings = Settings.load({"data_dir": str(tmp_path), "workers": "2"}, environ={"WISP_OPERATOR_KEY": OPERATOR_KEY})
    async with Node(settings) as node:
        pids = [slot.pid for slot in node.sandboxes.slots] + [node.host.pid]
        acme = await Tenancy.create(node, "acme", "standard")
        await acme.deploy_folder("hello")
        assert (await acme.call("hello")).outcome is Outcome.OK
        for name in ("a", "b"):
            await acme.deploy(name, handler(LOOP))
            await acme.call(name)
    for pid in pids:
        assert pid is not None
        assert not Path(f"/proc/{pid}").exists()
    assert set(os.listdir("/proc/self/fd")) <= before

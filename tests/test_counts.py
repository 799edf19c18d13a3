"""What a warm request takes, counted: calls into the engine, frames between processes, Redis commands, bytes in frames.

Times differ between machines; these numbers do not. One that grows is a decision to be made, not an accident.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest
from starlette.types import Message

import wisp
from bench.population import echo_module
from platforms import TENANTS, Tenancy
from sandbox.guests import Bench, link
from wisp.api.dataplane import DataPlane
from wisp.names import LINES
from wisp.node import Node
from wisp.registry.connection import Connection
from wisp.sandbox import capi, engine, store
from wisp.scheduling.runs import Run
from wisp.scheduling.slots import Sandbox
from wisp.telemetry import Metrics
from wisp.wire.channel import Channel
from wisp.wire.exchange import encode_request_head
from wisp.wire.outcome import Outcome

HELLO = TENANTS / "globex" / "hello" / "module.wasm"
FOREIGN = type(ctypes.pythonapi.Py_IncRef).__base__ or object
"""What a function of a C library is an instance of."""
REQUESTS = 20
CALLS, LIBRARY_CALLS = 127, 137 if sys.version_info < (3, 12) else 139
"""Of wisp's own functions in Python, and from them of others in C, for one request in the router. `current_task`, asked
twice, is one of the latter from Python 3.12 on."""
SANDBOX_CALLS, SANDBOX_LIBRARY_CALLS = 36, 26
"""The same in a sandbox's runner, for a handler that prints nothing. What it calls in the engine is counted apart."""
WISP = str(Path(wisp.__file__).parent)
ECHO_POLICY = b"wisp: 1\nabi: handler\nlimits: {memory: 64Mi, request_body: 4Mi, response_body: 4Mi, fuel: 1G}\n"


def counted(function: Callable[..., Any], name: str, counts: Counter[str]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        counts[name] += 1
        return function(*arguments)

    return call


def test_a_request_makes_these_calls_into_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    head = encode_request_head(b"GET", b"/", b"", ((b"host", b"localhost"),))
    assert bench.run(HELLO, head=head).outcome is Outcome.OK
    prepare = bench.prepare(HELLO)
    monkeypatch.setattr(bench, "prepare", lambda guest: prepare)
    counts: Counter[str] = Counter()
    for module in (capi, engine, store):
        for name, function in vars(module).copy().items():
            if isinstance(function, FOREIGN):
                monkeypatch.setattr(module, name, counted(cast(Callable[..., Any], function), name, counts))
    ending = bench.run(HELLO, head=head)
    assert ending.outcome is Outcome.OK
    assert ending.receipt.host_calls == 0
    assert counts == {
        "wasmtime_store_new": 1,
        "wasmtime_store_context": 1,
        "wasmtime_store_limiter": 1,
        "wasmtime_context_set_fuel": 1,
        "wasmtime_context_set_epoch_deadline": 1,
        "wasmtime_instance_pre_instantiate": 1,
        "wasmtime_instance_export_get": 3,
        "wasmtime_func_call_unchecked": 3,
        "wasmtime_context_get_fuel": 1,
        "wasmtime_store_delete": 1,
    }


def test_a_request_takes_this_many_calls_in_a_sandbox() -> None:
    bench = Bench()
    request: dict[str, Any] = {
        "number": 1, "function": link(), "prepared": bench.prepare(HELLO), "deadline_ns": 2**62, "body": b"",
        "head": encode_request_head(b"GET", b"/", b"", ((b"host", b"localhost"),)), "line": None,
        "answer": bench.answer.view, "files": bench.modules.files(1), "habit": bench.modules.habit(1),
    }  # fmt: skip

    def calls_of_one() -> tuple[int, int]:
        counts: Counter[str] = Counter()

        def note(frame: FrameType, event: str, argument: object) -> None:
            if frame.f_code.co_filename.startswith(WISP):
                counts[event] += 1

        sys.setprofile(note)
        try:
            ending, _ = bench.runner.run(**request)
        finally:
            sys.setprofile(None)
        assert ending.outcome is Outcome.OK
        return counts["call"], counts["c_call"]

    ours, library = map(min, zip(*[calls_of_one() for _ in range(REQUESTS)], strict=True))
    bench.close()
    assert ours <= SANDBOX_CALLS
    assert library <= SANDBOX_LIBRARY_CALLS


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Frames and their bytes, sent and received by the router."""
    counts: Counter[str] = Counter()
    send, receive = Channel.send, Channel.receive_bare

    def counting_send(self: Channel, kind: int, payload: Any = b"", fds: tuple[int, ...] = ()) -> None:
        counts["sent"] += 1
        counts["bytes"] += len(payload)
        send(self, kind, payload, fds)

    def counting_receive(self: Channel, room: bytearray) -> Any:
        counts["reads"] += 1
        frame = receive(self, room)
        if frame is not None:
            counts["received"] += 1
            counts["bytes"] += len(frame.payload)
        return frame

    monkeypatch.setattr(Channel, "send", counting_send)
    monkeypatch.setattr(Channel, "receive_bare", counting_receive)
    return counts


async def test_a_warm_request_is_a_frame_there_and_a_frame_back(
    node: Node, globex: Tenancy, frames: Counter[str]
) -> None:
    await globex.deploy_folder("hello")
    for _ in range(4 * len(node.sandboxes.slots)):
        await globex.call("hello")
    frames.clear()
    for _ in range(REQUESTS):
        assert (await globex.call("hello")).outcome is Outcome.OK
    assert (frames["sent"], frames["received"], frames["reads"]) == (REQUESTS, REQUESTS, REQUESTS)


async def test_the_sandbox_that_was_used_last_is_used_again(
    node: Node, globex: Tenancy, frames: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both free sandboxes have the module, and each of them one of its two functions."""
    for name in ("one", "two"):
        await globex.deploy(name, HELLO.read_bytes(), (HELLO.parent / "policy.yaml").read_bytes())
    await asyncio.gather(*(globex.call(name) for name in ("one", "two")))
    start, used = Sandbox.start, set()

    def noting_start(self: Sandbox, run: Run) -> None:
        used.add(self.slot)
        start(self, run)

    monkeypatch.setattr(Sandbox, "start", noting_start)
    frames.clear()
    for name in ("one", "two", "two", "one", "one"):
        assert (await globex.call(name)).outcome is Outcome.OK
    assert len(used) == 1
    assert frames["sent"] == 5 + 1  # the other function is linked there


async def test_a_warm_request_makes_this_many_calls_in_the_router(node: Node, globex: Tenancy) -> None:
    await globex.deploy_folder("hello")
    app, statuses = DataPlane(node, Metrics()), Counter[int]()
    scope = {
        "type": "http", "method": "GET", "raw_path": b"/t/globex/hello", "query_string": b"name=ada",
        "extensions": {LINES: {}},
        "headers": [(b"host", b"wisp"), (b"authorization", b"Bearer " + globex.secret.encode()), (b"accept", b"*/*")],
    }  # fmt: skip

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        statuses[message.get("status", 0)] += 1

    async def calls_of_one() -> tuple[int, int]:
        counts: Counter[str] = Counter()

        def note(frame: FrameType, event: str, argument: object) -> None:
            if frame.f_code.co_filename.startswith(WISP):
                counts[event] += 1

        sys.setprofile(note)
        try:
            await app(scope, receive, send)
        finally:
            sys.setprofile(None)
        return counts["call"], counts["c_call"]

    for _ in range(4 * len(node.sandboxes.slots)):
        await app(scope, receive, send)
    # The fewest of many: what the node does beside requests is none of theirs.
    ours, library = map(min, zip(*[await calls_of_one() for _ in range(5 * REQUESTS)], strict=True))
    assert set(statuses) == {0, 200}
    assert ours <= CALLS
    assert library <= LIBRARY_CALLS


async def test_bodies_that_are_large_go_through_no_frame(node: Node, acme: Tenancy, frames: Counter[str]) -> None:
    body = bytes(1 << 20)
    await acme.deploy("echo", echo_module(), ECHO_POLICY)
    for _ in range(4 * len(node.sandboxes.slots)):
        await acme.call("echo", body)
    frames.clear()
    for _ in range(REQUESTS):
        assert (await acme.call("echo", body)).body == body
    assert (frames["sent"], frames["received"]) == (REQUESTS, REQUESTS)
    assert frames["bytes"] < REQUESTS * 1024


async def test_a_warm_request_asks_redis_nothing(node: Node, globex: Tenancy, monkeypatch: pytest.MonkeyPatch) -> None:
    await globex.deploy_folder("hello")
    await globex.call("hello")
    asked: Counter[str] = Counter()
    ours = asyncio.current_task()  # leases are renewed beside the requests, one for many
    for name in ("command", "run", "get_each"):
        method = getattr(Connection, name)

        def counting(self: Any, *arguments: Any, name: str = name, method: Any = method, **more: Any) -> Any:
            asked[name] += asyncio.current_task() is ours
            return method(self, *arguments, **more)

        monkeypatch.setattr(Connection, name, counting)
    assert await node.registry.tenants.find(globex.name) is not None
    assert sum(asked.values()) == 1  # it would be seen
    for _ in range(REQUESTS):
        assert (await globex.call("hello")).outcome is Outcome.OK
    assert sum(asked.values()) == 1

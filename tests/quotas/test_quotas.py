"""Quotas in front of real guests: who runs, who waits, who is refused, what is stopped, and what it costs Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from platforms import HANDLER_POLICY, OPERATOR_KEY, TINY_MODELS, Tenancy
from quota_nodes import ACME, FREE, QUOTA, leases_asked, redis_running
from wat import LOOP, answering, handler
from wisp.api.problems import problem_of
from wisp.errors import QueueTimeout, QuotaExceeded, RateLimited, Suspended, TooManyInflight
from wisp.names import FunctionName, TenantName, parse_function
from wisp.node import Node
from wisp.oip.messages import parse_inference
from wisp.policy.grants import Concurrency
from wisp.policy.schema import Quota
from wisp.quotas.quotas import Quotas
from wisp.registry.following import Following
from wisp.registry.keys import EVENTS
from wisp.registry.records import Entry
from wisp.registry.registry import Registry
from wisp.registry.snapshot import Snapshot
from wisp.settings import Settings
from wisp.suspensions import Suspensions
from wisp.wire.outcome import Outcome, Receipt

HELLO = parse_function("hello")
NS_PER_S = 1_000_000_000
ROOMY = Concurrency(max_inflight=8, max_queue=100, queue_timeout_ns=10_000_000_000)
FAST = QUOTA.model_copy(update={"requests_per_second": 10_000, "burst": 10_000, "fuel_per_day": 10**15})
PATIENT = b"concurrency: {queue_timeout: 30s}\n"
LONG = HANDLER_POLICY + b"limits: {fuel: 10G, timeout: 10s}\n" + PATIENT


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with redis_running() as running:
        yield running


@pytest.fixture
async def registry(url: str) -> AsyncIterator[Registry]:
    registry = Registry(url)
    await registry.connection.command("FLUSHALL")
    await registry.prepare()
    await registry.tenants.create(ACME, FREE)
    yield registry
    await registry.aclose()


async def one(quotas: Quotas, quota: Quota, *, fuel: int = 1000) -> None:
    turn = await quotas.enter(ACME, HELLO, quota, ROOMY, fuel=100_000, infers=False, bytes_in=10)
    turn.settle(Receipt(fuel=fuel), 10)
    turn.leave()


async def test_a_thousand_requests_cost_few_round_trips(registry: Registry) -> None:
    quotas = Quotas(registry.quotas)
    await registry.connection.command("CONFIG", "RESETSTAT")
    for _ in range(1000):
        await one(quotas, FAST)
        await asyncio.sleep(0)
    assert 1 <= await leases_asked(registry) <= 40
    await quotas.close()


async def test_a_burst_is_let_through_and_no_more(registry: Registry) -> None:
    quota = QUOTA.model_copy(update={"requests_per_second": 1, "burst": 50, "fuel_per_day": 10**15})
    first, second = Quotas(registry.quotas), Quotas(registry.quotas)
    passed = 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    refused: RateLimited | None = None
    for _ in range(100):
        for quotas in (first, second):
            try:
                await one(quotas, quota)
                passed += 1
            except RateLimited as error:
                refused = error
    assert 30 <= passed <= 50 + (loop.time() - began) + 1
    assert refused is not None
    headers = dict(problem_of(refused).headers("r"))
    assert headers[b"ratelimit-policy"] == b'"requests";q=1;w=1'
    assert headers[b"ratelimit"] == b'"requests";r=0;t=' + headers[b"retry-after"]
    await first.close()
    await second.close()


async def test_a_days_fuel_ends_and_says_so(registry: Registry) -> None:
    quota = FAST.model_copy(update={"fuel_per_day": 1_000_000})
    quotas, passed = Quotas(registry.quotas), 0
    refused: QuotaExceeded | None = None
    while refused is None and passed < 100:
        try:
            await one(quotas, quota, fuel=100_000)
            passed += 1
        except QuotaExceeded as error:
            refused = error
    assert 10 <= passed <= 11
    assert refused is not None
    assert "fuel_per_day of 1000000" in refused.message
    assert refused.limit == 1_000_000
    await quotas.close()
    again = Quotas(registry.quotas)  # another router, or this one started again
    with pytest.raises(QuotaExceeded):
        await one(again, quota)
    await again.close()


@pytest.mark.parametrize(
    ("key", "limit", "receipt", "bytes_in", "policy"),
    [
        ("fuel_per_day", 1_000_000, Receipt(fuel=100_000), 0, "fuel"),
        ("fuel_per_day", 1_000_000, Receipt(fuel=100_000, nn_fuel=90_000, cpu_ns=10_000), 0, "fuel"),
        ("fuel_per_day", 1_000_000, Receipt(fuel=60_000, nn_fuel=50_000, cpu_ns=50_000), 0, "fuel"),
        ("nn_seconds_per_day", 10, Receipt(nn_ns=NS_PER_S), 0, "nn"),
        ("bytes_in_per_day", 1_000, Receipt(), 100, "bytes_in"),
        ("bytes_out_per_day", 1_000, Receipt(bytes_out=100), 0, "bytes_out"),
    ],
)
async def test_each_budget_of_the_day_ends_by_itself_and_says_so(
    registry: Registry, key: str, limit: int, receipt: Receipt, bytes_in: int, policy: str
) -> None:
    quota, quotas = FAST.model_copy(update={"nn_seconds_per_day": 10**6, key: limit}), Quotas(registry.quotas)
    passed, refused = 0, None
    while refused is None and passed < 100:
        try:
            turn = await quotas.enter(ACME, HELLO, quota, ROOMY, fuel=100_000, infers=True, bytes_in=bytes_in)
        except QuotaExceeded as error:
            refused = error
        else:
            turn.settle(receipt, receipt.bytes_out)
            turn.leave()
            passed += 1
    assert refused is not None
    assert 10 <= passed <= 11
    assert f"{key} of {limit}" in refused.message
    assert (refused.limit, refused.used) == (limit, passed * limit // 10)
    headers = dict(problem_of(refused).headers("r"))
    assert 1 <= int(headers[b"retry-after"]) <= 86_400
    assert headers[b"ratelimit-policy"].startswith(b'"%s";q=%d;' % (policy.encode(), limit))
    assert headers[b"ratelimit-policy"].endswith(b";w=86400")
    assert headers[b"ratelimit"] == b'"%s";r=0;t=%s' % (policy.encode(), headers[b"retry-after"])
    await quotas.close()


async def test_what_a_guest_used_after_its_caller_had_gone_is_charged(registry: Registry) -> None:
    quota = FAST.model_copy(update={"fuel_per_day": 1_000_000})
    quotas, passed = Quotas(registry.quotas), 0
    with contextlib.suppress(QuotaExceeded):
        while passed < 100:
            turn = await quotas.enter(ACME, HELLO, quota, ROOMY, fuel=100_000, infers=False, bytes_in=0)
            turn.leave()
            turn.settle(Receipt(fuel=100_000), 0)
            passed += 1
    assert 10 <= passed <= 11
    await quotas.close()


async def test_a_node_gives_back_slots_that_it_does_not_use_when_another_lacks_them(registry: Registry) -> None:
    """Neither renews by itself here: `run` is not running."""
    quota = FAST.model_copy(update={"max_inflight": 4})
    first, second = Quotas(registry.quotas), Quotas(registry.quotas)
    following = asyncio.create_task(Following(Snapshot(registry), on_slots=first.note_short).run(listen_s=0.2))
    try:
        async with asyncio.timeout(30):
            while not (await registry.connection.command("PUBSUB", "NUMSUB", EVENTS))[1]:
                await asyncio.sleep(0.01)
        held = await first.enter(ACME, HELLO, quota, ROOMY, fuel=1, infers=False, bytes_in=0)
        patient = Concurrency(max_inflight=4, max_queue=1, queue_timeout_ns=20_000_000_000)
        turns = [await second.enter(ACME, HELLO, quota, patient, fuel=1, infers=False, bytes_in=0) for _ in range(2)]
        for turn in (held, *turns):
            turn.leave()
    finally:
        following.cancel()
        await asyncio.wait({following})
    await first.close()
    await second.close()


async def test_a_registry_that_is_away_stops_nobody(registry: Registry) -> None:
    lost = Registry("unix:///nonexistent/redis.sock")
    quotas = Quotas(lost.quotas)
    for _ in range(5):
        await one(quotas, FAST)
    assert quotas.cut_off == 1
    await quotas.close()
    await lost.aclose()


async def test_what_is_held_comes_back_when_a_router_closes(registry: Registry) -> None:
    quota = FAST.model_copy(update={"max_inflight": 4})
    first, second = Quotas(registry.quotas), Quotas(registry.quotas)
    turns = [await first.enter(ACME, HELLO, quota, ROOMY, fuel=1, infers=False, bytes_in=0) for _ in range(4)]
    impatient = Concurrency(max_inflight=4, max_queue=1, queue_timeout_ns=50_000_000)
    with pytest.raises(QueueTimeout):
        await second.enter(ACME, HELLO, quota, impatient, fuel=1, infers=False, bytes_in=0)
    for turn in turns:
        turn.leave()
    await first.close()
    async with asyncio.timeout(20):
        turn = await second.enter(ACME, HELLO, quota, ROOMY, fuel=1, infers=False, bytes_in=0)
    turn.leave()
    await second.close()


async def test_a_function_runs_no_more_than_it_may_and_its_queue_is_in_order(registry: Registry) -> None:
    quotas, order = Quotas(registry.quotas), list[int]()
    narrow = Concurrency(max_inflight=1, max_queue=3, queue_timeout_ns=20_000_000_000)
    first = await quotas.enter(ACME, HELLO, FAST, narrow, fuel=1, infers=False, bytes_in=0)

    async def wait(number: int) -> None:
        turn = await quotas.enter(ACME, HELLO, FAST, narrow, fuel=1, infers=False, bytes_in=0)
        order.append(number)
        await asyncio.sleep(0)
        assert turn.waited_ns > 0
        turn.leave()

    waiting = [asyncio.create_task(wait(number)) for number in range(3)]
    await asyncio.sleep(0.05)
    with pytest.raises(TooManyInflight):
        await quotas.enter(ACME, HELLO, FAST, narrow, fuel=1, infers=False, bytes_in=0)
    other = await quotas.enter(ACME, parse_function("other"), FAST, narrow, fuel=1, infers=False, bytes_in=0)
    other.leave()
    waiting[1].cancel()
    await asyncio.wait({waiting[1]})
    assert order == []
    first.leave()
    async with asyncio.timeout(20):
        await asyncio.gather(waiting[0], waiting[2])
    assert order == [0, 2]
    await quotas.close()


@asynccontextmanager
async def two_nodes(url: str, directory: Path) -> AsyncIterator[tuple[Node, Node]]:
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(
                Node(
                    Settings.load(
                        {
                            "data_dir": str(directory / name),
                            "workers": "1",
                            "redis": url,
                            "blobs": f"file://{directory}/blobs",
                        },
                        environ={"WISP_OPERATOR_KEY": OPERATOR_KEY},
                    )
                )
            )
            for name in ("a", "b")
        ]
        yield nodes[0], nodes[1]


@pytest.mark.parametrize("whole", [False, True], ids=["function", "tenant"])
async def test_after_a_suspension_nothing_is_answered_while_a_version_is_being_prepared(
    url: str, registry: Registry, tmp_path: Path, whole: bool
) -> None:
    await registry.connection.command("FLUSHALL")
    hello = parse_function("hello")
    async with two_nodes(url, tmp_path) as nodes:
        here = await Tenancy.create(nodes[0], "acme", "standard")
        tenancies = (here, Tenancy(node=nodes[1], name=here.name, secret=here.secret))
        await here.deploy("hello", answering(b"one"), HANDLER_POLICY + PATIENT)
        await here.deploy("hello", answering(b"two"), HANDLER_POLICY + PATIENT, activate=False)
        preparing, knows = [asyncio.Event(), asyncio.Event()], [asyncio.Event(), asyncio.Event()]
        counted = {"before": 0, "late": 0, "refused": 0}
        applied = False

        def watch(node: Node, reached: asyncio.Event, known: asyncio.Event) -> None:
            async def prepare(entry: Entry) -> None:
                reached.set()
                await asyncio.Event().wait()  # a version that never gets ready

            def on_suspended(tenant: TenantName, function: FunctionName | None) -> None:
                known.set()
                stop(tenant, function)

            stop = node.snapshot.on_suspended
            node.snapshot.prepare, node.snapshot.on_suspended = prepare, on_suspended

        async def call_on(tenancy: Tenancy) -> None:
            while counted["refused"] < 200:
                try:
                    reply = await tenancy.call("hello")
                except Suspended:
                    counted["refused"] += 1
                    await asyncio.sleep(0)
                else:
                    assert reply.outcome is Outcome.OK
                    counted["late" if applied else "before"] += 1

        for tenancy in tenancies:
            await tenancy.call("hello")
        for node, reached, known in zip(nodes, preparing, knows, strict=True):
            watch(node, reached, known)
        callers = [asyncio.create_task(call_on(tenancy)) for tenancy in tenancies for _ in range(3)]
        async with asyncio.timeout(30):
            await nodes[0].registry.functions.activate(here.name, hello, 2)
            for reached in preparing:
                await reached.wait()
            so_far = counted["before"]
            while counted["before"] < so_far + 20:  # the former version answers meanwhile
                await asyncio.sleep(0.001)
            if whole:
                await nodes[0].registry.tenants.patch(here.name, suspended=True)
            else:
                await nodes[0].registry.functions.suspend(here.name, hello)
            for known in knows:
                await known.wait()
            applied = True
            await asyncio.gather(*callers)
        assert counted["late"] == 0


async def test_what_has_just_ended_well_is_not_answered_once_it_is_suspended(registry: Registry) -> None:
    suspensions = Suspensions(registry)
    with pytest.raises(Suspended), suspensions.under_way(ACME, HELLO):
        suspensions.stop(ACME, None)
    with suspensions.under_way(ACME, HELLO):
        suspensions.stop(ACME, parse_function("other"))


async def test_an_inference_is_judged_again_after_its_body_was_read(node: Node, acme: Tenancy) -> None:
    await acme.push_model("identity", TINY_MODELS / "identity_f32.onnx")
    access = await node.inferring.enter(acme.name, acme.secret)
    model = await node.inferring.find(access, "identity", None)
    (spec,) = model.inputs
    shape = [abs(length) if isinstance(length, int) else 1 for length in spec.shape]
    body = json.dumps(
        {"inputs": [{"name": spec.name, "datatype": "FP32", "shape": shape, "data": [0.0] * math.prod(shape)}]}
    ).encode()
    request = parse_inference(body, None)
    answered = await node.inferring.infer(access, model, request, len(body))
    assert answered.failure is None
    tenant = await node.registry.tenants.patch(acme.name, suspended=True)
    node.snapshot.suspend(acme.name, None, tenant.revision)
    with pytest.raises(Suspended):
        await node.inferring.infer(access, model, request, len(body))


async def test_a_suspension_stops_what_runs_on_every_node(url: str, registry: Registry, tmp_path: Path) -> None:
    await registry.connection.command("FLUSHALL")
    async with two_nodes(url, tmp_path) as nodes:
        here = await Tenancy.create(nodes[0], "acme", "standard")
        there = Tenancy(node=nodes[1], name=here.name, secret=here.secret)
        await here.deploy("long", handler(LOOP), LONG)
        await here.deploy("hello", answering(b"hi"), HANDLER_POLICY + PATIENT)
        for resume in (False, True):
            calls = [asyncio.create_task(tenancy.call("long")) for tenancy in (here, here, there, there)]
            async with asyncio.timeout(30):
                while not all(any(slot.busy for slot in node.sandboxes.slots) for node in nodes):
                    await asyncio.sleep(0.01)
            function = parse_function("long")
            if resume:
                await nodes[0].registry.tenants.patch(here.name, suspended=True)
            else:
                await nodes[0].registry.functions.suspend(here.name, function)
            results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)
            assert [type(result) for result in results] == [Suspended] * 4
            for tenancy in (here, there):
                with pytest.raises(Suspended):
                    await tenancy.call("hello" if resume else "long")
            await nodes[0].registry.functions.resume(here.name, function)
            await nodes[0].registry.tenants.patch(here.name, suspended=False)
            async with asyncio.timeout(30):
                for tenancy in (here, there):
                    while True:
                        try:
                            assert (await tenancy.call("hello")).outcome is Outcome.OK
                            break
                        except Suspended:
                            await asyncio.sleep(0.05)

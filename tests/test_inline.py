"""Models that guests bring: judged once for each tenant, never shared, never parsed in the router or the sandbox."""

from __future__ import annotations

import asyncio

import onnx
import pytest

from inference import onnx_models
from inference.test_probe import branching
from platforms import HANDLER_POLICY, TENANTS, Tenancy
from sandbox.pair import Talk, floats
from sandbox.puppet import SCRATCH, Told
from test_nn import play as play_once
from test_nn import puppet_of_a_node
from wisp import inline
from wisp.errors import ExceedsCeiling, Overloaded
from wisp.node import Node
from wisp.policy.ceilings import default_policies_dir
from wisp.sandbox.nn import Errno
from wisp.wire.outcome import Outcome

CEILING = (default_policies_dir() / "ceiling.yaml").read_bytes()
POLICY = HANDLER_POLICY + b"inline_models: true\nlimits: {timeout: 10s}\n"
IDENTITY = onnx_models.identity()
PATIENCE_S = 30.0


@pytest.fixture
async def open_node(node: Node) -> Node:
    """Its operator lets guests bring models."""
    await allow(node, b"inline: true")
    return node


async def allow(node: Node, *words: bytes) -> None:
    text = CEILING
    for word in words:
        name = word.partition(b":")[0]
        start = text.index(name + b": ", text.index(b"\nmodels:"))
        end = min(text.index(mark, start) for mark in (b",", b"}") if mark in text[start:])
        text = text[:start] + word + text[end:]
    assert (await node.book.put("ceiling", text, author="operator", expected=None)).pending == ()


def bring(talk: Talk, data: bytes) -> None:
    talk.call("load", talk.words(talk.data(data), len(data)), 1, 1, 0, SCRATCH)


def infer(data: bytes, *numbers: float) -> Talk:
    talk = Talk()
    bring(talk, data)
    talk.context()
    talk.set_input(0, 0, [len(numbers)], 1, floats(*numbers))
    talk.compute()
    talk.get_output()
    return talk


async def play(tenant: Tenancy, talk: Talk) -> Told:
    """Again where a model was not loaded in time: on a slow machine that is what the next request is for."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            reply = await tenant.call("puppet", talk.body())
            if reply.outcome is not Outcome.INFERENCE_TIMEOUT:
                return await play_once(tenant, talk)


def sessions(node: Node) -> list[str]:
    assert not node.host._loaded, "guests' models are in their tenants' hosts"
    loaded = (digest for held in node.own_hosts._hosts.values() for digest in held.host._loaded)
    return sorted(str(digest).partition("/")[0] for digest in loaded)


async def test_a_guest_infers_with_a_model_of_its_own(open_node: Node, acme: Tenancy) -> None:
    await acme.deploy("puppet", puppet_of_a_node(), POLICY)
    for _ in range(2):
        told = await play(acme, infer(IDENTITY, 1, 2, 3))
        assert told.errnos == [Errno.SUCCESS] * 5
        assert floats(1, 2, 3) in told.scratch
    assert sessions(open_node) == ["acme"]


async def test_the_same_bytes_of_two_tenants_are_two_sessions(open_node: Node, acme: Tenancy, globex: Tenancy) -> None:
    for tenant in (acme, globex):
        await tenant.deploy("puppet", puppet_of_a_node(), POLICY.replace(b"10s", b"2s"))
        assert (await play(tenant, infer(IDENTITY, 4))).errnos == [Errno.SUCCESS] * 5
    assert sessions(open_node) == ["acme", "globex"]


async def test_bytes_that_are_no_model_are_an_errno(open_node: Node, acme: Tenancy) -> None:
    """The second time without a child: `judge` would fail."""
    await acme.deploy("puppet", puppet_of_a_node(), POLICY)
    elsewhere = onnx.load_from_string(IDENTITY)
    tensor = elsewhere.graph.initializer.add(name="w", data_type=1, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    talk = Talk()
    for data in (b"no model", b"", IDENTITY[:20], elsewhere.SerializeToString()):
        bring(talk, data)
    assert (await play(acme, talk)).errnos == [Errno.INVALID_ENCODING] * 4
    open_node.stores.inline._admissions = None  # type: ignore[assignment]
    assert (await play(acme, talk)).errnos == [Errno.INVALID_ENCODING] * 4
    lines = [line.text for line in open_node.tenantlog.lines(acme.name, (await acme.target("puppet")).function)]
    assert any("keeps its data in another file" in line for line in lines)


async def test_one_request_brings_few_models_and_the_same_one_once(
    open_node: Node, acme: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline, "MAX_PER_INVOCATION", 1)
    await acme.deploy("puppet", puppet_of_a_node(), POLICY)
    talk = Talk()
    for data in (IDENTITY, IDENTITY, onnx_models.scale(2)):
        bring(talk, data)
    assert (await play(acme, talk)).errnos == [Errno.SUCCESS, Errno.SUCCESS, Errno.BUSY]


async def test_a_load_that_outlives_its_request_serves_the_next(open_node: Node, acme: Tenancy) -> None:
    await acme.deploy("puppet", puppet_of_a_node(), POLICY.replace(b"10s", b"20ms"))
    async with asyncio.timeout(PATIENCE_S):
        while not open_node.stores.inline._held:
            reply = await acme.call("puppet", infer(IDENTITY, 1).body())
            if not open_node.stores.inline._held:
                assert reply.outcome in (Outcome.INFERENCE_TIMEOUT, Outcome.DEADLINE_EXCEEDED)
            await asyncio.sleep(0.05)
    open_node.stores.inline._admissions = None  # type: ignore[assignment]
    await acme.deploy("puppet", puppet_of_a_node(), POLICY)
    assert (await play(acme, infer(IDENTITY, 1))).errnos == [Errno.SUCCESS] * 5


async def test_what_the_operator_forbids_since_is_judged_again(open_node: Node, acme: Tenancy) -> None:
    await acme.deploy("puppet", puppet_of_a_node(), POLICY)
    talk = Talk()
    bring(talk, branching())
    assert (await play(acme, talk)).errnos == [Errno.SUCCESS]
    await allow(open_node, b"inline: true", b"control_flow: none")
    assert (await play(acme, talk)).errnos == [Errno.INVALID_ENCODING]


async def test_a_policy_may_not_allow_what_the_ceiling_does_not(acme: Tenancy) -> None:
    with pytest.raises(ExceedsCeiling) as refused:
        await acme.deploy("puppet", puppet_of_a_node(), POLICY)
    assert [fault.field for fault in refused.value.faults] == ["inline_models"]


async def until_closed(node: Node) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while node.stores.inline._held or sessions(node):
            await asyncio.sleep(0.02)


async def test_a_model_that_makes_room_is_closed_in_its_host(
    open_node: Node, acme: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await acme.deploy("puppet", puppet_of_a_node(), POLICY)
    assert (await play(acme, infer(IDENTITY, 1))).errnos == [Errno.SUCCESS] * 5
    monkeypatch.setattr(inline, "MAX_BYTES", 1)
    other = Talk()
    bring(other, onnx_models.scale(2))
    assert (await play(acme, other)).errnos == [Errno.SUCCESS]
    assert len(open_node.stores.inline._held) == len(sessions(open_node)) == 1


async def test_a_function_that_goes_takes_its_models_with_it(open_node: Node, acme: Tenancy) -> None:
    await acme.deploy("puppet", puppet_of_a_node(), POLICY)
    assert (await play(acme, infer(IDENTITY, 1))).errnos == [Errno.SUCCESS] * 5
    assert sessions(open_node) == ["acme"]
    await acme.deploy("puppet", (TENANTS / "acme" / "hello" / "module.wasm").read_bytes(), HANDLER_POLICY)
    await acme.call("puppet")
    await until_closed(open_node)


async def test_models_are_closed_when_the_operator_allows_none_any_more(open_node: Node, acme: Tenancy) -> None:
    await acme.deploy("puppet", puppet_of_a_node(), POLICY)
    assert (await play(acme, infer(IDENTITY, 1))).errnos == [Errno.SUCCESS] * 5
    await allow(open_node, b"inline: false")
    await acme.call("puppet", Talk().body())
    await until_closed(open_node)


async def test_bytes_that_are_judged_count_against_the_node_s_budget(
    open_node: Node, acme: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await acme.deploy("puppet", puppet_of_a_node(), POLICY)
    budget, free = open_node.budget, [False]
    take = budget.take

    def take_if_free(count: int, owner: str = "") -> None:
        if count == len(IDENTITY) and owner == "acme" and not free[0]:
            raise Overloaded("full", limit=1, used=1)
        take(count, owner)

    monkeypatch.setattr(budget, "take", take_if_free)
    talk = Talk()
    bring(talk, IDENTITY)
    assert (await play(acme, talk)).errnos == [Errno.BUSY]
    free[0] = True
    assert (await play(acme, talk)).errnos == [Errno.SUCCESS]
    assert budget.used_bytes == 0


async def test_what_load_refuses_before_it_looks_at_the_bytes(open_node: Node, acme: Tenancy) -> None:
    """The table of errnos: encoding, target, the number of builders."""
    await acme.deploy("puppet", puppet_of_a_node(), POLICY)
    talk = Talk()
    one = talk.words(talk.data(IDENTITY), len(IDENTITY))
    rows = [
        ((one, 1, 0, 0), Errno.INVALID_ENCODING),
        ((one, 1, 6, 0), Errno.INVALID_ENCODING),
        ((one, 1, 1, 4), Errno.INVALID_ARGUMENT),
        ((one, 1, 1, 1), Errno.UNSUPPORTED_OPERATION),
        ((one, 1, 1, 2), Errno.UNSUPPORTED_OPERATION),
        ((one, 1, 1, 3), Errno.UNSUPPORTED_OPERATION),
        ((one, 0, 1, 0), Errno.INVALID_ARGUMENT),
        ((one, 2, 1, 0), Errno.INVALID_ARGUMENT),
        ((one + 2, 1, 1, 0), Errno.INVALID_ARGUMENT),
        ((one, 1, 5, 0), Errno.SUCCESS),
    ]
    for arguments, _ in rows:
        talk.call("load", *arguments, SCRATCH)
    assert (await play(acme, talk)).errnos == [errno for _, errno in rows]

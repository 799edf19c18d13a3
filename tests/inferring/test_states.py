"""What an index says of models on other machines, whatever those do, and that nobody waits for them unasked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from modelserver import Peer, listening
from platforms import TINY_MODELS, Tenancy
from wisp.api.app import create_app
from wisp.egress.remote import Remotes
from wisp.inferring import states
from wisp.inferring.states import RemoteStates
from wisp.names import parse_model
from wisp.node import Node
from wisp.telemetry import Metrics

WAIT_S = 60.0
NOT_ASKED = ("UNKNOWN", "on another machine, which was not asked")
READY = ("READY", "")


class Caller:
    """acme, at the index."""

    def __init__(self, node: Node, client: httpx.AsyncClient) -> None:
        self.node = node
        self.client = client

    async def register(self, name: str, source: str) -> None:
        await self.node.model_uploads.register(model=parse_model(name), source=source)

    async def index(self, **message: object) -> dict[str, tuple[str, str]]:
        """State and reason by name."""
        answer = await self.client.post("/repository/index", **({"json": message} if message else {}))  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        return {row["name"]: (row["state"], row["reason"]) for row in answer.json()}


@pytest.fixture
async def caller(node: Node, acme: Tenancy) -> AsyncIterator[Caller]:
    transport = httpx.ASGITransport(app=create_app(node, Metrics()))
    headers = {"authorization": f"Bearer {acme.secret}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://wisp/t/acme/v2", headers=headers, timeout=WAIT_S
    ) as client:
        yield Caller(node, client)


@pytest.fixture
async def peer(caller: Caller) -> AsyncIterator[Peer]:
    async with listening() as (made, _):
        await caller.register("far", made.source)
        yield made


async def test_a_plain_index_asks_nobody(caller: Caller, acme: Tenancy, peer: Peer) -> None:
    await acme.push_model("near", TINY_MODELS / "batch_rows.onnx")
    for plain in ({}, {"ready": False}):
        assert await caller.index(**plain) == {"far": NOT_ASKED, "near": READY}
    assert peer.readinesses == 0


async def test_one_of_what_is_ready_asks_and_what_was_heard_is_remembered(
    caller: Caller, acme: Tenancy, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "REMEMBERED_S", WAIT_S)
    await acme.push_model("near", TINY_MODELS / "batch_rows.onnx")
    for _ in range(3):
        assert await caller.index(ready=True) == {"far": READY, "near": READY}
    assert await caller.index() == {"far": READY, "near": READY}
    assert peer.readinesses == 1
    monkeypatch.setattr(states, "REMEMBERED_S", 0.0)
    assert await caller.index() == {"far": NOT_ASKED, "near": READY}


@pytest.mark.parametrize("status", [b"503 Loading", b"400 No"])
async def test_what_is_not_ready_is_left_out_and_its_reason_told(
    caller: Caller, peer: Peer, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "REMEMBERED_S", WAIT_S)
    peer.readiness = status
    assert await caller.index(ready=True) == {}
    code = status[:3].decode()
    assert await caller.index() == {"far": ("UNAVAILABLE", f"on another machine: it answers {code}")}


async def test_a_machine_that_is_gone_is_unavailable(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "REMEMBERED_S", WAIT_S)
    async with listening() as (peer, _):
        await caller.register("far", peer.source)
    assert await caller.index(ready=True) == {}
    assert await caller.index() == {"far": ("UNAVAILABLE", "on another machine: it cannot be connected to")}


async def test_one_that_does_not_answer_is_unknown_and_holds_up_no_other(
    caller: Caller, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "REMEMBERED_S", WAIT_S)
    monkeypatch.setattr(states, "WAIT_S", WAIT_S)
    peer.readiness = b""
    async with listening() as (other, _):
        await caller.register("other", other.source)
        assert await caller.index(ready=True) == {"other": READY}
    reason = "on another machine, which did not answer within 1.5 s"
    assert await caller.index() == {"far": ("UNKNOWN", reason), "other": READY}
    async with asyncio.timeout(WAIT_S):
        await peer.left.wait()


async def test_many_callers_are_one_request_and_who_leaves_takes_nothing_from_the_others(
    caller: Caller, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "REMEMBERED_S", WAIT_S)
    monkeypatch.setattr(states, "ANSWER_S", WAIT_S)
    monkeypatch.setattr(states, "WAIT_S", WAIT_S)
    peer.may_answer = asyncio.Event()
    first = asyncio.create_task(caller.index(ready=True))
    async with asyncio.timeout(WAIT_S):
        while not peer.readinesses:
            await asyncio.sleep(0.01)
    others = [asyncio.create_task(caller.index(ready=True)) for _ in range(5)]
    first.cancel()
    await asyncio.wait({first})
    peer.may_answer.set()
    assert await asyncio.gather(*others) == [{"far": READY}] * 5
    assert peer.readinesses == 1


async def test_so_many_are_asked_at_a_time_and_no_listing_waits_for_the_others(
    caller: Caller, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "AT_ONCE", 1)
    monkeypatch.setattr(states, "ANSWER_S", WAIT_S)
    monkeypatch.setattr(states, "WAIT_S", 0.2)
    peer.readiness = b""
    remotes = Remotes(no_bearer)
    asking = RemoteStates(remotes)
    async with listening() as (other, _):
        await caller.register("other", other.source)
        far, behind = sorted(await caller.node.registry.models.list(None), key=lambda model: model.name)
        await asking.ask([far, behind])
        assert (peer.readinesses, other.readinesses) == (1, 0)
        assert asking.of(behind) == asking.of(far) == states.NOT_ASKED
        await asking.close()
    async with asyncio.timeout(WAIT_S):
        await peer.left.wait()
    await remotes.close()


async def no_bearer(model: str, source: str) -> str:
    return ""


async def test_whether_it_is_ready_is_true_or_false(caller: Caller) -> None:
    for wrong in ("yes", 1, None):
        answer = await caller.client.post("/repository/index", json={"ready": wrong})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")

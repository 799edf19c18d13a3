"""Models that another machine serves, asked for under `/t/{tenant}/v2`, whatever that machine does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest

from modelserver import Peer, listening
from platforms import TINY_MODELS, Tenancy
from wisp.api.app import create_app
from wisp.errors import Overloaded, TooManyInflight
from wisp.inferring.remote import AT_ONCE, Places
from wisp.names import parse_model, parse_tenant
from wisp.node import Node
from wisp.telemetry import Metrics

WAIT_S = 60.0
INPUT = {"name": "x", "datatype": "FP32", "shape": [3], "data": [1, 2, 3]}
ACME, GLOBEX = parse_tenant("acme"), parse_tenant("globex")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    client: httpx.AsyncClient
    node: Node

    async def get(self, path: str) -> httpx.Response:
        return await self.client.get(path)

    async def infer(self, model: str = "far", *, timeout_us: int = 0, **more: object) -> httpx.Response:
        message = {"inputs": [INPUT], "parameters": {"timeout": timeout_us}} | more
        return await self.client.post(f"/models/{model}/infer", json=message)

    async def register(self, source: str) -> None:
        _, created = await self.node.model_uploads.register(model=parse_model("far"), source=source)
        assert created


@pytest.fixture
async def acme_calls(node: Node, acme: Tenancy) -> AsyncIterator[Caller]:
    transport = httpx.ASGITransport(app=create_app(node, Metrics()))
    headers = {"authorization": f"Bearer {acme.secret}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://wisp/t/acme/v2", headers=headers, timeout=WAIT_S
    ) as client:
        yield Caller(client=client, node=node)


@pytest.fixture
async def peer(acme_calls: Caller) -> AsyncIterator[Peer]:
    async with listening() as (made, _):
        await acme_calls.register(made.source)
        yield made


async def test_it_is_described_and_ready(acme_calls: Caller, peer: Peer) -> None:
    described = (await acme_calls.get("/models/far")).json()
    spec = {"name": "x", "datatype": "FP32", "shape": [-1]}
    assert described == {
        "name": "far", "versions": ["1"], "platform": "remote", "inputs": [spec], "outputs": [spec | {"name": "y"}],
    }  # fmt: skip
    for path in ("/models/far/ready", "/models/far/versions/1/ready"):
        assert (await acme_calls.get(path)).json() == {"name": "far", "ready": True}
    peer.readiness = b"503 Loading"
    answer = await acme_calls.get("/models/far/ready")
    assert (answer.status_code, answer.json()["code"]) == (503, "remote_unavailable")
    peer.readiness = b"400 No"
    answer = await acme_calls.get("/models/far/ready")
    assert (answer.status_code, answer.json()["code"]) == (502, "remote_failed")
    assert (await acme_calls.get("/models/far/versions/2")).status_code == 404


async def test_json_and_bytes_and_the_receipt(acme_calls: Caller, peer: Peer) -> None:
    answer = await acme_calls.infer(id="r-1")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "model_name": "far", "model_version": "1", "id": "r-1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [3], "data": [1, 2, 3]}],
    }  # fmt: skip
    assert answer.headers["wisp-outcome"] == "ok"
    assert (answer.headers["wisp-inferences"], answer.headers["wisp-tensor-bytes"]) == ("1", "24")
    assert int(answer.headers["wisp-nn-fuel"]) > 0
    large = bytes(range(256)) * 4096
    spec = {"name": "x", "datatype": "FP32", "shape": [len(large) // 4], "parameters": {"binary_data_size": len(large)}}
    text = json.dumps({"inputs": [spec], "parameters": {"binary_data_output": True}}).encode()
    answer = await acme_calls.client.post(
        "/models/far/infer", content=text + large, headers={"inference-header-content-length": str(len(text))}
    )
    assert answer.status_code == 200, answer.text
    assert answer.content[int(answer.headers["inference-header-content-length"]) :] == large
    assert acme_calls.node.budget.used_bytes == 0


async def test_a_machine_that_takes_json_alone(acme_calls: Caller) -> None:
    async with listening() as (peer, _):
        peer.extensions = ()
        await acme_calls.register(peer.source)
        assert (await acme_calls.infer()).json()["outputs"][0]["data"] == [1, 2, 3]
        size = 1 << 20
        spec = {"name": "x", "datatype": "FP32", "shape": [size // 4], "parameters": {"binary_data_size": size}}
        text = json.dumps({"inputs": [spec]}).encode()
        answer = await acme_calls.client.post(
            "/models/far/infer", content=text + bytes(size), headers={"inference-header-content-length": str(len(text))}
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
        assert peer.inferences == 1
        assert acme_calls.node.budget.used_bytes == 0


LIES = ("shape", "rank", "datatype", "name", "short", "long", "huge", "closes", "garbage", "error", "no http")


async def test_an_answer_that_is_none_is_502(acme_calls: Caller, peer: Peer) -> None:
    for number, behaviour in enumerate(LIES, 1):
        peer.behaviour = behaviour
        answer = await acme_calls.infer()
        assert (answer.status_code, answer.json()["code"]) == (502, "remote_failed"), (behaviour, answer.text)
        assert answer.headers["wisp-error"] == "remote_failed; source=platform"
        assert answer.headers["wisp-inferences"] == "1"
        assert "127.0.0.1" not in answer.text
        assert peer.inferences == number  # never again: it may have begun
        assert acme_calls.node.budget.used_bytes == 0
    peer.behaviour = "echo"
    assert (await acme_calls.infer()).status_code == 200


async def test_a_machine_that_is_busy_or_gone_is_503(acme_calls: Caller) -> None:
    async with listening() as (peer, _):
        await acme_calls.register(peer.source)
        peer.behaviour = "busy"
        answer = await acme_calls.infer()
        assert (answer.status_code, answer.json()["code"]) == (503, "remote_unavailable")
    for _ in range(2):  # found out, then known
        answer = await acme_calls.infer()
        assert (answer.status_code, answer.json()["code"]) == (503, "remote_unavailable")
        assert answer.headers["retry-after"]
        assert answer.headers["wisp-outcome"] == "remote_unavailable"
        assert "127.0.0.1" not in answer.text
    assert (await acme_calls.get("/models/far/ready")).json()["code"] == "remote_unavailable"


async def test_one_that_is_late_is_504_and_left(acme_calls: Caller, peer: Peer) -> None:
    peer.behaviour = "slow"
    answer = await acme_calls.infer(timeout_us=300_000)
    assert (answer.status_code, answer.json()["code"], answer.json()["limit"]) == (504, "remote_timeout", 300)
    assert int(answer.headers["wisp-nn-fuel"]) >= 300_000_000
    async with asyncio.timeout(WAIT_S):
        await peer.left.wait()
    assert acme_calls.node.budget.used_bytes == 0


async def test_a_caller_that_leaves_takes_the_inference_with_it(acme_calls: Caller, peer: Peer) -> None:
    peer.behaviour = "slow"
    call = asyncio.create_task(acme_calls.infer())
    async with asyncio.timeout(WAIT_S):
        await peer.hung.wait()
        call.cancel()
        await peer.left.wait()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert acme_calls.node.budget.used_bytes == 0


async def test_it_counts_against_the_tenant_s_quotas_and_stands_in_its_usage(acme_calls: Caller, peer: Peer) -> None:
    assert (await acme_calls.infer()).status_code == 200
    usage = acme_calls.node.registry.usage
    async with asyncio.timeout(WAIT_S):
        while not (places := await usage.places(ACME, 0, 1 << 31, 10)):
            await asyncio.sleep(0.1)
    (((_, function), use),) = await usage.read(ACME, places)
    assert (function, use.outcomes, use.metric("inferences")) == ("v2", {"ok": 1}, 1)
    assert use.metric("nn_ns") > 0


async def test_a_full_node_refuses(acme_calls: Caller, peer: Peer) -> None:
    peer.behaviour = "slow"
    budget = acme_calls.node.budget
    budget.take(budget.limit_bytes - 64 * 1024)
    try:
        big = json.dumps({"inputs": [INPUT | {"shape": [16000], "data": [1] * 16000}]})
        answer = await acme_calls.client.post("/models/far/infer", content=big)
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert peer.inferences == 0
    finally:
        budget.give_back(budget.limit_bytes - 64 * 1024)
    assert budget.used_bytes == 0


def test_a_tenant_has_no_more_places_than_it_leaves() -> None:
    places = Places()
    for _ in range(AT_ONCE // 2):
        places.take(ACME)
    with pytest.raises(TooManyInflight):
        places.take(ACME)
    for _ in range(AT_ONCE // 4):
        places.take(GLOBEX)
    with pytest.raises(TooManyInflight):
        places.take(GLOBEX)
    places.give_back(ACME)
    places.take(GLOBEX)
    for number in range(AT_ONCE):
        try:
            places.take(parse_tenant(f"t{number}"))
        except Overloaded:
            break
    else:
        raise AssertionError("more than there are")


async def test_an_own_model_hides_it(acme_calls: Caller, peer: Peer, acme: Tenancy) -> None:
    await acme.push_model("far", TINY_MODELS / "identity_i64.onnx")
    async with asyncio.timeout(WAIT_S):
        while (await acme_calls.get("/models/far")).json()["platform"] != "onnxruntime_onnx":
            await asyncio.sleep(0.1)
    assert peer.inferences == 0

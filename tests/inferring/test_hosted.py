"""Models of this node's own hosts, asked for under `/t/{tenant}/v2`, where they leave while somebody needs them."""

from __future__ import annotations

import httpx
import pytest

from platforms import TINY_MODELS, Tenancy
from wisp.api.app import create_app
from wisp.inferring.access import Access
from wisp.node import Node
from wisp.registry.records import Model
from wisp.telemetry import Metrics


async def test_a_model_that_made_room_for_another_is_loaded_again(
    node: Node, acme: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await acme.push_model("rows", TINY_MODELS / "batch_rows.onnx")
    hosted = node.inferring._hosted
    make_ready = hosted.make_ready
    left: list[str] = []

    async def leaves_once(access: Access, model: Model) -> None:
        await make_ready(access, model)
        if not left:
            left.append(model.digest)
            node.own_hosts.drop(acme.name, model.digest)

    monkeypatch.setattr(hosted, "make_ready", leaves_once)
    transport = httpx.ASGITransport(app=create_app(node, Metrics()))
    async with httpx.AsyncClient(transport=transport, base_url="http://wisp/t/acme/v2", timeout=60) as client:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        answer = await client.post(
            "/models/rows/infer", json={"inputs": [tensor]}, headers={"authorization": f"Bearer {acme.secret}"}
        )
    assert left
    assert answer.status_code == 200, answer.text

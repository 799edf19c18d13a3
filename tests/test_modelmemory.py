"""Models that come and go under traffic, with real processes: nobody sees more of it than time."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from inference import onnx_models
from platforms import HANDLER_POLICY, OPERATOR_KEY, REPOSITORY, Tenancy
from sandbox.pair import floats
from wat import handler
from wisp.names import parse_model
from wisp.node import Node
from wisp.settings import Settings
from wisp.wire.outcome import Outcome

INFER = (REPOSITORY / "tests" / "guests" / "infer" / "module.wasm").read_bytes()
COLUMNS = 256
MODEL_BYTES = 2 * COLUMNS * COLUMNS * 4
NAMES = ("one", "two", "three", "four")


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Node]:
    """A node whose memory for models holds two of four, and which trusts its tenants' models."""
    policies = tmp_path / "policies"
    shutil.copytree(REPOSITORY / "policies", policies)
    standard = policies / "class-standard.yaml"
    standard.write_text(standard.read_text().replace("trusted_models: false", "trusted_models: true"))
    settings = Settings.load(
        {
            "data_dir": str(tmp_path / "data"),
            "policies": str(policies),
            "workers": "2",
            "model_memory": str(MODEL_BYTES * 5 // 2),
        },
        environ={"WISP_OPERATOR_KEY": OPERATOR_KEY},
    )
    async with Node(settings) as node:
        yield node


async def deploy(tenant: Tenancy, tmp_path: Path, name: str, seed: int) -> None:
    file = tmp_path / f"{name}.onnx"
    file.write_bytes(onnx_models.gemm(COLUMNS, seed))
    await tenant.push_model(name, file)
    policy = HANDLER_POLICY + f"models:\n- {{name: m, model: {name}}}\n".encode()
    await tenant.deploy(name, INFER, policy)


async def ask(tenant: Tenancy, name: str) -> bytes:
    reply = await tenant.call(name, floats(*[1.0] * COLUMNS), query=f"graph=m&type=f32&dims=1,{COLUMNS}".encode())
    assert reply.outcome is Outcome.OK, reply
    assert reply.status == 200, reply.body
    return reply.body


async def test_models_are_loaded_evicted_and_unloaded_under_traffic_without_an_error(
    small: Node, tmp_path: Path
) -> None:
    acme = await Tenancy.create(small, "acme", "standard")
    for seed, name in enumerate(NAMES):
        await deploy(acme, tmp_path, name, seed)
    expected = {name: await ask(acme, name) for name in NAMES}
    assert len(set(expected.values())) == len(NAMES)

    async def caller(number: int) -> None:
        for turn in range(15):
            name = NAMES[(number + turn * (1 + number % 3)) % len(NAMES)]
            answer = np.frombuffer(await ask(acme, name), np.float32)
            np.testing.assert_allclose(answer, np.frombuffer(expected[name], np.float32), rtol=1e-4, atol=1e-4)

    await asyncio.gather(*(caller(number) for number in range(6)))
    digests = [model.digest for model in await small.registry.models.list(acme.name)]
    assert not small.host.has(tuple(digests))
    assert len(small.own_hosts) == 0
    assert small.host.restarts == 0


async def test_a_model_that_no_version_uses_any_more_is_closed(node: Node, acme: Tenancy, tmp_path: Path) -> None:
    await deploy(acme, tmp_path, "one", 1)
    await ask(acme, "one")
    model = await node.registry.models.get(acme.name, parse_model("one"))
    assert node.own_hosts.has(acme.name, (model.digest,))
    assert not node.host.has((model.digest,))
    await acme.deploy("one", handler("(i64.const 0)"))
    await acme.call("one")
    async with asyncio.timeout(30):
        while node.own_hosts.has(acme.name, (model.digest,)):
            await asyncio.sleep(0.01)

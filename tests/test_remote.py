"""Models that another machine serves: a guest infers with one, whatever that machine does."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from modelserver import METADATA, SPEC, VALUES, Peer, listening
from platforms import HANDLER_POLICY, OPERATOR_KEY, REPOSITORY, TINY_MODELS, Reply, Tenancy
from wisp.api.app import create_app
from wisp.egress.remotemodels import parse_source
from wisp.errors import InvalidModel
from wisp.names import parse_function, parse_model
from wisp.node import Node
from wisp.telemetry import Metrics
from wisp.wire.outcome import Outcome

INFER = (REPOSITORY / "tests" / "guests" / "infer" / "module.wasm").read_bytes()
MLSERVER = os.environ.get("WISP_MLSERVER")
WAIT_S = 60.0


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with listening() as (made, _):
        yield made


async def deploy(node: Node, acme: Tenancy, source: str, *, timeout: str = "8s", bounds: str = "") -> None:
    model, created = await node.model_uploads.register(model=parse_model("far"), source=source)
    assert created
    assert model.source == source
    policy = f"limits: {{timeout: {timeout}}}\nmodels:\n- {{name: far, model: far@1{bounds}}}\n"
    await acme.deploy("infer", INFER, HANDLER_POLICY + policy.encode())


async def ask(acme: Tenancy, values: bytes = VALUES) -> Reply:
    return await acme.call("infer", values, query=f"graph=far&type=f32&dims={len(values) // 4}".encode())


async def test_a_guest_infers_with_a_remote_model(node: Node, acme: Tenancy, peer: Peer) -> None:
    await deploy(node, acme, peer.source)
    reply = await ask(acme)
    assert (reply.outcome, reply.status, reply.body) == (Outcome.OK, 200, VALUES)
    assert reply.receipt.inferences == 1
    assert reply.receipt.tensor_bytes == 24
    assert reply.receipt.nn_ns > 0
    assert reply.receipt.nn_fuel > 0
    large = bytes(range(256)) * 4096
    assert (await ask(acme, large)).body == large


@pytest.mark.parametrize(
    "behaviour",
    ["shape", "rank", "datatype", "name", "short", "long", "huge", "closes", "garbage", "error", "no http"],
)
async def test_a_peer_that_lies_is_an_errno(node: Node, acme: Tenancy, peer: Peer, behaviour: str) -> None:
    await deploy(node, acme, peer.source)
    peer.behaviour = behaviour
    reply = await ask(acme)
    assert (reply.outcome, reply.status) == (Outcome.OK, 502)
    assert reply.body.startswith(b"compute: ")
    assert reply.receipt.inferences == 1
    assert peer.inferences == 1  # never again: it may have begun
    peer.behaviour = "echo"
    assert (await ask(acme)).body == VALUES


async def test_outputs_may_come_as_json(node: Node, acme: Tenancy, peer: Peer) -> None:
    await deploy(node, acme, peer.source)
    peer.behaviour = "json"
    assert (await ask(acme)).body == VALUES


async def test_a_peer_that_takes_json_alone(node: Node, acme: Tenancy, peer: Peer) -> None:
    peer.extensions = ()
    await deploy(node, acme, peer.source)
    assert (await ask(acme)).body == VALUES
    reply = await ask(acme, bytes(1 << 20))
    assert (reply.status, reply.body) == (502, b"compute: TooLarge\n")
    assert peer.inferences == 1


async def test_a_dead_peer_is_an_errno(node: Node, acme: Tenancy) -> None:
    async with listening() as (peer, _):
        await deploy(node, acme, peer.source)
    for _ in range(2):  # found out, then known
        reply = await ask(acme)
        assert (reply.outcome, reply.status) == (Outcome.OK, 502)
        assert reply.body.startswith(b"compute: ")


async def test_the_deadline_ends_it_and_the_peer_is_left(node: Node, acme: Tenancy, peer: Peer) -> None:
    await deploy(node, acme, peer.source, timeout="500ms")
    peer.behaviour = "slow"
    reply = await ask(acme)
    assert reply.outcome in (Outcome.INFERENCE_TIMEOUT, Outcome.DEADLINE_EXCEEDED)
    assert reply.receipt.inferences == 1
    async with asyncio.timeout(WAIT_S):
        await peer.left.wait()


async def test_max_time_ends_one_inference_alone(node: Node, acme: Tenancy, peer: Peer) -> None:
    await deploy(node, acme, peer.source, bounds=", max_time: 200ms")
    peer.behaviour = "slow"
    reply = await ask(acme)
    assert (reply.outcome, reply.status) == (Outcome.OK, 502)
    async with asyncio.timeout(WAIT_S):
        await peer.left.wait()


async def test_a_caller_that_leaves_takes_the_inference_with_it(node: Node, acme: Tenancy, peer: Peer) -> None:
    await deploy(node, acme, peer.source)
    peer.behaviour = "slow"
    call = asyncio.create_task(ask(acme))
    async with asyncio.timeout(WAIT_S):
        await peer.hung.wait()
        call.cancel()
        await peer.left.wait()
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        {},
        METADATA | {"inputs": []},
        METADATA | {"inputs": [SPEC, SPEC]},
        METADATA | {"inputs": [SPEC | {"datatype": "BYTES"}]},
        METADATA | {"outputs": [SPEC | {"shape": [-2]}]},
        METADATA | {"more": "x" * 300_000},
    ],
)
async def test_metadata_that_is_none_is_refused(node: Node, peer: Peer, metadata: object) -> None:
    peer.metadata = metadata
    with pytest.raises(InvalidModel):
        await node.model_uploads.register(model=parse_model("far"), source=peer.source)


@pytest.mark.parametrize(
    "source",
    [
        "http://h:1/m@1", "oip+ftp://h/m@1", "oip+http://h/m", "oip+http://h/@1", "oip+http://h/m@", "oip+http:///m@1",
        "oip+http://u:p@h/m@1", "oip+http://h/m@1?q", "oip+http://h/m@1#f", "oip+http://h/../m@1", "oip+http://h//m@1",
        "oip+http://h:99999/m@1", "oip+http://h h/m@1", "oip+http://h/m\r\n@1", "oip+http://[::1/m@1", "", "m@1",
    ],
)  # fmt: skip
def test_what_is_no_source(source: str) -> None:
    with pytest.raises(InvalidModel):
        parse_source(source)


def test_sources() -> None:
    assert parse_source("oip+https://h/a/b/m@2").url == "https://h:443/a/b/v2/models/m/versions/2"
    assert parse_source("oip+http://[::1]:8/m@1").url == "http://[::1]:8/v2/models/m/versions/1"


RUNTIME = """
import numpy, onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Onnx(MLModel):
    async def load(self):
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri)
        return True

    async def predict(self, payload):
        given = {one.name: NumpyCodec.decode_input(one) for one in payload.inputs}
        outputs = self.session.run(None, given)
        names = [one.name for one in self.session.get_outputs()]
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[NumpyCodec.encode_output(name, value) for name, value in zip(names, outputs)],
        )
"""


@pytest.mark.skipif(MLSERVER is None, reason="WISP_MLSERVER names no Python with mlserver and onnxruntime")
async def test_a_real_mlserver(node: Node, acme: Tenancy, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "runtime.py").write_text(textwrap.dedent(RUNTIME))
    (tmp_path / "settings.json").write_text(
        json.dumps(
            {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2, "parallel_workers": 0,
             "host": "127.0.0.1"}
        )
    )  # fmt: skip
    row = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
    settings = {
        "name": "far", "implementation": "runtime.Onnx", "inputs": [row],
        "outputs": [row | {"name": "y", "shape": [-1, 2]}],
        "parameters": {"uri": str(TINY_MODELS / "batch_rows.onnx"), "version": "1"},
    }  # fmt: skip
    (tmp_path / "model-settings.json").write_text(json.dumps(settings))
    assert MLSERVER is not None
    process = subprocess.Popen(
        [MLSERVER, "-m", "mlserver.cli.main", "start", str(tmp_path)],
        cwd=tmp_path, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(WAIT_S), httpx.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    answer = await client.get(f"http://127.0.0.1:{port}/v2/models/far/versions/1/ready")
                    if answer.status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                assert process.poll() is None
                await asyncio.sleep(0.2)
        await deploy(node, acme, f"oip+http://127.0.0.1:{port}/far@1")
        rows = struct.pack("<8f", 1, 2, 3, 4, 5, 6, 7, 8)
        reply = await acme.call("infer", rows, query=b"graph=far&type=f32&dims=2,4")
        told = [line.text for line in node.tenantlog.lines(acme.name, parse_function("infer"))]
        assert (reply.outcome, reply.status, reply.body) == (Outcome.OK, 200, struct.pack("<4f", 4, 6, 12, 14)), told
    finally:
        process.kill()
        process.wait(WAIT_S)


async def test_only_the_operator_registers_a_source(node: Node, acme: Tenancy, peer: Peer) -> None:
    transport = httpx.ASGITransport(app=create_app(node, Metrics()))
    as_operator, as_tenant = ({"authorization": f"Bearer {key}"} for key in (OPERATOR_KEY, acme.secret))
    async with httpx.AsyncClient(transport=transport, base_url="http://wisp") as client:
        for path, headers, status in (
            ("/v1/models/far", as_operator, 201),
            ("/v1/models/far", as_operator, 200),
            ("/v1/models/far", as_tenant, 403),
            ("/v1/tenants/acme/models/far", as_tenant, 422),  # taken for a model's bytes
        ):
            answer = await client.put(path, json={"source": peer.source}, headers=headers)
            assert answer.status_code == status, answer.text
        shown = (await client.get("/v1/models/far", headers=as_operator)).json()
        assert (shown["source"], shown["bytes"]) == (peer.source, 0)
        assert shown["inputs"] == [{"name": "x", "dtype": "float32", "shape": [-1]}]
        assert (await client.delete("/v1/models/far", headers=as_operator)).status_code == 204
        other = await client.put("/v1/models/far", json={"source": "oip+http://127.0.0.1:1/m@1"}, headers=as_operator)
        assert (other.status_code, other.json()["code"]) == (422, "invalid_model")

"""A tenant's models, served by `/t/{tenant}/v2` under a key, as remote models for another tenant's guests."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from platforms import HANDLER_POLICY, OPERATOR_KEY, REPOSITORY, TINY_MODELS
from serving import Serving, serving
from wisp.api.bodies import ModelSource, parse_json
from wisp.bearers import Bearers
from wisp.errors import InvalidRequest, NotFound, RegistryUnavailable
from wisp.names import parse_digest, parse_model
from wisp.node import Node
from wisp.registry.bearers import ModelBearers
from wisp.registry.cipher import SecretCipher
from wisp.registry.keys import Kind, key
from wisp.wire.tensors import ElementType, TensorSpec

INFER = (REPOSITORY / "tests" / "guests" / "infer" / "module.wasm").read_bytes()
ROWS = struct.pack("<8f", 1, 2, 3, 4, 5, 6, 7, 8)
WAIT_S = 30.0
FAR = "/v1/models/far"
SOURCE = "oip+http://far:1/m@1"
DIGEST = parse_digest("sha256:" + "0" * 64)


class Platform:
    def __init__(self, served: Serving, client: httpx.Client) -> None:
        self.client = client
        self.source = f"oip+http://127.0.0.1:{served.port}/t/acme/rows@1"

    def ask(self, method: str, path: str, secret: str = OPERATOR_KEY, **more: object) -> httpx.Response:
        headers = {"authorization": f"Bearer {secret}"}
        return self.client.request(method, path, headers=headers, **more)  # type: ignore[arg-type]

    def join(self, name: str) -> str:
        made = self.ask("POST", "/v1/tenants", json={"tenant": name, "class": "standard"})
        assert made.status_code == 201, made.text
        secret: str = made.json()["key"]["secret"]
        return secret

    def issue(self) -> tuple[str, str]:
        """The id and the secret of a key that may invoke acme's."""
        made = self.ask("POST", "/v1/tenants/acme/keys", json={"role": "invoke"})
        assert made.status_code == 201, made.text
        return made.json()["id"], made.json()["secret"]

    def register(self, **more: str) -> httpx.Response:
        return self.ask("PUT", FAR, json={"source": self.source} | more)

    def deploy(self, tenant: str, model: str) -> None:
        policy = HANDLER_POLICY + b"limits: {timeout: 10s}\nmodels:\n- {name: m, model: %s@1}\n" % model.encode()
        form = {"module": ("m", INFER), "policy": ("p", policy)}
        answer = self.ask("PUT", f"/v1/tenants/{tenant}/functions/infer", files=form)
        assert answer.status_code == 201, answer.text

    def infer(self, tenant: str, secret: str) -> httpx.Response:
        return self.ask("POST", f"/t/{tenant}/infer?graph=m&type=f32&dims=2,4", secret, content=ROWS)


def refused_there(here: Platform, secret: str) -> bool:
    """What is remembered of a machine is told by a plain index, for a moment."""
    index = "/t/globex/v2/repository/index"
    ready = here.ask("POST", index, secret, json={"ready": True}).json()
    (row,) = here.ask("POST", index, secret).json()
    return (ready, row["state"], row["reason"]) == ([], "UNAVAILABLE", "on another machine: it answers 401")


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_guest_infers_with_a_model_that_wisp_serves_under_a_key(tmp_path: Path) -> None:
    with (
        serving(tmp_path) as served,
        httpx.Client(base_url=served.url, timeout=WAIT_S, trust_env=False) as client,
    ):
        here = Platform(served, client)
        acme, globex = here.join("acme"), here.join("globex")
        model = (TINY_MODELS / "batch_rows.onnx").read_bytes()
        assert here.ask("PUT", "/v1/tenants/acme/models/rows", content=model).status_code == 201
        for wrong in ({}, {"bearer": "wrong-bearer"}):
            refused = here.register(**wrong)
            assert (refused.status_code, refused.json()["code"]) == (422, "invalid_model")
            assert "401" in refused.json()["detail"]
            assert "wrong-bearer" not in refused.text
        assert here.ask("GET", FAR).status_code == 404

        first, secret = here.issue()
        created = here.register(bearer=secret)
        assert created.status_code == 201, created.text
        here.deploy("acme", "rows")
        here.deploy("globex", "far")
        local, remote = here.infer("acme", acme), here.infer("globex", globex)
        assert (local.status_code, remote.status_code) == (200, 200), remote.text
        assert local.content == remote.content == struct.pack("<4f", 4, 6, 12, 14)
        message = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [1, 2, 3, 4, 5, 6, 7, 8]}]}
        answer = here.ask("POST", "/t/globex/v2/models/far/infer", globex, json=message)
        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"][0]["data"] == [4, 6, 12, 14]

        ready = {"name": "far", "version": "1", "state": "READY", "reason": ""}
        listed = here.ask("POST", "/t/globex/v2/repository/index", globex, json={"ready": True})
        assert listed.json() == [ready], "it was asked with its bearer"

        assert here.ask("DELETE", f"/v1/tenants/acme/keys/{first}").status_code == 204
        until(lambda: here.infer("globex", globex).status_code == 502)
        failed = here.infer("globex", globex)
        assert (failed.status_code, failed.text) == (502, "compute: RuntimeError\n")
        logs = here.ask("GET", "/v1/tenants/globex/functions/infer/logs").text
        assert "it answers 401" in logs
        answer = here.ask("POST", "/t/globex/v2/models/far/infer", globex, json=message)
        assert (answer.status_code, answer.json()["code"]) == (502, "remote_failed")
        assert "it answers 401" in answer.json()["detail"]

        until(lambda: refused_there(here, globex))
        _, other = here.issue()
        replaced = here.register(bearer=other)
        assert (replaced.status_code, replaced.json()) == (200, created.json())
        until(lambda: here.infer("globex", globex).status_code == 200)

        shown = here.ask("GET", FAR).text + here.ask("GET", "/v1/models").text + logs
        assert here.ask("DELETE", "/v1/tenants/globex/functions/infer").status_code == 204
        assert here.ask("DELETE", FAR).status_code == 204
        written = [served.log, *(path for path in (tmp_path / "data").rglob("*") if path.is_file())]
        for bearer in (secret, other, "wrong-bearer"):
            assert bearer not in shown
            assert not [path for path in written if bearer.encode() in path.read_bytes()]


@pytest.mark.parametrize("bearer", ["", "two words", "line\r\nx-more: 1", "ümlaut", "x" * 4097, 7])
def test_what_is_no_bearer_is_refused_unseen(bearer: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_json(json.dumps({"source": SOURCE, "bearer": bearer}).encode(), ModelSource)
    assert refused.value.message.startswith("bearer: ")
    assert "x-more" not in str(refused.value.__cause__)


async def test_bearers_are_sealed_replaced_and_removed_with_the_model(node: Node) -> None:
    connection, name = node.registry.connection, parse_model("far")
    spec = (TensorSpec(name="x", dtype=ElementType.F32, shape=(-1,)),)
    stored = ModelBearers(connection, node.secrets.cipher)
    bearers = Bearers(stored)
    with pytest.raises(NotFound):
        await bearers.put(name, 1, SOURCE, "first-bearer")

    async def register() -> int:
        made, _ = await node.registry.models.put(
            None,
            name,
            digest=DIGEST,
            size_bytes=0,
            inputs=spec,
            outputs=spec,
            source=SOURCE,
        )
        return made.version

    version = await register()
    assert await bearers.of("far@1", SOURCE) == ""
    for bearer in ("first-bearer", "second-bearer"):
        await bearers.put(name, version, SOURCE, bearer)
        assert await bearers.of("far@1", SOURCE) == bearer
        (sealed,) = (await connection.hash_all(key(None, Kind.BEARERS))).values()
        assert bearer.encode() not in sealed
    with pytest.raises(RegistryUnavailable):
        await bearers.of("far@1", "oip+http://other:1/m@1")
    with pytest.raises(RegistryUnavailable):
        ModelBearers(connection, SecretCipher(bytes(32))).open("far@1", SOURCE, sealed)
    await bearers.put(name, version, SOURCE, "")
    assert await bearers.of("far@1", SOURCE) == ""
    await bearers.put(name, version, SOURCE, "third-bearer")
    await node.registry.models.delete(None, name)
    assert await stored.all() == {}
    assert await register() == version + 1
    assert await bearers.of(f"far@{version + 1}", SOURCE) == ""

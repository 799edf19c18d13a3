"""`/t/{tenant}/v2`, as the protocol's own clients speak it, to a platform of its own."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from platforms import OPERATOR_KEY, TINY_MODELS
from served import processes_of
from serving import Serving, serving

WAIT_S = 30.0
DTYPES = ("f16", "f32", "f64", "u8", "i32", "i64")
NUMPY = {"f16": "float16", "f32": "float32", "f64": "float64", "u8": "uint8", "i32": "int32", "i64": "int64"}
OWN = ("batch_rows", "two_io", "static_2x3", "fails", "grow", *(f"identity_{name}" for name in DTYPES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One tenant's side of the platform, with an invoke key."""

    served: Serving
    name: str
    deploy: str
    invoke: str

    @property
    def base(self) -> str:
        return f"{self.served.url}/t/{self.name}/v2"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.invoke}"}

    def triton(self) -> triton.InferenceServerClient:
        return triton.InferenceServerClient(f"127.0.0.1:{self.served.port}/t/{self.name}", network_timeout=WAIT_S)

    def post(self, path: str, message: object, key: str | None = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {key or self.invoke}"}
        return httpx.post(f"{self.base}{path}", json=message, headers=headers, timeout=WAIT_S)

    def get(self, path: str, key: str | None = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {key or self.invoke}"}
        return httpx.get(f"{self.base}{path}", headers=headers, timeout=WAIT_S)

    def infer(
        self, model: str, inputs: dict[str, NDArray[Any]], *, binary: bool, outputs: tuple[str, ...] = (), **more: Any
    ) -> Any:
        asked = []
        for name, value in inputs.items():
            tensor = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
            tensor.set_data_from_numpy(value, binary_data=binary)
            asked.append(tensor)
        wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in outputs] or None
        with self.triton() as client:
            return client.infer(model, asked, outputs=wanted, headers=self.headers, **more)


def operator(served: Serving) -> httpx.Client:
    return httpx.Client(
        base_url=served.url, headers={"authorization": f"Bearer {OPERATOR_KEY}"}, timeout=WAIT_S, trust_env=False
    )


def join(served: Serving, name: str, class_name: str = "standard") -> Party:
    with operator(served) as client:
        made = client.post("/v1/tenants", json={"tenant": name, "class": class_name})
        assert made.status_code == 201, made.text
        deploy = made.json()["key"]["secret"]
        issued = client.post(f"/v1/tenants/{name}/keys", json={"role": "invoke"})
        assert issued.status_code == 201, issued.text
        return Party(served=served, name=name, deploy=deploy, invoke=issued.json()["secret"])


def push(served: Serving, path: str, model: str) -> None:
    with operator(served) as client:
        content = (TINY_MODELS / f"{model}.onnx").read_bytes()
        answer = client.put(path, content=content, headers={"content-type": "application/octet-stream"})
        assert answer.status_code == 201, answer.text


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("oip")) as started:
        yield started


@pytest.fixture(scope="module")
def acme(served: Serving) -> Party:
    party = join(served, "acme")
    for model in OWN:
        push(served, f"/v1/tenants/acme/models/{model.replace('_', '-')}", model)
    push(served, "/v1/models/endless", "endless")
    push(served, "/v1/models/shared", "identity_f32")
    push(served, "/v1/models/identity-u8", "identity_i64")  # hidden by acme's own
    return party


@pytest.fixture(scope="module")
def globex(served: Serving, acme: Party) -> Party:
    return join(served, "globex", "free")


def test_the_server_describes_itself(acme: Party) -> None:
    with acme.triton() as client:
        assert client.is_server_live(headers=acme.headers)
        assert client.is_server_ready(headers=acme.headers)
        found = client.get_server_metadata(headers=acme.headers)
        assert found["name"] == "wisp"
        assert "binary_tensor_data" in found["extensions"]


def test_a_model_is_described_and_ready(acme: Party) -> None:
    with acme.triton() as client:
        assert client.is_model_ready("batch-rows", headers=acme.headers)
        assert client.is_model_ready("batch-rows", "1", headers=acme.headers)
        assert not client.is_model_ready("batch-rows", "2", headers=acme.headers)
        assert not client.is_model_ready("nothing", headers=acme.headers)
        found = client.get_model_metadata("identity-i64", headers=acme.headers)
        assert found["versions"] == ["1"]
        assert found["inputs"] == [{"name": "x", "datatype": "INT64", "shape": [-1]}]
        assert found == client.get_model_metadata("identity-i64", "1", headers=acme.headers)


def test_the_index_has_own_and_shared_models(acme: Party, globex: Party) -> None:
    with acme.triton() as client:
        found = {(row["name"], row["version"], row["state"]) for row in client.get_model_repository_index(acme.headers)}
    assert {("batch-rows", "1", "READY"), ("shared", "1", "READY")} <= found
    with globex.triton() as client:
        theirs = {row["name"] for row in client.get_model_repository_index(globex.headers)}
    assert theirs == {"endless", "shared", "identity-u8"}


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("kind", DTYPES)
def test_each_type_as_bytes_and_as_json(acme: Party, kind: str, binary: bool) -> None:
    value = np.array([0, 1, 2, 100, 7], NUMPY[kind])
    if kind == "f16" and not binary:
        message = {"inputs": [{"name": "x", "datatype": "FP16", "shape": [5], "data": value.tolist()}]}
        answer = acme.post("/models/identity-f16/infer", message).json()  # the client itself sends no FP16 as JSON
        assert answer["outputs"][0] == {"name": "y", "datatype": "FP16", "shape": [5], "data": value.tolist()}
        return
    result = acme.infer(f"identity-{kind}", {"x": value}, binary=binary, outputs=("y",), request_id="r-1")
    returned = result.as_numpy("y")
    assert returned.dtype == value.dtype
    assert returned.tolist() == value.tolist()
    assert result.get_response()["model_name"] == f"identity-{kind}"
    assert result.get_response()["id"] == "r-1"


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_rows_together_are_the_rows_alone(acme: Party, binary: bool) -> None:
    with acme.triton() as client:
        (spec,) = client.get_model_metadata("batch-rows", headers=acme.headers)["inputs"]
    rows = np.random.default_rng(5).random((6, *spec["shape"][1:]), np.float32)
    together = acme.infer("batch-rows", {spec["name"]: rows}, binary=binary)
    name = together.get_response()["outputs"][0]["name"]
    for number, row in enumerate(rows):
        alone = acme.infer("batch-rows", {spec["name"]: row[None]}, binary=binary)
        np.testing.assert_allclose(together.as_numpy(name)[number], alone.as_numpy(name)[0], rtol=1e-5, atol=1e-6)


def test_all_outputs_come_where_none_is_asked_for(acme: Party) -> None:
    described = acme.get("/models/two-io").json()
    inputs = {spec["name"]: np.ones([2 if dim < 0 else dim for dim in spec["shape"]], np.float32)
              for spec in described["inputs"]}  # fmt: skip
    result = acme.infer("two-io", inputs, binary=True)
    assert [row["name"] for row in result.get_response()["outputs"]] == [spec["name"] for spec in described["outputs"]]


def test_a_large_tensor_goes_as_bytes(acme: Party) -> None:
    value = np.arange(500_000, dtype=np.float32)
    assert acme.infer("identity-f32", {"x": value}, binary=True).as_numpy("y").tolist() == value.tolist()
    with pytest.raises(InferenceServerException, match="bytes of JSON"):
        acme.infer("identity-f32", {"x": value}, binary=False)


def test_the_answer_carries_its_receipt(acme: Party) -> None:
    message = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [3], "data": [1, 2, 3]}]}
    answer = acme.post("/models/identity-f32/infer", message)
    assert answer.status_code == 200
    assert answer.json()["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [3], "data": [1, 2, 3]}]
    assert answer.headers["wisp-outcome"] == "ok"
    assert answer.headers["wisp-version"] == "1"
    assert answer.headers["wisp-inferences"] == "1"
    assert answer.headers["wisp-tensor-bytes"] == "24"
    assert int(answer.headers["wisp-nn-fuel"]) > 0
    assert answer.headers["wisp-fuel-used"] == answer.headers["wisp-nn-fuel"]
    assert "nn;dur=" in answer.headers["server-timing"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.zeros((3, 2), np.float32), "FP32 [2, 3], not FP32 [3, 2]"),
        (np.zeros((2, 3), np.float64), "FP32 [2, 3], not FP64 [2, 3]"),
        (np.zeros((2, 3), np.bool_), "datatype 'BOOL' is not one of"),
        (np.array([["a", "b", "c"]] * 2, np.object_), "datatype 'BYTES' is not one of"),
    ],
    ids=["shape", "dtype", "bool", "bytes"],
)
def test_what_the_model_does_not_take_is_told(acme: Party, value: NDArray[Any], said: str) -> None:
    for binary in (True, False):
        with pytest.raises(InferenceServerException) as refused:
            acme.infer("static-2x3", {"x": value}, binary=binary)
        assert refused.value.status() == "400"
        assert said in refused.value.message()


def test_a_refusal_is_a_problem_with_the_protocol_s_field(acme: Party) -> None:
    answer = acme.post("/models/static-2x3/infer", {"inputs": []})
    assert answer.status_code == 400
    assert answer.headers["wisp-error"] == "invalid_request; source=platform"
    found = answer.json()
    assert found["error"] == found["detail"] == "the request lacks input 'x'"
    assert found["code"] == "invalid_request"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/models/nothing", 404, "not_found"),
        ("GET", "/models/BATCH", 404, "not_found"),
        ("GET", "/models/identity-f32/versions/9", 404, "not_found"),
        ("POST", "/models/nothing/infer", 404, "not_found"),
        ("GET", "/models/identity-f32/infer", 405, "method_not_allowed"),
        ("POST", "/health/live", 405, "method_not_allowed"),
        ("POST", "/repository/models/identity-f32/unload", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_there(acme: Party, method: str, path: str, status: int, code: str) -> None:
    answer = httpx.request(method, f"{acme.base}{path}", headers=acme.headers, timeout=WAIT_S)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["error"]


def test_keys(acme: Party, globex: Party) -> None:
    assert acme.get("", key=acme.deploy).status_code == 200
    assert acme.get("", key="wisp_nothing").status_code == 401
    assert acme.get("", key=globex.invoke).status_code == 403
    assert acme.get("", key=OPERATOR_KEY).status_code == 401
    assert globex.get("/models/batch-rows").status_code == 404
    with operator(acme.served) as client:
        bound = client.post("/v1/tenants/acme/keys", json={"role": "invoke", "functions": ["digits"]}).json()["secret"]
    assert acme.get("/models/shared", key=bound).status_code == 403
    assert httpx.get(f"{acme.served.url}/t/nobody/v2", headers=acme.headers, timeout=WAIT_S).status_code == 403


def test_an_own_model_hides_the_shared_one(acme: Party, globex: Party) -> None:
    assert acme.get("/models/identity-u8").json()["inputs"][0]["datatype"] == "UINT8"
    assert globex.get("/models/identity-u8").json()["inputs"][0]["datatype"] == "INT64"


def test_a_model_that_fails_says_so(acme: Party) -> None:
    (spec,) = acme.get("/models/fails").json()["inputs"]
    shape = [2 if dim < 0 else dim for dim in spec["shape"]]
    message = {"inputs": [spec | {"shape": shape, "data": [1] * int(np.prod(shape))}]}
    answer = acme.post("/models/fails/infer", message)
    assert (answer.status_code, answer.json()["code"]) == (500, "inference_failed")
    assert answer.headers["wisp-outcome"] == "inference_failed"
    assert answer.headers["wisp-inferences"] == "1"


def forever(party: Party) -> dict[str, object]:
    (spec,) = party.get("/models/endless").json()["inputs"]
    shape = [1 if dim < 0 else dim for dim in spec["shape"]]
    return {"inputs": [spec | {"shape": shape, "data": [1] * int(np.prod(shape))}]}


def test_the_caller_s_timeout_ends_it_and_the_next_one_runs(acme: Party) -> None:
    answer = acme.post("/models/endless/infer", forever(acme) | {"parameters": {"timeout": 200_000}})
    assert (answer.status_code, answer.json()["code"]) == (504, "inference_timeout")
    assert answer.json()["limit"] == 200
    assert answer.headers["wisp-error"] == "inference_timeout; source=platform"
    assert int(answer.headers["wisp-nn-fuel"]) > 0
    test_the_answer_carries_its_receipt(acme)


def test_the_class_s_time_bounds_what_the_caller_asks_for(globex: Party) -> None:
    asked = forever(globex) | {"parameters": {"timeout": 3_600_000_000}}
    answer = globex.post("/models/endless/infer", asked)
    assert (answer.status_code, answer.json()["limit"]) == (504, 2000)


def test_a_host_that_dies_costs_that_request_alone(acme: Party) -> None:
    test_the_answer_carries_its_receipt(acme)
    hosts = [pid for pid, line in processes_of(acme.served.process.pid).items() if "wisp.inference.host" in line]
    for host in hosts:
        os.kill(host, signal.SIGKILL)
    message = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
    until = time.monotonic() + WAIT_S
    for model in ("shared", "identity-f32"):  # in the node's host, in the tenant's own
        while (answer := acme.post(f"/models/{model}/infer", message)).status_code != 200:
            assert answer.status_code == 503, answer.text
            assert time.monotonic() < until
        assert answer.json()["outputs"][0]["data"] == [1]


def test_a_body_beyond_the_class_s_is_refused(globex: Party) -> None:
    headers = globex.headers | {"inference-header-content-length": "100"}
    answer = httpx.post(
        f"{globex.base}/models/shared/infer", content=bytes((8 << 20) + 1), headers=headers, timeout=WAIT_S
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")


def test_no_function_is_called_v2(acme: Party) -> None:
    with operator(acme.served) as client:
        assert client.get("/v1/tenants/acme/functions/v2").json()["code"] == "invalid_name"
    assert json.loads(acme.get("").text)["name"] == "wisp"


def test_a_model_that_is_pushed_later_is_found(acme: Party) -> None:
    push(acme.served, "/v1/tenants/acme/models/late", "identity_f32")
    until = time.monotonic() + WAIT_S
    while acme.get("/models/late").status_code != 200:
        assert time.monotonic() < until


def test_inferences_are_in_the_tenant_s_usage(acme: Party) -> None:
    test_the_answer_carries_its_receipt(acme)
    until = time.monotonic() + WAIT_S
    while True:
        with operator(acme.served) as client:
            items = client.get("/v1/tenants/acme/usage").json()["items"]
        if any(item["function"] == "v2" and item["outcomes"].get("ok", 0) >= 1 for item in items):
            return
        assert time.monotonic() < until, items
        time.sleep(0.1)


def test_a_tenant_s_own_models_run_in_its_own_host(globex: Party) -> None:
    push(globex.served, "/v1/tenants/globex/models/mine", "identity_f32")
    message = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [4]}]}
    until = time.monotonic() + WAIT_S
    while (answer := globex.post("/models/mine/infer", message)).status_code != 200:
        assert answer.status_code in (404, 503), answer.text
        assert time.monotonic() < until
    hosts = [line for line in processes_of(globex.served.process.pid).values() if "wisp.inference.host" in line]
    assert len(hosts) >= 2


def test_a_suspended_tenant_infers_nothing(acme: Party) -> None:
    party = join(acme.served, "initech")
    assert party.get("").status_code == 200
    with operator(acme.served) as client:
        assert client.patch("/v1/tenants/initech", json={"suspended": True}).status_code == 200
    until = time.monotonic() + WAIT_S
    while (answer := party.get("")).status_code == 200:
        assert time.monotonic() < until
    assert (answer.status_code, answer.json()["code"]) == (403, "suspended")

"""A function's life over HTTP: upload, invoke, roll, suspend, read its log and policy, remove."""

from __future__ import annotations

import json

from api.conftest import Api, bearer
from platforms import HANDLER_POLICY, TINY_MODELS
from wat import answering, handler
from wisp.names import parse_function, parse_tenant

BASE = "/v1/tenants/acme/functions"


def form(module: bytes, policy: bytes = HANDLER_POLICY) -> dict[str, tuple[str, bytes]]:
    return {"module": ("m.wasm", module), "policy": ("p.yaml", policy)}


async def test_a_functions_life(api: Api) -> None:
    key = bearer(await api.tenant("acme"))
    first = await api.bare.put(f"{BASE}/greet", headers=key, files=form(answering(b"one")))
    assert first.status_code == 201, first.text
    assert {name: first.json()[name] for name in ("function", "version", "active", "abi", "url")} == {
        "function": "greet",
        "version": 1,
        "active": True,
        "abi": "handler",
        "url": "/t/acme/greet",
    }
    assert first.json()["grants"]["limits"]["timeout"] == "2s"
    again = await api.bare.put(f"{BASE}/greet", headers=key, files=form(answering(b"one")))
    assert (again.status_code, again.json()["version"]) == (200, 1)
    held = await api.bare.put(f"{BASE}/greet?activate=false", headers=key, files=form(answering(b"two")))
    assert (held.status_code, held.json()["version"], held.json()["active"]) == (201, 2, False)
    assert (await api.bare.get("/t/acme/greet", headers=key)).text == "one"

    rolled = await api.bare.post(f"{BASE}/greet/activate", headers=key, json={"version": 2})
    assert (rolled.json()["active"], rolled.json()["versions"]) == (2, [1, 2])
    answer = await api.bare.get("/t/acme/greet", headers=key)
    assert (answer.text, answer.headers["wisp-version"]) == ("two", "2")
    assert (await api.bare.post(f"{BASE}/greet/activate", headers=key, json={"version": 9})).status_code == 404

    versions = (await api.bare.get(f"{BASE}/greet/versions", headers=key)).json()
    assert [(one["version"], one["active"]) for one in versions["items"]] == [(1, False), (2, True)]
    assert versions["next"] is None

    assert (await api.bare.patch(f"{BASE}/greet", headers=key, json={"suspended": True})).json()["suspended"] is True
    assert (await api.bare.get("/t/acme/greet", headers=key)).json()["code"] == "suspended"
    await api.bare.patch(f"{BASE}/greet", headers=key, json={"suspended": False})
    assert (await api.bare.get("/t/acme/greet", headers=key)).status_code == 200

    assert [one["function"] for one in (await api.bare.get(BASE, headers=key)).json()["items"]] == ["greet"]
    assert (await api.bare.delete(f"{BASE}/greet", headers=key)).status_code == 204
    assert (await api.bare.get(f"{BASE}/greet", headers=key)).status_code == 404
    assert (await api.bare.get("/t/acme/greet", headers=key)).json()["code"] == "function_not_found"
    anew = await api.bare.put(f"{BASE}/greet", headers=key, files=form(answering(b"one")))
    assert anew.json()["version"] == 3
    assert api.staged() == []


async def test_a_policy_is_shown_as_written_and_as_granted_and_changed_alone(api: Api) -> None:
    key = bearer(await api.tenant("acme"))
    await api.bare.put(f"{BASE}/greet", headers=key, files=form(answering(b"hi")))
    written = await api.bare.get(f"{BASE}/greet/policy", headers=key)
    assert (written.content, written.headers["content-type"].split(";")[0]) == (HANDLER_POLICY, "application/yaml")
    granted = await api.bare.get(f"{BASE}/greet/policy?effective=1", headers=key)
    assert granted.json()["limits"]["fuel"] == 2_000_000_000
    changed = await api.bare.put(f"{BASE}/greet/policy", headers=key, content=HANDLER_POLICY + b"limits: {fuel: 5M}\n")
    assert (changed.status_code, changed.json()["version"], changed.json()["grants"]["limits"]["fuel"]) == (
        201,
        2,
        5_000_000,
    )
    refused = await api.bare.put(f"{BASE}/greet/policy", headers=key, content=HANDLER_POLICY + b"limits: {fuel: 50G}\n")
    assert (refused.status_code, refused.json()["code"]) == (422, "exceeds_ceiling")
    assert refused.json()["errors"][0]["line"] == 3
    large = await api.bare.put(f"{BASE}/greet/policy", headers=key, content=b"#" * 70_000)
    assert (large.status_code, large.json()["limit"]) == (413, 65536)


async def test_a_bad_upload_is_refused_with_its_faults_and_leaves_nothing(api: Api) -> None:
    key = bearer(await api.tenant("acme"))
    wrong = await api.bare.put(f"{BASE}/bad", headers=key, files=form(b"not wasm"))
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_module")
    unknown = await api.bare.put(
        f"{BASE}/bad", headers=key, files=form(answering(b""), b"wisp: 1\nabi: handler\nfoo: 1\n")
    )
    assert (unknown.status_code, unknown.json()["code"]) == (422, "invalid_policy")
    assert unknown.json()["errors"][0]["line"] == 3
    no_form = await api.bare.put(f"{BASE}/bad", headers=key, content=b"x")
    assert (no_form.status_code, no_form.json()["code"]) == (400, "invalid_request")
    assert (await api.bare.get(f"{BASE}/bad", headers=key)).status_code == 404
    assert api.staged() == []


async def test_a_log_tells_why_a_function_failed(api: Api) -> None:
    key = bearer(await api.tenant("acme"))
    await api.bare.put(f"{BASE}/trap", headers=key, files=form(handler("unreachable")))
    answer = await api.bare.get("/t/acme/trap", headers=key | {"x-request-id": "mine-1"})
    assert (answer.status_code, answer.json()["code"]) == (500, "guest_trap")
    logs = await api.bare.get(f"{BASE}/trap/logs", headers=key)
    lines = [json.loads(line) for line in logs.text.splitlines()]
    assert {line["request_id"] for line in lines} == {"mine-1"}
    assert lines[-1]["stream"] == "platform"
    assert lines[-1]["text"].startswith("guest_trap")
    assert lines[-1]["time"].endswith("Z")
    assert (await api.bare.get(f"{BASE}/nothing/logs", headers=key)).status_code == 404


async def test_models_are_versions_by_their_bytes(api: Api) -> None:
    key = bearer(await api.tenant("acme"))
    model = (TINY_MODELS / "identity_f32.onnx").read_bytes()
    made = await api.bare.put("/v1/tenants/acme/models/same", headers=key, content=model)
    assert made.status_code == 201, made.text
    assert (made.json()["version"], made.json()["bytes"]) == (1, len(model))
    assert made.json()["inputs"][0]["dtype"] == "float32"
    again = await api.bare.put("/v1/tenants/acme/models/same", headers=key, content=model)
    assert (again.status_code, again.json()["version"]) == (200, 1)
    shared = await api.as_operator.put("/v1/models/same", content=model)
    assert shared.status_code == 201
    bad = await api.bare.put("/v1/tenants/acme/models/bad", headers=key, content=b"not a model")
    assert (bad.status_code, bad.json()["code"]) == (422, "invalid_model")
    policy = HANDLER_POLICY + b"models: [{name: m, model: same}]\n"
    await api.bare.put(f"{BASE}/infers", headers=key, files=form(answering(b"hi"), policy))
    pinned = await api.bare.delete("/v1/tenants/acme/models/same", headers=key)
    assert (pinned.status_code, pinned.json()["code"]) == (409, "in_use")
    await api.bare.delete(f"{BASE}/infers", headers=key)
    assert (await api.bare.delete("/v1/tenants/acme/models/same", headers=key)).status_code == 204
    assert (await api.bare.get("/v1/tenants/acme/models/same", headers=key)).status_code == 404
    assert api.staged() == []


async def test_tenants_are_made_once_changed_and_removed_whole(api: Api) -> None:
    key = bearer(await api.tenant("acme"))
    twice = await api.as_operator.post("/v1/tenants", json={"tenant": "acme"})
    assert (twice.status_code, twice.json()["code"]) == (409, "conflict")
    unknown = await api.as_operator.post("/v1/tenants", json={"tenant": "other", "class": "gold"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "invalid_name")
    assert (await api.as_operator.get("/v1/tenants/other")).status_code == 404
    assert (await api.as_operator.patch("/v1/tenants/acme", json={"class": "free"})).json()["class"] == "free"
    assert (await api.as_operator.patch("/v1/tenants/acme", json={})).status_code == 400
    await api.bare.put(f"{BASE}/greet", headers=key, files=form(answering(b"hi")))
    assert (await api.bare.get("/t/acme/greet", headers=key)).status_code == 200
    assert (await api.as_operator.delete("/v1/tenants/acme")).status_code == 204
    assert (await api.bare.get("/t/acme/greet", headers=key)).status_code == 401
    assert 'tenant="acme"' not in api.metrics.exposition()[0].decode()
    await api.tenant("acme")
    assert (await api.as_operator.get(BASE)).json()["items"] == []


async def test_denials_teach_the_tenant_and_not_the_caller(api: Api) -> None:
    key = bearer(await api.tenant("acme"))
    model = (TINY_MODELS / "identity_f32.onnx").read_bytes()
    await api.bare.put("/v1/tenants/acme/models/same", headers=key, content=model)
    load = """(import "wasi_ephemeral_nn" "load_by_name" (func $load (param i32 i32 i32) (result i32)))"""
    tries = "(drop (call $load (i32.const 100) (i32.const 6) (i32.const 200))) (i64.const 0)"
    spy = handler(tries, before=load, data='(data (i32.const 100) "secret")')
    policy = HANDLER_POLICY + b"models: [{name: a, model: same}]\n"
    deployed = await api.bare.put(f"{BASE}/spy", headers=key, files=form(spy, policy))
    assert deployed.status_code == 201, deployed.text
    assert (await api.bare.get(f"{BASE}/spy/denials", headers=key)).json()["items"] == []
    answer = await api.bare.get("/t/acme/spy", headers=key | {"x-request-id": "mine-2"})
    assert (answer.status_code, answer.json()["code"]) == (500, "capability_denied")
    assert "secret" not in answer.text
    (event,) = (await api.bare.get(f"{BASE}/spy/denials", headers=key)).json()["items"]
    assert event.pop("time").endswith("Z")
    assert event == {
        "request_id": "mine-2",
        "version": 1,
        "capability": "models",
        "tried": "model 'secret'",
        "allow": "models: [{name: 'secret', model: …}]",
        "ceiling_allows": True,
    }
    assert (await api.bare.get(f"{BASE}/nothing/denials", headers=key)).status_code == 404
    await api.bare.delete(f"{BASE}/spy", headers=key)
    assert api.node.denials.events(parse_tenant("acme"), parse_function("spy")) == []

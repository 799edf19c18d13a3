"""The operator's documents over HTTP: read, changed, foreseen, remembered; modules explained; schemas."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from api.conftest import Api, bearer
from platforms import HANDLER_POLICY, OPERATOR_KEY, TENANTS, Tenancy
from test_policybook import BROKEN, LOWER, WORKING, document, settings
from wat import answering, handler
from wisp.api.app import create_app
from wisp.node import Node
from wisp.policy.parse import parse_policy
from wisp.policy.scanner import MAX_BYTES
from wisp.registry.records import Role
from wisp.telemetry import Metrics

CEILING = "/v1/policies/ceiling"
ONE_MILLION = (b"fuel: 20G", b"fuel: 1M")


async def test_the_documents_are_listed_and_read_as_they_were_written(api: Api) -> None:
    listed = (await api.as_operator.get("/v1/policies")).json()["items"]
    assert [(row["name"], row["source"], row["author"]) for row in listed] == [
        (name, "redis", "packaged") for name in ("ceiling", "class-free", "class-standard")
    ]
    assert all("faults" not in row and row["updated"].endswith("Z") for row in listed)
    answer = await api.as_operator.get(CEILING)
    assert (answer.content, answer.headers["content-type"].partition(";")[0]) == (
        document("ceiling"),
        "application/yaml",
    )
    assert answer.headers["etag"] == f'"{listed[0]["digest"]}"'


async def test_a_change_is_answered_applied_and_remembered(api: Api, node: Node, acme: Tenancy) -> None:
    await acme.deploy("work", WORKING)
    call = "/t/acme/work"
    assert (await api.bare.get(call, headers=bearer(acme.secret))).status_code == 200
    answer = await api.as_operator.put(CEILING, content=LOWER)
    assert answer.status_code == 200
    placed = answer.json()
    assert (placed["changed"], placed["pending"], placed["author"]) == (True, [], "operator")
    refused = await api.bare.get(call, headers=bearer(acme.secret))
    assert (refused.status_code, refused.json()["code"], refused.json()["limit"]) == (500, "fuel_exhausted", 500_000)
    assert refused.headers["wisp-version"] == "1"
    newest, first = (await api.as_operator.get(f"{CEILING}/history")).json()["items"]
    assert (newest["author"], newest["digest"], newest["generation"]) == (
        "operator",
        placed["digest"],
        placed["generation"],
    )
    changed = [line for line in newest["diff"].splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert [line.count("fuel: 500k") for line in changed] == [0, 1]
    assert first["author"] == "packaged"
    assert first["diff"].startswith("--- /dev/null")
    again = await api.as_operator.put(CEILING, content=LOWER)
    assert (again.status_code, again.json()["changed"]) == (200, False)
    assert len((await api.as_operator.get(f"{CEILING}/history")).json()["items"]) == 2


async def test_a_broken_document_is_refused_with_all_its_faults(api: Api) -> None:
    text = BROKEN.replace(b"timeout: 30s", b"timeout: soon").replace(b"clock: real", b"clock: sun")
    answer = await api.as_operator.put(CEILING, content=text)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_policy")
    fields = {fault["field"]: fault["line"] for fault in answer.json()["errors"]}
    assert {"limits.fule", "limits.timeout", "clock"} <= fields.keys()
    assert all(fields.values())
    assert (await api.as_operator.get(CEILING)).content == document("ceiling")
    long = await api.as_operator.put(CEILING, content=b"#" * (MAX_BYTES + 1))
    assert (long.status_code, long.json()["code"]) == (413, "request_too_large")


async def test_a_change_may_depend_on_what_was_read(api: Api) -> None:
    tag = (await api.as_operator.get(CEILING)).headers["etag"]
    for given, status in (('"other"', 412), ('"sha256:' + "0" * 64 + '"', 412), ("nonsense", 400), ("", 412)):
        answer = await api.as_operator.put(CEILING, content=LOWER, headers={"if-match": given})
        assert answer.status_code == status, given
    answer = await api.as_operator.put(CEILING, content=LOWER, headers={"if-match": f'"other", {tag}'})
    assert answer.status_code == 200
    stale = await api.as_operator.put(CEILING, content=document("ceiling"), headers={"if-match": tag})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    current = answer.headers["etag"]
    assert (await api.as_operator.get(CEILING)).headers["etag"] == current
    assert (
        await api.as_operator.put(CEILING, content=document("ceiling"), headers={"if-match": "*"})
    ).status_code == 200
    new = await api.as_operator.put("/v1/policies/class-new", content=document("class-free"), headers={"if-match": "*"})
    assert new.status_code == 412


async def test_a_dry_run_says_whom_it_would_touch_and_touches_nobody(api: Api, acme: Tenancy, globex: Tenancy) -> None:
    await acme.deploy("small", WORKING, HANDLER_POLICY + b"limits: {fuel: 1M}\n")
    await acme.deploy("large", WORKING, HANDLER_POLICY + b"limits: {fuel: 10G}\n")
    await globex.deploy("default", WORKING)
    answer = await api.as_operator.put(f"{CEILING}?dry_run=1", content=document("ceiling", ONE_MILLION))
    assert answer.status_code == 200
    loses = {"field": "limits.fuel", "to": "1M", "effect": "loses"}
    assert answer.json() == {
        "name": "ceiling",
        "dry_run": True,
        "new": False,
        "changes": [loses | {"from": "20G"}],
        "items": [
            {"tenant": "acme", "function": "large", "version": 1, "changes": [loses | {"from": "10G"}]},
            {"tenant": "globex", "function": "default", "version": 1, "changes": [loses | {"from": "1G"}]},
        ],
    }
    assert (await api.as_operator.get(CEILING)).content == document("ceiling")
    assert len((await api.as_operator.get(f"{CEILING}/history")).json()["items"]) == 1
    broken = await api.as_operator.put(f"{CEILING}?dry_run=1", content=BROKEN)
    assert (broken.status_code, broken.json()["code"]) == (422, "invalid_policy")


async def test_a_class_may_come_but_not_under_any_name(api: Api) -> None:
    text = document("class-free")
    foreseen = await api.as_operator.put("/v1/policies/class-tiny?dry_run=1", content=text)
    assert (foreseen.json()["new"], foreseen.json()["items"]) == (True, [])
    assert (await api.as_operator.get("/v1/policies/class-tiny")).status_code == 404
    assert (await api.as_operator.put("/v1/policies/class-tiny", content=text)).status_code == 200
    assert (await api.as_operator.get("/v1/policies/class-tiny")).content == text
    made = await api.as_operator.post("/v1/tenants", json={"tenant": "small", "class": "tiny"})
    assert made.status_code == 201
    for name in ("free", "class-", "class-Free", "class--a", "Ceiling", "ceiling.yaml"):
        answer = await api.as_operator.put(f"/v1/policies/{name}", content=text)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_name"), name
        for path in (f"/v1/policies/{name}", f"/v1/policies/{name}/history"):
            assert (await api.as_operator.get(path)).status_code == 404
    assert (await api.as_operator.delete("/v1/policies/class-tiny")).status_code == 405


async def test_only_the_operator_sees_or_changes_them(api: Api) -> None:
    secret = await api.tenant("acme")
    for method, path in (("GET", "/v1/policies"), ("GET", CEILING), ("PUT", CEILING), ("GET", f"{CEILING}/history")):
        assert (await api.bare.request(method, path, content=LOWER)).status_code == 401
        assert (await api.bare.request(method, path, content=LOWER, headers=bearer(secret))).status_code == 403


async def test_a_node_that_lags_is_named(api: Api, node: Node) -> None:
    await node.registry.policies.pulse("edge-7", 0)
    answer = await api.as_operator.put(CEILING, content=LOWER)
    assert (answer.status_code, answer.json()["pending"]) == (202, ["edge-7"])


async def test_what_is_broken_in_the_registry_is_shown_with_its_line(api: Api, node: Node) -> None:
    await node.registry.policies.put("ceiling", BROKEN, author="operator")
    async with asyncio.timeout(20):
        while not node.book.faults:
            await asyncio.sleep(0.02)
    row, *_ = (await api.as_operator.get("/v1/policies")).json()["items"]
    assert any(fault["field"] == "limits.fule" and fault["line"] for fault in row["faults"])
    assert row["author"] == "packaged"
    ready = await api.bare.get("/readyz")
    assert (ready.status_code, ready.json()["policies"]) == (200, {"source": "redis", "faulty": ["ceiling"]})


@pytest.fixture
async def filed(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    shutil.copytree(TENANTS.parent / "policies", tmp_path / "policies")
    async with Node(settings(tmp_path / "data", policies=str(tmp_path / "policies"))) as node:
        transport = httpx.ASGITransport(app=create_app(node, Metrics()))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://wisp", headers=bearer(OPERATOR_KEY)
        ) as client:
            yield client


async def test_files_are_shown_and_foreseen_but_not_put(filed: httpx.AsyncClient, tmp_path: Path) -> None:
    answer = await filed.put(CEILING, content=LOWER)
    assert (answer.status_code, answer.json()["code"]) == (409, "policy_from_file")
    foreseen = await filed.put(f"{CEILING}?dry_run=1", content=LOWER)
    assert [change["field"] for change in foreseen.json()["changes"]] == ["limits.fuel"]
    (tmp_path / "policies" / "class-new.yaml").write_bytes(b"wisp: 1\nkind: class\nweight: heavy\n")
    async with asyncio.timeout(20):
        while len(rows := (await filed.get("/v1/policies")).json()["items"]) < 4:
            await asyncio.sleep(0.05)
    assert [(row["name"], row["source"], row.get("author")) for row in rows] == [
        ("ceiling", "file", "file"),
        ("class-free", "file", "file"),
        ("class-new", "file", None),
        ("class-standard", "file", "file"),
    ]
    assert any(fault["line"] == 3 for fault in rows[2]["faults"])
    (change,) = (await filed.get(f"{CEILING}/history")).json()["items"]
    assert (change["author"], change["source"]) == ("file", "file")


async def explained(
    client: httpx.AsyncClient, module: bytes, policy: bytes, secret: str | None = None, query: str = ""
) -> httpx.Response:
    headers = {} if secret is None else bearer(secret)
    return await client.post(
        f"/v1/policies:explain{query}", files={"module": module, "policy": policy}, headers=headers
    )


@pytest.mark.parametrize("function", ["acme/hello", "acme/digits", "globex/classify"])
async def test_the_examples_are_explained(api: Api, function: str) -> None:
    folder = TENANTS / function
    module, policy = (folder / "module.wasm").read_bytes(), (folder / "policy.yaml").read_bytes()
    answer = await explained(api.as_operator, module, policy)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["refused"] == []
    assert all(row["granted"] for row in found["imports"])
    for row in found["imports"]:
        if row["import"].startswith("wasi_ephemeral_nn."):
            assert row["by"] == "models"
            assert policy.splitlines()[row["line"] - 1].startswith(b"models:")
    least = await explained(api.as_operator, module, found["least_policy"].encode())
    assert (least.json()["refused"], least.json()["unused"]) == ([], [])
    named = [entry.name for entry in parse_policy(found["least_policy"].encode()).models]
    assert named == [entry.name for entry in parse_policy(policy).models]


async def test_the_least_policy_deploys_and_the_module_runs_under_it(api: Api, acme: Tenancy) -> None:
    module = (TENANTS / "acme" / "hello" / "module.wasm").read_bytes()
    found = (await explained(api.bare, module, HANDLER_POLICY, acme.secret)).json()
    await acme.deploy("hello", module, found["least_policy"].encode())
    assert (await acme.call("hello")).status == 200


async def test_what_is_missing_unused_or_above_is_told_to_any_key_by_its_own_class(
    api: Api, node: Node, globex: Tenancy
) -> None:
    module = handler("(i64.const 0)", before='(import "wasi_ephemeral_nn" "compute" (func (param i32) (result i32)))')
    policy = HANDLER_POLICY + b"limits: {fuel: 3G}\nenvironment: {A: b}\n"
    _, invoke = await node.registry.keys.issue(globex.name, Role.INVOKE)
    for secret in (globex.secret, invoke):
        answer = await explained(api.bare, module, policy, secret)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["imports"] == [
            {
                "import": "wasi_ephemeral_nn.compute",
                "needs": ["models", "inline_models"],
                "granted": False,
                "by": None,
                "line": None,
            }
        ]
        assert [(fault["field"], fault["line"]) for fault in found["unused"]] == [("environment", 4)]
        assert [fault["field"] for fault in found["refused"]] == ["limits.fuel", "models"]
        assert found["refused"][0]["allowed"] == "2G"
    larger = (await explained(api.as_operator, module, policy, query="?class=standard")).json()
    assert [fault["field"] for fault in larger["refused"]] == ["models"]
    assert (await node.registry.functions.list(globex.name)) == ()
    assert api.staged() == []


async def test_what_cannot_be_explained_is_refused(api: Api, acme: Tenancy) -> None:
    module = answering(b"hello")
    for bad, policy, query, secret, expected in (
        (b"no module", HANDLER_POLICY, "", acme.secret, (422, "invalid_module")),
        (module, b"wisp: 1\nabi: owl\n", "", acme.secret, (422, "invalid_policy")),
        (module, HANDLER_POLICY, "?class=free", acme.secret, (400, "invalid_request")),
        (module, HANDLER_POLICY, "?class=none", None, (404, "not_found")),
        (module, HANDLER_POLICY, "?class=No", None, (422, "invalid_name")),
    ):
        client = api.as_operator if secret is None else api.bare
        answer = await explained(client, bad, policy, secret, query)
        assert (answer.status_code, answer.json()["code"]) == expected
    assert (await explained(api.bare, module, HANDLER_POLICY)).status_code == 401
    await api.node.registry.tenants.patch(acme.name, suspended=True)
    assert (await explained(api.bare, module, HANDLER_POLICY, acme.secret)).json()["code"] == "suspended"


async def test_schemas_are_served_to_everybody(api: Api) -> None:
    for kind in ("policy", "ceiling", "class"):
        answer = await api.bare.get(f"/v1/schemas/{kind}.json")
        assert answer.headers["content-type"] == "application/schema+json"
        assert answer.json()["title"] == f"wisp {kind}"
    for path in ("policy", "quota.json", "policy.yaml"):
        assert (await api.bare.get(f"/v1/schemas/{path}")).status_code == 404

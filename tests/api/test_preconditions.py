"""`If-Match` where something has an entity tag, a refusal where nothing has: no writer's condition is passed over."""

from __future__ import annotations

import pytest

from api.conftest import Api, bearer
from platforms import TINY_MODELS
from wisp.api.routes import OPERATIONS
from wisp.names import parse_tenant

OLD, NEW, OTHER = ((TINY_MODELS / f"{name}.onnx").read_bytes() for name in ("identity_f32", "two_io", "identity_i64"))
NAMES = {"tenant": "acme", "function": "greet", "model": "m", "secret": "TOKEN", "key": "k", "version": "1"}
NAMES |= {"name": "ceiling", "document": "ceiling"}


@pytest.mark.parametrize("base", ["/v1/tenants/acme/models", "/v1/models"])
async def test_a_model_changes_only_as_it_was_seen(api: Api, base: str) -> None:
    headers = bearer(await api.tenant("acme")) if "acme" in base else {}
    client, path = api.as_operator, f"{base}/m"
    missing = await client.put(path, content=OLD, headers=headers | {"if-match": "*"})
    assert (missing.status_code, missing.json()["code"]) == (412, "precondition_failed")
    created = await client.put(path, content=OLD, headers=headers)
    tag = created.headers["etag"]
    assert (created.status_code, tag) == (201, f'"{created.json()["digest"]}"')
    assert (await client.get(path, headers=headers)).headers["etag"] == tag

    newer = await client.put(path, content=NEW, headers=headers | {"if-match": tag})
    assert (newer.status_code, newer.json()["version"]) == (201, 2)
    assert newer.headers["etag"] != tag
    known = await client.put(path, content=OLD, headers=headers)
    assert (known.status_code, known.json()["version"]) == (200, 1)
    assert "etag" not in known.headers  # the latest is another
    for stale in (
        await client.put(path, content=OTHER, headers=headers | {"if-match": tag}),
        await client.put(path, content=OLD, headers=headers | {"if-match": tag}),
        await client.delete(path, headers=headers | {"if-match": tag}),
        await client.delete(path, headers=headers | {"if-match": '"none"'}),
    ):
        assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    shown = await client.get(path, headers=headers)
    assert (shown.json()["versions"], shown.headers["etag"]) == ([1, 2], newer.headers["etag"])
    assert (
        await client.delete(path, headers=headers | {"if-match": f'"x", {shown.headers["etag"]}'})
    ).status_code == 204
    assert (await client.delete(path, headers=headers | {"if-match": "*"})).status_code == 404


async def test_a_condition_that_is_not_judged_is_refused(api: Api) -> None:
    await api.tenant("acme")
    for operation in OPERATIONS:
        path = operation.path.format_map(NAMES)
        for name, judged in (
            ("if-match", operation.conditional),
            ("if-none-match", operation.method == "GET"),
        ):
            if judged:
                continue
            answer = await api.as_operator.request(operation.method, path, headers={name: '"1"'})
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), (operation.name, name)
            assert answer.json()["detail"].lower().startswith(name), (operation.name, name)
    assert len(await api.node.registry.keys.list(parse_tenant("acme"))) == 1


async def test_keys_and_secrets_have_no_tag(api: Api) -> None:
    headers = bearer(await api.tenant("acme")) | {"if-match": "*"}
    for answer in (
        await api.bare.post("/v1/tenants/acme/keys", json={"role": "invoke"}, headers=headers),
        await api.bare.put("/v1/tenants/acme/secrets/TOKEN", content=b"value", headers=headers),
        await api.bare.delete("/v1/tenants/acme/secrets/TOKEN", headers=headers),
    ):
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    listed = await api.as_operator.get("/v1/tenants/acme/secrets", headers={"if-none-match": '"1"'})
    assert (listed.status_code, listed.json()["items"]) == (200, [])

"""Quotas over HTTP: what an upload is refused for, and how many tenants go on without a lease."""

from __future__ import annotations

import time

from api.conftest import Api, bearer
from platforms import HANDLER_POLICY, TINY_MODELS
from wat import answering
from wisp.names import parse_tenant
from wisp.server import gauges_of

CLASS = "/v1/policies/class-free"
MODEL = (TINY_MODELS / "endless.onnx").read_bytes()


async def bound(api: Api, *changes: tuple[bytes, bytes]) -> None:
    """Changes the class's document."""
    document = (await api.as_operator.get(CLASS)).content
    for former, new in changes:
        assert former in document
        document = document.replace(former, new)
    answer = await api.as_operator.put(CLASS, content=document)
    assert answer.status_code == 200, answer.text


async def put(api: Api, secret: str, function: str, content: bytes) -> tuple[int, dict[str, object]]:
    answer = await api.bare.put(
        f"/v1/tenants/acme/functions/{function}",
        headers=bearer(secret),
        files={"module": answering(content), "policy": HANDLER_POLICY},
    )
    return answer.status_code, answer.json()


async def test_what_a_class_has_no_room_for_is_refused_and_changes_nothing(api: Api) -> None:
    secret = await api.tenant("acme", "free")
    await bound(api, (b"functions: 32", b"functions: 1"), (b"models: 16", b"models: 1"))
    assert (await put(api, secret, "one", b"1"))[0] == 201
    status, problem = await put(api, secret, "two", b"2")
    assert (status, problem["code"], problem["limit"], problem["used"]) == (429, "quota_exceeded", 1, 1)
    assert (await put(api, secret, "one", b"2"))[0] == 201

    models = "/v1/tenants/acme/models"
    assert (await api.bare.put(f"{models}/one", headers=bearer(secret), content=MODEL)).status_code == 201
    another = await api.bare.put(f"{models}/two", headers=bearer(secret), content=MODEL)
    assert (another.status_code, another.json()["code"]) == (429, "quota_exceeded")

    stored = (await api.bare.get("/v1/tenants/acme/usage", headers=bearer(secret))).json()["storage_bytes"]
    assert stored > len(MODEL)
    await bound(api, (b"storage: 512Mi", b"storage: %d" % stored))
    status, problem = await put(api, secret, "one", b"3")
    assert (status, problem["code"], problem["limit"], problem["used"]) == (429, "storage_quota", stored, stored)
    assert (await put(api, secret, "one", b"1"))[0] == 200  # it is there: nothing more is stored
    usage = await api.bare.get("/v1/tenants/acme/usage", headers=bearer(secret))
    assert usage.json()["storage_bytes"] == stored


async def test_who_goes_on_without_a_lease_is_counted_not_named(api: Api) -> None:
    secret = await api.tenant("acme")
    await put(api, secret, "hello", b"hi")
    assert (await api.bare.get("/t/acme/hello", headers=bearer(secret))).status_code == 200
    assert (await api.bare.get("/readyz")).json()["quotas"] == {"cut_off": 0}
    api.node.quotas._desks[parse_tenant("acme")].allowance.cut_off(time.monotonic())
    ready = await api.bare.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["quotas"] == {"cut_off": 1}
    assert "acme" not in ready.text
    assert gauges_of(api.node).quotas_cut_off == 1

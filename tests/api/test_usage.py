"""`GET …/usage` over a node: whose it is, which hours, what stands in an item."""

from __future__ import annotations

import time

import pytest

from api.conftest import Api, bearer
from platforms import HANDLER_POLICY
from wat import answering
from wisp.names import parse_function, parse_tenant
from wisp.registry.usage import Use

ACME = parse_tenant("acme")
HELLO = parse_function("hello")
PATH = "/v1/tenants/acme/usage"


async def deployed(api: Api, secret: str) -> None:
    parts = {"module": ("m.wasm", answering(b"hello")), "policy": ("p.yaml", HANDLER_POLICY)}
    put = await api.bare.put("/v1/tenants/acme/functions/hello", files=parts, headers=bearer(secret))
    assert put.status_code == 201, put.text


async def test_a_request_is_on_the_bill_as_its_receipt_says(api: Api) -> None:
    secret = await api.tenant("acme")
    await deployed(api, secret)
    answer = await api.bare.post("/t/acme/hello", content=b"abc", headers=bearer(secret))
    assert answer.status_code == 200
    assert await api.node.ledger.flush()
    bill = (await api.bare.get(PATH, headers=bearer(secret))).json()
    (item,) = bill["items"]
    assert item["function"] == "hello"
    assert (item["outcomes"], item["requests"]) == ({"ok": 1}, 1)
    assert item["fuel"] == int(answer.headers["wisp-fuel-used"])
    assert (item["bytes_in"], item["bytes_out"]) == (3, len(answer.content))
    assert (item["inferences"], item["nn_s"]) == (0, 0)
    assert item["cpu_s"] > 0
    assert item["hour"].endswith(":00:00Z")
    assert bill["storage_bytes"] >= len(answering(b"hello"))
    as_operator = (await api.as_operator.get(PATH)).json()
    assert as_operator["items"] == bill["items"]


async def test_a_bill_is_its_tenants_and_the_operators(api: Api) -> None:
    await api.tenant("acme")
    other = await api.tenant("globex")
    assert (await api.bare.get(PATH)).status_code == 401
    assert (await api.bare.get(PATH, headers=bearer(other))).status_code == 403


async def test_from_and_to_bound_the_hours(api: Api) -> None:
    await api.tenant("acme")
    for hours_ago in (0, 1, 30):
        now_s = int(time.time()) - hours_ago * 3600
        used = {(now_s // 3600, HELLO): Use(outcomes={"ok": 1})}
        await api.node.registry.usage.add(ACME, f"life-{hours_ago}", 1, used, now_s=now_s)

    async def hours(**query: str) -> int:
        answer = await api.as_operator.get(PATH, params=query)
        assert answer.status_code == 200, answer.text
        return len(answer.json()["items"])

    def form(hours_ago: int, text: str = "%Y-%m-%dT%H") -> str:
        return time.strftime(text, time.gmtime(time.time() - hours_ago * 3600))

    assert await hours() == 2
    assert await hours(**{"from": form(30)}) == 3
    assert await hours(**{"from": form(30), "to": form(1)}) == 1
    assert await hours(**{"from": form(1, "%Y-%m-%dT%H:00:00Z"), "to": form(0)}) == 1
    assert await hours(**{"from": form(72, "%Y-%m-%d"), "to": form(-24, "%Y-%m-%d")}) == 3


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=yesterday", "from"),
        ("to=2026-13-01", "to"),
        ("to=2026-01-01T24", "to"),
        ("from=2026-01-01T10:30", "from"),
        ("from=2026-01-01&from=2026-01-02", "from"),
        ("from=2026-01-02&to=2026-01-02", "from"),
        ("from=2025-01-01&to=2026-01-01", "from"),
        ("from=0000-01-01", "from"),
        ("since=2026-01-01", "since"),
    ],
)
async def test_what_is_no_hour_is_refused_by_its_name(api: Api, query: str, field: str) -> None:
    await api.tenant("acme")
    answer = await api.as_operator.get(f"{PATH}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert field in answer.json()["detail"]

"""Who may do what: every operation against every kind of caller, by the table that the routes are made from."""

from __future__ import annotations

import pytest

from api.conftest import Api, bearer
from wisp.api.authentication import Right
from wisp.api.authentication import bearer as read_bearer
from wisp.api.operations import Operation
from wisp.api.routes import OPERATIONS

WRONG = ("", "Bearer", "Bearer ", "Basic b3A6", "Bearer nonsense", "Bearer wisp_acme_0123456789abcdef_" + "x" * 43)


def url(operation: Operation) -> str:
    names = {
        "tenant": "acme",
        "function": "nothing",
        "model": "nothing",
        "version": "1",
        "secret": "NOTHING",
        "name": "nothing",
        "key": "0" * 16,
    }
    return operation.path.format_map(names)


@pytest.mark.parametrize(
    ("values", "secret"),
    [
        ([], None),
        ([b"Bearer abc"], "abc"),
        ([b"bearer  abc "], "abc"),
        ([b"BEARER abc"], "abc"),
        ([b"Basic abc"], None),
        ([b"Bearer"], None),
        ([b"Bearer "], None),
        ([b"Bearer a", b"Bearer a"], None),
        ([b"Bearer \xff"], "\xff"),
    ],
)
def test_a_secret_is_read_from_one_bearer_header(values: list[bytes], secret: str | None) -> None:
    assert read_bearer(values) == secret


async def test_every_operation_asks_for_its_right(api: Api) -> None:
    acme, globex = await api.tenant("acme"), await api.tenant("globex")
    made = await api.as_operator.post("/v1/tenants/acme/keys", json={"role": "invoke"})
    invoke = str(made.json()["secret"])
    for operation in OPERATIONS:
        if operation.right is Right.NOBODY:
            continue
        for value in WRONG:
            answer = await api.bare.request(operation.method, url(operation), headers={"authorization": value})
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), (operation.name, value)
            assert answer.headers["www-authenticate"].startswith("Bearer")
        refused = {Right.KEY: [], Right.TENANT: [invoke, globex], Right.OPERATOR: [invoke, globex, acme]}
        for secret in refused[operation.right]:
            answer = await api.bare.request(operation.method, url(operation), headers=bearer(secret))
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), operation.name


async def test_another_tenants_absence_is_not_told(api: Api) -> None:
    acme = bearer(await api.tenant("acme"))
    await api.tenant("globex")
    existing = await api.bare.get("/v1/tenants/globex/functions", headers=acme)
    absent = await api.bare.get("/v1/tenants/nobody/functions", headers=acme)
    assert existing.status_code == absent.status_code == 403
    assert existing.json()["detail"] == absent.json()["detail"]


async def test_a_name_is_judged_after_the_key(api: Api) -> None:
    acme = bearer(await api.tenant("acme"))
    assert (await api.bare.get("/v1/tenants/No!/functions")).status_code == 401
    for name in ("No!", "-a", "a" * 64, "%C3%A9", "a%0d%0ab", "v2%00"):
        answer = await api.bare.get(f"/v1/tenants/{name}/functions", headers=acme)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_name")
        assert answer.json()["errors"][0]["field"] == "tenant"
    answer = await api.bare.get("/v1/tenants/acme/functions/v2", headers=acme)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_name")


async def test_a_deploy_key_has_its_tenants_invoke_keys_and_no_others(api: Api) -> None:
    acme = bearer(await api.tenant("acme"))
    keys = "/v1/tenants/acme/keys"
    assert (await api.bare.post(keys, headers=acme, json={"role": "deploy"})).status_code == 403
    made = await api.bare.post(keys, headers=acme, json={"role": "invoke", "functions": ["b", "a", "a"]})
    assert made.status_code == 201
    assert made.json()["functions"] == ["a", "b"]
    listed = (await api.bare.get(keys, headers=acme)).json()
    assert [key["id"] for key in listed["items"]] == [made.json()["id"]]
    assert "secret" not in listed["items"][0]
    by_operator = (await api.as_operator.get(keys)).json()["items"]
    assert {key["role"] for key in by_operator} == {"deploy", "invoke"}
    deploy = next(key["id"] for key in by_operator if key["role"] == "deploy")
    assert (await api.bare.delete(f"{keys}/{deploy}", headers=acme)).status_code == 403
    assert (await api.bare.delete(f"{keys}/{made.json()['id']}", headers=acme)).status_code == 204
    assert (await api.as_operator.delete(f"{keys}/{deploy}")).status_code == 204
    assert (await api.bare.get(keys, headers=acme)).status_code == 401


async def test_a_suspended_tenants_keys_do_nothing(api: Api) -> None:
    acme = bearer(await api.tenant("acme"))
    changed = await api.as_operator.patch("/v1/tenants/acme", json={"suspended": True})
    assert changed.json()["suspended"] is True
    answer = await api.bare.get("/v1/tenants/acme/functions", headers=acme)
    assert (answer.status_code, answer.json()["code"]) == (403, "suspended")
    await api.as_operator.patch("/v1/tenants/acme", json={"suspended": False})
    assert (await api.bare.get("/v1/tenants/acme/functions", headers=acme)).status_code == 200


async def test_metrics_are_the_operators(api: Api) -> None:
    assert (await api.bare.get("/metrics")).status_code == 401
    acme = bearer(await api.tenant("acme"))
    assert (await api.bare.get("/metrics", headers=acme)).status_code == 403
    answer = await api.as_operator.get("/metrics")
    assert answer.status_code == 200
    assert "wisp_sandboxes_idle" in answer.text

"""Secrets over HTTP: written, listed by name, seen by the functions that name them, and nowhere else."""

from __future__ import annotations

import logging

import pytest

from api.conftest import Api, bearer
from wat import handler

FUNCTIONS = "/v1/tenants/acme/functions"
SECRETS = "/v1/tenants/acme/secrets"
VALUE = "s3cr3t-value"
POLICY = b"wisp: 1\nabi: handler\nsecrets: [TOKEN]\nenvironment: {PLAIN: open}\n"

# Answers with its whole environment block, NULs and all, as the body of an exchange response.
ENVIRONMENT = handler(
    """(drop (call $sizes (i32.const 0) (i32.const 4)))
       (drop (call $environ (i32.const 16) (i32.const 2060)))
       (i32.store (i32.const 2048) (i32.const 1))
       (i32.store (i32.const 2052) (i32.const 200))
       (i32.store (i32.const 2056) (i32.const 0))
       (i64.or (i64.const 8796093022208) (i64.extend_i32_u (i32.add (i32.const 12) (i32.load (i32.const 4)))))""",
    before="""(import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
              (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))""",
)


def form(policy: bytes) -> dict[str, tuple[str, bytes]]:
    return {"module": ("m.wasm", ENVIRONMENT), "policy": ("p.yaml", policy)}


def told(content: bytes) -> dict[str, str]:
    return dict(item.split("=", 1) for item in content.decode().split("\0") if item)


async def test_a_secrets_life(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = bearer(await api.tenant("acme"))
    early = await api.bare.put(f"{FUNCTIONS}/env", headers=key, files=form(POLICY))
    assert (early.status_code, early.json()["code"]) == (422, "invalid_policy")
    (fault,) = early.json()["errors"]
    assert (fault["field"], fault["line"], "TOKEN" in fault["message"]) == ("secrets[0]", 3, True)

    made = await api.bare.put(f"{SECRETS}/TOKEN", headers=key, content=VALUE)
    assert (made.status_code, made.json()) == (201, {"secret": "TOKEN"})
    await api.bare.put(f"{SECRETS}/UNNAMED", headers=key, content="other")
    listed = await api.bare.get(SECRETS, headers=key)
    assert listed.json()["items"] == [{"secret": "TOKEN"}, {"secret": "UNNAMED"}]

    deployed = await api.bare.put(f"{FUNCTIONS}/env", headers=key, files=form(POLICY))
    assert (deployed.status_code, deployed.json()["warnings"]) == (201, [])
    first = await api.bare.get("/t/acme/env", headers=key)
    assert told(first.content) == {"PLAIN": "open", "TOKEN": VALUE}
    assert (await api.bare.put(f"{SECRETS}/TOKEN", headers=key, content="changed")).status_code == 200
    assert told((await api.bare.get("/t/acme/env", headers=key)).content)["TOKEN"] == "changed"

    assert (await api.bare.delete(f"{SECRETS}/TOKEN", headers=key)).status_code == 204
    assert told((await api.bare.get("/t/acme/env", headers=key)).content) == {"PLAIN": "open"}
    assert (await api.bare.delete(f"{SECRETS}/TOKEN", headers=key)).status_code == 404
    shown = [early.text, made.text, listed.text, deployed.text, caplog.text]
    shown.append((await api.bare.get(f"{FUNCTIONS}/env/logs", headers=key)).text)
    shown.append((await api.bare.get(f"{FUNCTIONS}/env/policy?effective=1", headers=key)).text)
    assert not [text for text in shown if VALUE in text or "changed" in text]


async def test_who_may_and_what_is_refused(api: Api) -> None:
    key, other = bearer(await api.tenant("acme")), bearer(await api.tenant("globex"))
    assert (await api.bare.get(SECRETS, headers=other)).status_code == 403
    assert (await api.bare.put(f"{SECRETS}/TOKEN", content=VALUE)).status_code == 401
    for name in ("HTTP_PROXY", "1A", "a-b"):
        refused = await api.bare.put(f"{SECRETS}/{name}", headers=key, content=VALUE)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_name")
    large = await api.bare.put(f"{SECRETS}/TOKEN", headers=key, content=b"x" * 4097)
    assert (large.status_code, large.json()["limit"]) == (413, 4096)
    odd = await api.bare.put(f"{SECRETS}/TOKEN", headers=key, content=b"\xff\xfe")
    assert (odd.status_code, odd.json()["code"]) == (400, "invalid_request")
    await api.bare.put(f"{SECRETS}/TOKEN", headers=key, content=VALUE)
    assert (await api.bare.get(SECRETS, headers=bearer(""))).status_code == 401
    assert (await api.bare.get("/v1/tenants/globex/secrets", headers=other)).json()["items"] == []

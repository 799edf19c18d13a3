from __future__ import annotations

import re

import pytest

from registry.samples import ACME, BETA, CLASSIFY, FREE
from wisp.errors import NotFound
from wisp.names import parse_key_id
from wisp.registry.keys import Kind, key
from wisp.registry.records import Role
from wisp.registry.registry import Registry


async def test_a_key_is_found_by_its_secret(acme: Registry) -> None:
    issued, secret = await acme.keys.issue(ACME, Role.INVOKE, (CLASSIFY,))
    assert re.fullmatch(rf"wisp_acme_{issued.id}_[A-Za-z0-9_-]{{43}}", secret)
    assert await acme.keys.authenticate(secret) == issued
    assert (issued.role, issued.functions) == (Role.INVOKE, (CLASSIFY,))


async def test_the_secret_is_stored_nowhere(acme: Registry) -> None:
    _, secret = await acme.keys.issue(ACME, Role.DEPLOY)
    stored = await acme.connection.hash_all(key(ACME, Kind.KEYS))
    assert len(stored) == 1
    assert all(secret[-43:].encode() not in raw for raw in stored.values())


@pytest.mark.parametrize(
    "change",
    [
        lambda secret: "",
        lambda secret: "Bearer " + secret,
        lambda secret: secret + "\n",
        lambda secret: secret[:-1],
        lambda secret: secret + "A",
        lambda secret: secret[:-1] + ("A" if secret[-1] != "A" else "B"),
        lambda secret: secret.replace("acme", "beta"),
        lambda secret: secret.replace("acme", "-acme"),
        lambda secret: secret.replace("acme", "acme}:x{"),
        lambda secret: secret.replace("acme", "a" * 64),
        lambda secret: secret.replace("acme", "\u0430cme"),
        lambda secret: secret.upper(),
        lambda secret: secret.encode().decode("utf-16-le", "surrogatepass"),
        lambda secret: "\ud800" * 131,
        lambda secret: "wisp_acme_" + "0" * 16 + "_" + "A" * 43,
        lambda secret: "x" * 1_000_000,
    ],
)
async def test_any_other_secret_is_nobodys(acme: Registry, change: object) -> None:
    assert callable(change)
    await acme.tenants.create(BETA, FREE)
    await acme.keys.issue(BETA, Role.DEPLOY)
    _, secret = await acme.keys.issue(ACME, Role.DEPLOY)
    assert await acme.keys.authenticate(change(secret)) is None


async def test_keys_are_listed_and_revoked(acme: Registry) -> None:
    deploy, _ = await acme.keys.issue(ACME, Role.DEPLOY)
    invoke, secret = await acme.keys.issue(ACME, Role.INVOKE)
    assert set(await acme.keys.list(ACME)) == {deploy, invoke}
    await acme.keys.revoke(ACME, invoke.id)
    assert await acme.keys.authenticate(secret) is None
    assert await acme.keys.list(ACME) == (deploy,)
    with pytest.raises(NotFound):
        await acme.keys.revoke(ACME, invoke.id)


async def test_a_tenant_cannot_revoke_anothers_key(acme: Registry) -> None:
    await acme.tenants.create(BETA, FREE)
    theirs, secret = await acme.keys.issue(BETA, Role.DEPLOY)
    with pytest.raises(NotFound):
        await acme.keys.revoke(ACME, theirs.id)
    assert await acme.keys.authenticate(secret) == theirs


async def test_no_tenant_no_key(registry: Registry) -> None:
    with pytest.raises(NotFound):
        await registry.keys.issue(ACME, Role.DEPLOY)
    assert await registry.keys.list(ACME) == ()
    with pytest.raises(NotFound):
        await registry.keys.revoke(ACME, parse_key_id("0" * 16))

from __future__ import annotations

import asyncio

import pytest

from registry.samples import ACME, BETA, CLASSIFY, FREE, INPUTS, MOBILENET, OUTPUTS, digest, draft, pin
from wisp.errors import Conflict, NotFound, RegistryUnavailable
from wisp.names import parse_class, parse_tenant
from wisp.registry.cipher import SecretCipher
from wisp.registry.credentials import new_key
from wisp.registry.keys import OPERATORS_ALONE, TENANTS, Kind, key
from wisp.registry.quotas import Ask, Resource
from wisp.registry.records import Role
from wisp.registry.registry import Registry
from wisp.registry.secrets import Secrets
from wisp.registry.traffic import Guard, Share, Traffic
from wisp.registry.usage import METRICS, Use


async def test_a_tenant_is_created_once(registry: Registry) -> None:
    tenant = await registry.tenants.create(ACME, FREE)
    with pytest.raises(Conflict):
        await registry.tenants.create(ACME, parse_class("standard"))
    assert await registry.tenants.get(ACME) == tenant
    assert not tenant.suspended


async def test_of_many_creating_one_name_one_wins(registry: Registry) -> None:
    results = await asyncio.gather(*(registry.tenants.create(ACME, FREE) for _ in range(20)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Conflict"] * 19 + ["Tenant"]


async def test_tenants_are_listed_by_name(registry: Registry) -> None:
    assert await registry.tenants.list() == ()
    for name in ("zeta", "acme", "beta"):
        await registry.tenants.create(parse_tenant(name), FREE)
    assert [tenant.name for tenant in await registry.tenants.list()] == ["acme", "beta", "zeta"]


async def test_a_patch_changes_what_it_names(registry: Registry) -> None:
    before = await registry.tenants.create(ACME, FREE)
    suspended = await registry.tenants.patch(ACME, suspended=True)
    assert (suspended.suspended, suspended.class_name) == (True, FREE)
    moved = await registry.tenants.patch(ACME, class_name=parse_class("standard"))
    assert (moved.suspended, moved.class_name, moved.created_at) == (True, "standard", before.created_at)
    assert await registry.tenants.get(ACME) == moved
    assert not (await registry.tenants.patch(ACME, suspended=False)).suspended


async def test_an_unknown_tenant_is_not_found(registry: Registry) -> None:
    for attempt in (registry.tenants.get(ACME), registry.tenants.delete(ACME), registry.tenants.patch(ACME)):
        with pytest.raises(NotFound):
            await attempt
    assert await registry.tenants.find(ACME) is None


async def fill(registry: Registry, tenant: str) -> None:
    name = parse_tenant(tenant)
    await registry.tenants.create(name, FREE)
    await registry.keys.issue(name, Role.DEPLOY)
    model, _ = await registry.models.put(
        name, MOBILENET, digest=digest("m"), size_bytes=1, inputs=INPUTS, outputs=OUTPUTS
    )
    await Secrets(registry.connection, SecretCipher(bytes(32))).put(name, "TOKEN", b"value")
    await registry.functions.put_version(name, CLASSIFY, draft("a", models=(pin(model),)), activate=True)
    await registry.functions.put_version(name, CLASSIFY, draft("b"), activate=True)
    guard = Guard(max_errors_per_million=0, min_requests=10, window_s=60)
    split = (Share(version=1, percent=50), Share(version=2, percent=50))
    traffic = Traffic(id=0, split=split, sticky_header=None, sticky_key=False, guard=guard)
    function = await registry.functions.split(name, CLASSIFY, traffic)
    await registry.functions.judge(name, CLASSIFY, function.revision, {2: (1, 1)})
    await registry.storage.used_bytes(name)  # which remembers what each record says
    used = Use(outcomes={"ok": 1}, sums=[1] * len(METRICS))
    await registry.usage.add(name, "life", 1, {(480_000, CLASSIFY): used}, now_s=480_000 * 3600)
    asks = tuple(Ask(limit=100, keep=0, want=1, spent=0, acknowledged=0) for _ in Resource)
    await registry.quotas.lease(name, holder="node", number=1, length_s=10, rate=1, asks=asks)


async def slot(registry: Registry, tenant: str) -> set[str]:
    return {stored async for stored in registry.connection.scan(f"*{tenant}*")}


async def test_a_delete_leaves_no_key_behind_and_touches_nobody_else(registry: Registry) -> None:
    await fill(registry, "acme")
    await fill(registry, "beta")
    theirs = await slot(registry, "beta")
    # Every kind of key was really there to be left behind.
    assert await slot(registry, "acme") == {key(ACME, kind) for kind in Kind if kind not in OPERATORS_ALONE}

    await registry.tenants.delete(ACME)
    assert await slot(registry, "acme") == set()
    assert await registry.connection.command("SMEMBERS", TENANTS) == {b"beta"}
    assert await slot(registry, "beta") == theirs


async def test_a_tenant_made_anew_has_nothing_of_the_old_one(registry: Registry) -> None:
    await fill(registry, "acme")
    _, secret = await registry.keys.issue(ACME, Role.DEPLOY)
    await registry.tenants.delete(ACME)
    await registry.tenants.create(ACME, FREE)
    assert await registry.keys.authenticate(secret) is None
    assert await registry.functions.list(ACME) == ()
    assert await registry.models.list(ACME) == ()


async def test_the_index_is_rebuilt_from_the_truth(registry: Registry) -> None:
    await registry.tenants.create(ACME, FREE)
    await registry.connection.command("DEL", TENANTS)
    await registry.connection.command("SADD", TENANTS, "never-finished")
    assert await registry.tenants.list() == ()
    await registry.prepare()
    assert await registry.connection.command("SMEMBERS", TENANTS) == {b"acme"}
    assert [tenant.name for tenant in await registry.tenants.list()] == ["acme"]


async def test_creating_and_deleting_at_once_keeps_the_index_true(registry: Registry) -> None:
    await registry.tenants.create(ACME, FREE)
    for _ in range(10):
        await asyncio.gather(registry.tenants.delete(ACME), registry.tenants.create(ACME, FREE), return_exceptions=True)
        exists = await registry.tenants.find(ACME) is not None
        assert [tenant.name for tenant in await registry.tenants.list()] == (["acme"] if exists else [])
        if not exists:
            await registry.tenants.create(ACME, FREE)


async def test_a_damaged_tenant_is_neither_read_nor_sealed_anew(registry: Registry) -> None:
    await registry.tenants.create(ACME, FREE)
    raw = await registry.connection.get(key(ACME, Kind.TENANT))
    assert raw is not None
    await registry.connection.command("SET", key(ACME, Kind.TENANT), raw.replace(b"free", b"frea"))
    with pytest.raises(RegistryUnavailable, match="acme is damaged"):
        await registry.tenants.get(ACME)
    with pytest.raises(RegistryUnavailable, match="acme is damaged"):
        await registry.tenants.patch(ACME, suspended=True)
    await registry.tenants.create(BETA, FREE)
    await registry.tenants.delete(ACME)
    assert [tenant.name for tenant in await registry.tenants.list()] == ["beta"]


async def test_a_tenant_and_its_first_key_are_made_in_one_step(registry: Registry) -> None:
    first, secret = new_key(ACME, Role.DEPLOY)
    await registry.tenants.create(ACME, FREE, first)
    assert await registry.keys.authenticate(secret) == first
    late, refused = new_key(ACME, Role.DEPLOY)
    with pytest.raises(Conflict):
        await registry.tenants.create(ACME, FREE, late)
    assert await registry.keys.authenticate(refused) is None
    assert await registry.keys.list(ACME) == (first,)

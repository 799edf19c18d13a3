from __future__ import annotations

import asyncio

import pytest

from registry.samples import ACME, BETA, CLASSIFY, FREE, INPUTS, MOBILENET, OUTPUTS, RESIZE, digest, draft, pin
from wisp.errors import InUse, InvalidName, NotFound
from wisp.names import ModelName, TenantName
from wisp.registry.keys import Kind, key
from wisp.registry.models import ANNOUNCEMENT_S
from wisp.registry.records import Model
from wisp.registry.registry import Registry

OWNERS = pytest.mark.parametrize("owner", [ACME, None], ids=["own", "shared"])


async def put(registry: Registry, owner: TenantName | None, content: str, name: ModelName = MOBILENET) -> Model:
    model, _ = await registry.models.put(
        owner, name, digest=digest(content), size_bytes=len(content), inputs=INPUTS, outputs=OUTPUTS
    )
    return model


@OWNERS
async def test_new_bytes_are_a_new_version_and_the_same_bytes_are_not(acme: Registry, owner: TenantName | None) -> None:
    first = await put(acme, owner, "a")
    second = await put(acme, owner, "b")
    again = await put(acme, owner, "a")
    assert (first.version, second.version, again) == (1, 2, first)
    assert await acme.models.get(owner, MOBILENET) == second
    assert await acme.models.get(owner, MOBILENET, 1) == first
    assert await acme.models.list(owner) == (first, second)
    with pytest.raises(NotFound):
        await acme.models.get(owner, MOBILENET, 3)


@OWNERS
async def test_equal_uploads_at_once_make_one_version(acme: Registry, owner: TenantName | None) -> None:
    assert {model.version for model in await asyncio.gather(*(put(acme, owner, "a") for _ in range(20)))} == {1}


async def test_no_tenant_no_model(registry: Registry) -> None:
    with pytest.raises(NotFound):
        await put(registry, ACME, "a")


async def test_a_tenants_own_model_hides_the_shared_one_from_it_alone(acme: Registry) -> None:
    shared = await put(acme, None, "shared")
    assert await acme.models.resolve(ACME, "mobilenet") == shared
    own = await put(acme, ACME, "own")
    newer = await put(acme, None, "shared, newer")
    assert await acme.models.resolve(ACME, "mobilenet") == own
    assert await acme.models.resolve(ACME, "mobilenet@1") == own
    with pytest.raises(NotFound):
        await acme.models.resolve(ACME, "mobilenet@2")
    assert await acme.models.resolve(BETA, "mobilenet") == newer
    assert await acme.models.resolve(BETA, "mobilenet@1") == shared


async def test_a_digest_finds_the_tenants_own_then_the_shared_and_nobody_elses(acme: Registry) -> None:
    await acme.tenants.create(BETA, FREE)
    theirs = await put(acme, BETA, "theirs")
    with pytest.raises(NotFound):
        await acme.models.resolve(ACME, theirs.digest)
    shared = await put(acme, None, "same")
    assert await acme.models.resolve(ACME, shared.digest) == shared
    own = await put(acme, ACME, "same")
    assert await acme.models.resolve(ACME, own.digest) == own


@pytest.mark.parametrize("wanted", ["", "A", "a b", "sha256:1", "@1", "a}:b"])
async def test_a_reference_out_of_grammar_is_refused(acme: Registry, wanted: str) -> None:
    with pytest.raises(InvalidName):
        await acme.models.resolve(ACME, wanted)


@pytest.mark.parametrize("wanted", ["a@", "a@x", "a@-1", "a@1@2", "a@\u0661", "a@" + "9" * 5000, "a@1 "])
async def test_a_version_that_is_no_number_is_not_found(acme: Registry, wanted: str) -> None:
    with pytest.raises(NotFound):
        await acme.models.resolve(ACME, wanted)


@OWNERS
async def test_a_model_is_kept_while_any_version_pins_it(acme: Registry, owner: TenantName | None) -> None:
    model = await put(acme, owner, "a")
    await acme.functions.put_version(ACME, CLASSIFY, draft("pins", models=(pin(model),)), activate=True)
    await acme.functions.put_version(ACME, CLASSIFY, draft("does not"), activate=True)
    with pytest.raises(InUse, match="classify"):
        await acme.models.delete(owner, MOBILENET)
    assert await acme.models.get(owner, MOBILENET) == model

    await acme.functions.delete(ACME, CLASSIFY)
    await acme.models.delete(owner, MOBILENET)
    assert await acme.models.find(owner, MOBILENET) is None
    with pytest.raises(NotFound):
        await acme.models.delete(owner, MOBILENET)
    assert (await put(acme, owner, "a")).version == 2


@OWNERS
async def test_a_deleted_model_cannot_be_pinned(acme: Registry, owner: TenantName | None) -> None:
    model = await put(acme, owner, "a")
    await acme.models.delete(owner, MOBILENET)
    with pytest.raises(NotFound, match="mobilenet@1"):
        await acme.functions.put_version(ACME, CLASSIFY, draft("pins", models=(pin(model),)), activate=True)
    assert await acme.functions.list(ACME) == ()


@OWNERS
async def test_pinning_and_deleting_at_once_never_leaves_a_pin_without_its_model(
    acme: Registry, owner: TenantName | None
) -> None:
    for index in range(15):
        model = await put(acme, owner, f"model {index}")
        await asyncio.gather(
            acme.functions.put_version(ACME, CLASSIFY, draft(f"{index}", models=(pin(model),)), activate=True),
            acme.models.delete(owner, MOBILENET),
            acme.functions.delete(ACME, CLASSIFY),
            acme.functions.put_version(ACME, RESIZE, draft(f"{index}", models=(pin(model),)), activate=True),
            acme.models.delete(owner, MOBILENET),
            return_exceptions=True,
        )
        pinned = {
            used.digest
            for function in await acme.functions.list(ACME)
            for version in await acme.functions.versions(ACME, function.name)
            for used in version.models
        }
        assert pinned <= {model.digest for model in await acme.models.list(owner)}


async def test_a_shared_model_is_kept_for_every_tenant(acme: Registry) -> None:
    await acme.tenants.create(BETA, FREE)
    model = await put(acme, None, "a")
    for tenant in (ACME, BETA):
        await acme.functions.put_version(tenant, CLASSIFY, draft("pins", models=(pin(model),)), activate=True)
    await acme.tenants.delete(ACME)
    with pytest.raises(InUse, match="beta/classify"):
        await acme.models.delete(None, MOBILENET)
    await acme.tenants.delete(BETA)
    await acme.models.delete(None, MOBILENET)
    assert await acme.connection.hash_all(key(None, Kind.REFERENCES)) == {}


async def announce(registry: Registry, model: Model, age_s: int) -> None:
    """A deployment that got no further than its announcement, `age_s` ago."""
    (now, _) = await registry.connection.command("TIME")
    field = f"{model.name} {ACME}/{CLASSIFY}#0123"
    await registry.connection.command("HSET", key(None, Kind.REFERENCES), field, int(now) - age_s)


async def test_a_deployment_under_way_keeps_its_model(acme: Registry) -> None:
    model = await put(acme, None, "a")
    await announce(acme, model, age_s=0)
    with pytest.raises(InUse, match="acme/classify pins"):
        await acme.models.delete(None, MOBILENET)


async def test_a_deployment_that_died_keeps_its_model_for_a_while_only(acme: Registry) -> None:
    model = await put(acme, None, "a")
    await announce(acme, model, age_s=ANNOUNCEMENT_S + 1)
    await acme.models.delete(None, MOBILENET)


async def test_a_version_whose_deployment_died_before_settling_keeps_its_model(acme: Registry) -> None:
    model = await put(acme, None, "a")
    await acme.functions.put_version(ACME, CLASSIFY, draft("pins", models=(pin(model),)), activate=True)
    await acme.connection.command("DEL", key(None, Kind.REFERENCES))
    await announce(acme, model, age_s=ANNOUNCEMENT_S + 1)
    with pytest.raises(InUse):
        await acme.models.delete(None, MOBILENET)


async def test_a_failed_deployment_announces_no_version(acme: Registry) -> None:
    model = await put(acme, None, "a")
    with pytest.raises(NotFound):
        await acme.functions.put_version(BETA, CLASSIFY, draft("pins", models=(pin(model),)), activate=True)
    (field,) = await acme.connection.hash_all(key(None, Kind.REFERENCES))
    assert "#" in field

"""The usage of tenants in Redis: each batch once, in order; hours that are too old go; a tenant's go with it."""

from __future__ import annotations

import time

import pytest

from wisp.errors import NotFound
from wisp.names import parse_class, parse_function, parse_tenant
from wisp.registry.keys import Kind, key
from wisp.registry.registry import Registry
from wisp.registry.usage import FIELDS, KEPT_HOURS, METRICS, SEQUENCES_KEPT_S, Place, Use

ACME = parse_tenant("acme")
CLASSIFY, RESIZE = parse_function("classify"), parse_function("resize")
NOW_S = int(time.time())
HOUR = NOW_S // 3600


def use(requests: int = 1, outcome: str = "ok", each: int = 5) -> Use:
    made = Use()
    made.add(outcome, requests, [each * requests] * len(METRICS))
    return made


@pytest.fixture
async def usage(registry: Registry) -> Registry:
    await registry.tenants.create(ACME, parse_class("free"))
    return registry


async def read(registry: Registry, since: int = HOUR - 10_000, until: int = HOUR + 10) -> dict[Place, Use]:
    places = await registry.usage.places(ACME, since, until, 1000)
    return dict(await registry.usage.read(ACME, places))


async def test_sums_add_up_over_batches_nodes_hours_and_functions(usage: Registry) -> None:
    add = usage.usage.add
    assert await add(ACME, "one", 1, {(HOUR, CLASSIFY): use(2), (HOUR, RESIZE): use(1)}, now_s=NOW_S)
    assert await add(ACME, "one", 2, {(HOUR, CLASSIFY): use(3, "guest_trap")}, now_s=NOW_S)
    assert await add(ACME, "two", 1, {(HOUR - 1, CLASSIFY): use(1)}, now_s=NOW_S)
    found = await read(usage)
    assert list(found) == [(HOUR - 1, CLASSIFY), (HOUR, CLASSIFY), (HOUR, RESIZE)]
    assert found[HOUR, CLASSIFY].outcomes == {"ok": 2, "guest_trap": 3}
    assert found[HOUR, CLASSIFY].requests == 5
    assert found[HOUR, CLASSIFY].sums == [25] * len(METRICS)
    assert list(await read(usage, HOUR - 1, HOUR)) == [(HOUR - 1, CLASSIFY)]


async def test_a_batch_that_is_sent_again_counts_once(usage: Registry) -> None:
    batch = {(HOUR, CLASSIFY): use()}
    assert await usage.usage.add(ACME, "one", 7, batch, now_s=NOW_S)
    assert not await usage.usage.add(ACME, "one", 7, batch, now_s=NOW_S)
    assert not await usage.usage.add(ACME, "one", 6, batch, now_s=NOW_S)
    assert (await read(usage))[HOUR, CLASSIFY].requests == 1
    assert await usage.usage.add(ACME, "one", 8, batch, now_s=NOW_S)
    assert await usage.usage.add(ACME, "another life", 7, batch, now_s=NOW_S)
    assert (await read(usage))[HOUR, CLASSIFY].requests == 3


async def test_numbers_beyond_a_floats_precision_stay_exact(usage: Registry) -> None:
    large = 2**53
    for sequence in (1, 2):
        await usage.usage.add(ACME, "one", sequence, {(HOUR, CLASSIFY): use(each=large + 1)}, now_s=NOW_S)
    assert (await read(usage))[HOUR, CLASSIFY].metric("fuel") == 2 * (large + 1)


async def test_hours_that_are_too_old_go_with_all_their_fields(usage: Registry) -> None:
    old = HOUR - KEPT_HOURS - 1
    everything = Use()
    for outcome in FIELDS[len(METRICS) :]:
        everything.add(outcome, 1, [1] * len(METRICS))
    then_s = NOW_S - (KEPT_HOURS + 1) * 3600
    await usage.usage.add(ACME, "one", 1, {(old, CLASSIFY): everything}, now_s=then_s)
    assert (old, CLASSIFY) in await read(usage)
    await usage.usage.add(ACME, "one", 2, {(HOUR, CLASSIFY): use()}, now_s=NOW_S)
    assert list(await read(usage)) == [(HOUR, CLASSIFY)]
    fields = await usage.connection.hash_all(key(ACME, Kind.USAGE))
    assert all(field.startswith(f"{HOUR} ") for field in fields)


async def test_lives_that_are_over_are_forgotten(usage: Registry) -> None:
    batch = {(HOUR, CLASSIFY): use()}
    for number in range(70):
        await usage.usage.add(ACME, f"old-{number}", 1, batch, now_s=NOW_S - SEQUENCES_KEPT_S - 1)
    await usage.usage.add(ACME, "new", 1, batch, now_s=NOW_S)
    assert list(await usage.connection.hash_all(key(ACME, Kind.USAGE_LIVES))) == ["new"]
    assert (await read(usage))[HOUR, CLASSIFY].requests == 71


async def test_a_tenant_that_is_gone_is_not_billed_and_leaves_nothing(usage: Registry) -> None:
    batch = {(HOUR, CLASSIFY): use()}
    await usage.usage.add(ACME, "one", 1, batch, now_s=NOW_S)
    await usage.tenants.delete(ACME)
    with pytest.raises(NotFound):
        await usage.usage.add(ACME, "one", 2, batch, now_s=NOW_S)
    assert not await read(usage)

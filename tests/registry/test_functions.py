from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.clusters import RedisCluster
from registry.conftest import Server
from registry.samples import ACME, BETA, CLASSIFY, FREE, RESIZE, digest, draft
from wisp.errors import NotFound, RegistryUnavailable
from wisp.names import FunctionName, parse_function
from wisp.registry.keys import Kind, key
from wisp.registry.records import Draft
from wisp.registry.registry import Registry


async def test_the_first_upload_makes_the_function(acme: Registry) -> None:
    uploaded = draft("a")
    version, created = await acme.functions.put_version(ACME, CLASSIFY, uploaded, activate=True)
    assert (version.number, created) == (1, True)
    assert {name: getattr(version, name) for name in Draft.__dataclass_fields__} == {
        name: getattr(uploaded, name) for name in Draft.__dataclass_fields__
    }
    function = await acme.functions.get(ACME, CLASSIFY)
    assert (function.active, function.latest, function.versions, function.suspended) == (1, 1, (1,), False)
    entry = await acme.functions.entry(ACME, CLASSIFY)
    assert entry is not None
    assert (entry.tenant.name, entry.function, entry.version) == (ACME, function, version)


async def test_identical_content_is_the_same_version(acme: Registry) -> None:
    first, _ = await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True)
    await acme.functions.put_version(ACME, CLASSIFY, draft("b"), activate=True)
    again, created = await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=False)
    assert (again, created) == (first, False)
    assert (await acme.functions.get(ACME, CLASSIFY)).active == 2
    await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True)
    assert (await acme.functions.get(ACME, CLASSIFY)).active == 1
    assert [version.number for version in await acme.functions.versions(ACME, CLASSIFY)] == [1, 2]


async def test_identical_content_elsewhere_is_another_version(acme: Registry) -> None:
    await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True)
    version, created = await acme.functions.put_version(ACME, RESIZE, draft("a"), activate=True)
    assert (version.number, created) == (1, True)


async def test_a_held_back_version_answers_nothing(acme: Registry) -> None:
    await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=False)
    entry = await acme.functions.entry(ACME, CLASSIFY)
    assert entry is not None
    assert (entry.function.active, entry.version) == (None, None)


async def test_activation_rolls_forward_and_back(acme: Registry) -> None:
    for content in "ab":
        await acme.functions.put_version(ACME, CLASSIFY, draft(content), activate=True)
    assert (await acme.functions.activate(ACME, CLASSIFY, 1)).active == 1
    entry = await acme.functions.entry(ACME, CLASSIFY)
    assert entry is not None
    assert entry.version is not None
    assert entry.version.content_digest == digest("a")
    assert (await acme.functions.activate(ACME, CLASSIFY, 2)).active == 2
    for number in (0, -1, 3, 10**12):
        with pytest.raises(NotFound):
            await acme.functions.activate(ACME, CLASSIFY, number)
    assert (await acme.functions.get(ACME, CLASSIFY)).active == 2


async def test_suspending_keeps_the_active_version(acme: Registry) -> None:
    await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True)
    suspended = await acme.functions.suspend(ACME, CLASSIFY)
    assert (suspended.suspended, suspended.active) == (True, 1)
    assert not (await acme.functions.resume(ACME, CLASSIFY)).suspended


async def test_what_does_not_exist_is_not_found(registry: Registry) -> None:
    with pytest.raises(NotFound, match="no such tenant"):
        await registry.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True)
    await registry.tenants.create(ACME, FREE)
    for attempt in (
        registry.functions.get(ACME, CLASSIFY),
        registry.functions.versions(ACME, CLASSIFY),
        registry.functions.version(ACME, CLASSIFY, 1),
        registry.functions.activate(ACME, CLASSIFY, 1),
        registry.functions.suspend(ACME, CLASSIFY),
        registry.functions.delete(ACME, CLASSIFY),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert await registry.functions.entry(ACME, CLASSIFY) is None
    assert await registry.functions.entry(BETA, CLASSIFY) is None
    assert await registry.functions.list(ACME) == ()


async def test_a_deleted_functions_numbers_stay_used_up(acme: Registry) -> None:
    for content in "abc":
        await acme.functions.put_version(ACME, CLASSIFY, draft(content), activate=True)
    await acme.functions.delete(ACME, CLASSIFY)
    for kind in (Kind.FUNCTIONS, Kind.VERSIONS, Kind.CONTENTS, Kind.PINS):
        assert await acme.connection.hash_all(key(ACME, kind)) == {}
    version, created = await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True)
    assert (version.number, created) == (4, True)
    assert (await acme.functions.get(ACME, CLASSIFY)).versions == (4,)


async def test_a_delete_spares_functions_whose_names_begin_alike(acme: Registry) -> None:
    longer = parse_function("classify-2")
    for name in (CLASSIFY, longer):
        await acme.functions.put_version(ACME, name, draft("a"), activate=True)
    await acme.functions.delete(ACME, CLASSIFY)
    assert [function.name for function in await acme.functions.list(ACME)] == [longer]
    assert [version.number for version in await acme.functions.versions(ACME, longer)] == [1]


async def test_twenty_uploads_at_once_get_consecutive_numbers(acme: Registry) -> None:
    results = await asyncio.gather(
        *(acme.functions.put_version(ACME, CLASSIFY, draft(str(index)), activate=True) for index in range(20))
    )
    assert sorted(version.number for version, _ in results) == list(range(1, 21))
    function = await acme.functions.get(ACME, CLASSIFY)
    assert (function.versions, function.latest) == (tuple(range(1, 21)), 20)
    stored = {version.number: version for version in await acme.functions.versions(ACME, CLASSIFY)}
    assert stored == {version.number: version for version, _ in results}


async def test_twenty_equal_uploads_at_once_make_one_version(acme: Registry) -> None:
    results = await asyncio.gather(
        *(acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True) for _ in range(20))
    )
    assert [created for _, created in results].count(True) == 1
    assert {version.number for version, _ in results} == {1}


async def test_an_entry_is_never_of_two_moments(acme: Registry) -> None:
    await acme.functions.put_version(ACME, CLASSIFY, draft("0"), activate=True)

    async def upload() -> None:
        for index in range(1, 30):
            await acme.functions.put_version(ACME, CLASSIFY, draft(str(index)), activate=True)

    async def read() -> None:
        seen = 0
        while seen < 30:
            entry = await acme.functions.entry(ACME, CLASSIFY)
            assert entry is not None
            assert entry.version is not None
            assert entry.version.number == entry.function.active
            assert entry.version.content_digest == digest(str(entry.version.number - 1))
            assert entry.version.number >= seen
            seen = entry.version.number

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(upload())
        group.create_task(read())


@pytest.mark.parametrize("kind", [Kind.FUNCTIONS, Kind.VERSIONS])
async def test_damage_is_noticed_and_never_built_on(acme: Registry, kind: Kind) -> None:
    await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True)
    ((place, raw),) = (await acme.connection.hash_all(key(ACME, kind))).items()
    damaged = raw.replace(b'"created_at":1760000000', b'"created_at":1760000001')
    assert damaged != raw
    await acme.connection.command("HSET", key(ACME, kind), place, damaged)
    with pytest.raises(RegistryUnavailable, match="damaged"):
        await acme.functions.entry(ACME, CLASSIFY)
    with pytest.raises(RegistryUnavailable, match="damaged"):
        await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True)
    assert await acme.connection.hash_get(key(ACME, kind), place) == damaged
    await acme.functions.delete(ACME, CLASSIFY)
    assert await acme.functions.entry(ACME, CLASSIFY) is None


async def test_a_used_number_is_not_given_again_even_by_damage(acme: Registry) -> None:
    for content in "ab":
        await acme.functions.put_version(ACME, CLASSIFY, draft(content), activate=True)
    await acme.connection.command("HSET", key(ACME, Kind.NUMBERS), CLASSIFY, 1)
    with pytest.raises(RegistryUnavailable, match="damaged"):
        await acme.functions.put_version(ACME, CLASSIFY, draft("c"), activate=True)
    assert (await acme.functions.get(ACME, CLASSIFY)).versions == (1, 2)


@dataclass
class Expected:
    """One function as a few dictionaries would keep it."""

    versions: dict[int, str] = field(default_factory=dict)
    active: int | None = None


ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from("ab"), st.sampled_from("xyz"), st.booleans()),
    st.tuples(st.just("activate"), st.sampled_from("ab"), st.integers(1, 5), st.none()),
    st.tuples(st.just("delete"), st.sampled_from("ab"), st.none(), st.none()),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, max_size=15))
def test_versions_are_numbered_as_a_dictionary_would(
    redis_server: Server | RedisCluster, actions: list[tuple[str, str, object, object]]
) -> None:
    asyncio.run(compare(redis_server.url, actions))


async def compare(url: str, actions: list[tuple[str, str, object, object]]) -> None:
    registry = Registry(url)
    await registry.connection.command("FLUSHALL")
    await registry.tenants.create(ACME, FREE)
    expected: dict[FunctionName, Expected] = {}
    given_out: dict[FunctionName, int] = {}
    for verb, letter, argument, activate in actions:
        name = parse_function(letter)
        known = expected.get(name)
        if verb == "put":
            content = str(argument)
            model = expected.setdefault(name, Expected())
            same = [number for number, held in model.versions.items() if held == content]
            number = same[0] if same else given_out.get(name, 0) + 1
            given_out[name] = max(number, given_out.get(name, 0))
            model.versions[number] = content
            model.active = number if activate else model.active
            version, created = await registry.functions.put_version(ACME, name, draft(content), activate=bool(activate))
            assert (version.number, created) == (number, not same)
        elif verb == "activate":
            assert isinstance(argument, int)
            if known is None or argument not in known.versions:
                with pytest.raises(NotFound):
                    await registry.functions.activate(ACME, name, argument)
            else:
                known.active = argument
                await registry.functions.activate(ACME, name, argument)
        elif known is None:
            with pytest.raises(NotFound):
                await registry.functions.delete(ACME, name)
        else:
            del expected[name]
            await registry.functions.delete(ACME, name)
    for function in await registry.functions.list(ACME):
        model = expected.pop(function.name)
        assert (function.active, function.versions) == (model.active, tuple(sorted(model.versions)))
        assert function.latest == max(model.versions)
        stored = {each.number: each.content_digest for each in await registry.functions.versions(ACME, function.name)}
        assert stored == {number: digest(content) for number, content in model.versions.items()}
    assert expected == {}
    await registry.aclose()

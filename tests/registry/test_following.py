"""Changes that another node makes reach this one, told or not; what is still true is never forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from registry.clusters import RedisCluster, on_every_server
from registry.conftest import Server
from registry.samples import ACME, BETA, CLASSIFY, FREE, RESIZE, draft
from wisp.errors import RegistryUnavailable
from wisp.names import FunctionName, TenantName
from wisp.registry.events import Event
from wisp.registry.following import Following
from wisp.registry.kept import Kept
from wisp.registry.keys import Kind, key
from wisp.registry.memory import UNKNOWN
from wisp.registry.records import Entry, Role
from wisp.registry.registry import Registry
from wisp.registry.snapshot import Snapshot


class Deaf(Following):
    """To whom no message comes through."""

    def apply(self, event: Event) -> None:
        return


@pytest.fixture
async def deployed(acme: Registry) -> Registry:
    await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True)
    await acme.functions.put_version(ACME, CLASSIFY, draft("b"), activate=False)
    return acme


@asynccontextmanager
async def running(following: Following) -> AsyncIterator[None]:
    task = asyncio.ensure_future(following.run(listen_s=0.2))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def known(snapshot: Snapshot) -> Entry:
    entry = snapshot.peek_function(ACME, CLASSIFY)
    assert isinstance(entry, Entry)
    return entry


async def loaded(snapshot: Snapshot) -> Entry:
    entry = await snapshot.function(ACME, CLASSIFY)
    assert entry is not None
    return entry


def answers(snapshot: Snapshot, number: int) -> bool:
    entry = known(snapshot)
    return entry.version is not None and entry.version.number == number


async def test_a_message_that_never_came_is_noticed_by_the_generation(deployed: Registry) -> None:
    snapshot = Snapshot(deployed)
    await loaded(snapshot)
    issued, secret = await deployed.keys.issue(ACME, Role.INVOKE)
    assert await snapshot.key(secret) == issued
    async with running(Deaf(snapshot, compare_every_s=0.05)):
        await deployed.functions.activate(ACME, CLASSIFY, 2)
        await until(lambda: answers(snapshot, 2))
        assert await snapshot.key(secret) == issued
        await deployed.keys.revoke(ACME, issued.id)
        await until(lambda: snapshot.peek_key(secret) is not issued and snapshot.peek_key(secret) != issued)
        assert await snapshot.key(secret) is None
        await deployed.tenants.patch(ACME, suspended=True)
        await until(lambda: known(snapshot).tenant.suspended)
        await deployed.tenants.delete(ACME)
        await until(lambda: not isinstance(snapshot.peek_function(ACME, CLASSIFY), Entry))
        assert await snapshot.function(ACME, CLASSIFY) is None


async def test_a_gap_between_two_messages_is_noticed_by_the_second(deployed: Registry) -> None:
    snapshot = Snapshot(deployed)
    await loaded(snapshot)
    following = Following(snapshot, compare_every_s=3600)
    generation = snapshot.seen[ACME]
    async with running(following):
        await until(lambda: snapshot.reach.stale_s is not None)
        following.apply(Event(tenant=ACME, kind="model", name="other", generation=generation + 1))
        assert not snapshot.due
        following.apply(Event(tenant=ACME, kind="model", name="other", generation=generation + 3))
        assert list(snapshot.due) == [(ACME, CLASSIFY)]
        assert snapshot.seen[ACME] == generation + 3


async def test_a_tenant_made_again_is_not_taken_for_the_former(deployed: Registry) -> None:
    snapshot = Snapshot(deployed)
    await loaded(snapshot)
    before = snapshot.seen[ACME]
    await deployed.tenants.delete(ACME)
    await deployed.tenants.create(ACME, FREE)
    await deployed.functions.put_version(ACME, CLASSIFY, draft("c"), activate=True)
    assert await deployed.generation(ACME) > before


async def test_what_did_not_change_stays_the_same_object_through_a_lost_connection(deployed: Registry) -> None:
    snapshot = Snapshot(deployed)
    entry = await loaded(snapshot)
    following = Following(snapshot, compare_every_s=0.05)
    async with running(following):
        await until(lambda: snapshot.reach.stale_s is not None)
        for _ in range(3):
            await on_every_server(deployed, "CLIENT", "KILL", "TYPE", "pubsub")
            await deployed.functions.put_version(ACME, RESIZE, draft("x"), activate=True)
            await deployed.functions.delete(ACME, RESIZE)
            generation = await deployed.generation(ACME)
            await until(lambda: snapshot.seen[ACME] == generation and not following.unsettled)  # noqa: B023
            assert known(snapshot) is entry


async def test_the_former_answers_until_the_new_is_warm(deployed: Registry) -> None:
    snapshot = Snapshot(deployed)
    gate, warmed = asyncio.Event(), []

    async def prepare(entry: Entry) -> None:
        warmed.append(entry)
        await gate.wait()

    snapshot.prepare = prepare
    former = await loaded(snapshot)
    async with running(Following(snapshot)):
        await until(lambda: snapshot.reach.stale_s is not None)
        await deployed.functions.activate(ACME, CLASSIFY, 2)
        await until(lambda: bool(warmed))
        assert known(snapshot) is former
        gate.set()
        await until(lambda: answers(snapshot, 2))
        assert known(snapshot) is warmed[0]


@pytest.mark.parametrize("end", ["suspend", "delete"])
async def test_what_must_end_ends_while_a_version_is_still_being_warmed(deployed: Registry, end: str) -> None:
    snapshot = Snapshot(deployed)
    gate, warmed = asyncio.Event(), asyncio.Event()

    async def prepare(_: Entry) -> None:
        warmed.set()
        await gate.wait()

    snapshot.prepare = prepare
    await loaded(snapshot)
    async with running(Following(snapshot)):
        await deployed.functions.activate(ACME, CLASSIFY, 2)
        async with asyncio.timeout(20):
            await warmed.wait()
        await getattr(deployed.functions, end)(ACME, CLASSIFY)

        def ended() -> bool:
            entry = snapshot.peek_function(ACME, CLASSIFY)
            return not isinstance(entry, Entry) or entry.function.suspended

        await until(ended)
        gate.set()
        await asyncio.sleep(0)
        await until(lambda: not snapshot.functions.renewals)
        assert ended()


async def test_what_changed_while_it_cannot_be_read_is_read_later(
    deployed: Registry, redis_server: Server | RedisCluster
) -> None:
    hasty = Registry(redis_server.url, timeout_s=0.2)
    snapshot = Snapshot(hasty)
    former = await loaded(snapshot)
    async with running(Following(snapshot, compare_every_s=0.05)):
        await until(lambda: snapshot.reach.stale_s is not None)
        redis_server.pause()
        try:
            await snapshot.settle(ACME, CLASSIFY)
            assert known(snapshot) is former
            await until(lambda: not snapshot.reach.reachable)
        finally:
            redis_server.resume()
        await deployed.functions.activate(ACME, CLASSIFY, 2)
        await until(lambda: answers(snapshot, 2))
    await hasty.aclose()


async def test_a_registry_that_is_not_ready_yet_is_asked_nothing(deployed: Registry) -> None:
    snapshot = Snapshot(deployed)
    snapshot.reach.lost()
    ready = asyncio.Event()

    async def prepare() -> None:
        if not ready.is_set():
            raise RegistryUnavailable("not yet")

    async with running(Following(snapshot, prepare_registry=prepare, compare_every_s=0.02)):
        with pytest.raises(RegistryUnavailable):
            await snapshot.function(ACME, CLASSIFY)
        ready.set()
        await until(lambda: snapshot.reach.reachable)
        assert answers_of(await snapshot.function(ACME, CLASSIFY)) == 1


def answers_of(entry: Entry | None) -> int | None:
    return None if entry is None or entry.version is None else entry.version.number


async def test_generations_of_unknown_tenants_are_not_kept(deployed: Registry) -> None:
    snapshot = Snapshot(deployed, capacity=8, absent_s=0)
    for index in range(50):
        assert await snapshot.function(TenantName(f"nobody-{index}"), FunctionName("x")) is None
        assert len(snapshot.seen) <= 16
    await loaded(snapshot)
    await Following(snapshot).compare()
    assert set(snapshot.seen) == {ACME}
    assert snapshot.peek_function(BETA, CLASSIFY) is UNKNOWN


async def test_a_record_that_cannot_be_read_costs_neither_the_former_nor_the_following(deployed: Registry) -> None:
    snapshot = Snapshot(deployed)
    former = await loaded(snapshot)
    functions = key(ACME, Kind.FUNCTIONS)
    following = Following(snapshot, compare_every_s=0.05)
    async with running(following):
        await until(lambda: snapshot.reach.stale_s is not None)
        await deployed.functions.activate(ACME, CLASSIFY, 2)
        await until(lambda: answers(snapshot, 2))
        whole = await deployed.connection.hash_get(functions, CLASSIFY)
        assert whole is not None
        await deployed.connection.command("HSET", functions, CLASSIFY, whole.replace(b"2", b"3"))
        await deployed.connection.command("INCR", key(ACME, Kind.GENERATION))
        await until(lambda: ACME in following.unsettled)
        assert answers(snapshot, 2)
        await deployed.connection.command("HSET", functions, CLASSIFY, whole)
        await until(lambda: not following.unsettled)
        assert answers(snapshot, 2)
    assert former.version is not None


async def test_what_a_former_process_kept_is_taken_over_as_far_as_it_still_holds(deployed: Registry) -> None:
    await deployed.tenants.create(BETA, FREE)
    await deployed.functions.put_version(BETA, CLASSIFY, draft("a"), activate=True)
    issued, secret = await deployed.keys.issue(BETA, Role.INVOKE)
    entries = [await deployed.functions.entry(tenant, CLASSIFY) for tenant in (ACME, BETA)]
    kept = Kept(
        saved_at=1,
        generations={tenant: await deployed.generation(tenant) for tenant in (ACME, BETA)},
        entries=tuple(entry for entry in entries if entry is not None),
        keys=(issued,),
        tenants=(),
        policies=(),
    )
    await deployed.functions.put_version(BETA, CLASSIFY, draft("b"), activate=True)
    snapshot = Snapshot(deployed)
    snapshot.restore(kept, {tenant: await deployed.generation(tenant) for tenant in (ACME, BETA)})
    assert known(snapshot) is kept.entries[0]
    assert snapshot.peek_function(BETA, CLASSIFY) is UNKNOWN
    assert snapshot.peek_key(secret) is UNKNOWN
    following = Following(snapshot, compare_every_s=0.05)
    assert following.recalling
    async with running(following):
        await until(lambda: not following.recalling and isinstance(snapshot.peek_function(BETA, CLASSIFY), Entry))
        await until(lambda: snapshot.peek_key(secret) == issued)
    found = snapshot.peek_function(BETA, CLASSIFY)
    assert isinstance(found, Entry)
    assert answers_of(found) == 2

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from registry.clusters import RedisCluster, on_every_server
from registry.conftest import Server
from registry.samples import ACME, BETA, CLASSIFY, FREE, RESIZE, draft
from wisp.errors import RegistryUnavailable
from wisp.names import FunctionName, TenantName
from wisp.registry.following import Following
from wisp.registry.memory import UNKNOWN, Memory
from wisp.registry.records import Entry, Role
from wisp.registry.registry import Registry
from wisp.registry.shelf import Named, Shelf
from wisp.registry.snapshot import Snapshot


@pytest.fixture
async def deployed(acme: Registry) -> Registry:
    """Version 1 of acme/classify answers."""
    await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True)
    return acme


@asynccontextmanager
async def running(snapshot: Snapshot) -> AsyncIterator[None]:
    task = asyncio.ensure_future(Following(snapshot, compare_every_s=0.1).run(listen_s=0.2))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


def active(entry: Entry | None) -> int | None:
    return None if entry is None or entry.version is None else entry.version.number


async def test_what_was_loaded_is_there_without_awaiting(deployed: Registry) -> None:
    snapshot = Snapshot(deployed)
    issued, secret = await deployed.keys.issue(ACME, Role.INVOKE)
    assert snapshot.peek_function(ACME, CLASSIFY) is UNKNOWN
    assert snapshot.peek_key(secret) is UNKNOWN
    entry = await snapshot.function(ACME, CLASSIFY)
    assert active(entry) == 1
    assert await snapshot.key(secret) == issued
    assert snapshot.peek_function(ACME, CLASSIFY) is entry
    assert snapshot.peek_key(secret) == issued
    tenant = await snapshot.tenant(ACME)
    assert tenant is not None
    assert await snapshot.tenant(ACME) is tenant


async def test_what_is_missing_is_remembered_as_missing(deployed: Registry) -> None:
    snapshot = Snapshot(deployed)
    _, secret = await deployed.keys.issue(ACME, Role.INVOKE)
    wrong = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    assert await snapshot.function(ACME, RESIZE) is None
    assert await snapshot.function(BETA, CLASSIFY) is None
    assert await snapshot.key(wrong) is None
    assert await snapshot.tenant(BETA) is None
    assert snapshot.peek_function(ACME, RESIZE) is None
    assert snapshot.peek_key(wrong) is None
    assert snapshot.peek_key(secret) is UNKNOWN


async def test_a_malformed_secret_takes_up_no_memory(deployed: Registry) -> None:
    snapshot = Snapshot(deployed)
    for secret in ("", "x" * 1_000_000, "\ud800", "wisp_acme_1_2"):
        assert snapshot.peek_key(secret) is None
        assert await snapshot.key(secret) is None
    assert len(snapshot.keys.memory.absent) == 0


async def test_a_flood_of_unknown_names_is_bounded_and_spares_what_is_in_use(deployed: Registry) -> None:
    snapshot = Snapshot(deployed, capacity=8)
    entry = await snapshot.function(ACME, CLASSIFY)
    for index in range(100):
        assert await snapshot.function(ACME, FunctionName(f"unknown-{index}")) is None
        assert await snapshot.key(f"wisp_acme_{index:016x}_{'A' * 43}") is None
    assert len(snapshot.functions.memory.absent) == 8
    assert len(snapshot.keys.memory.absent) == 8
    assert snapshot.peek_function(ACME, CLASSIFY) is entry


async def test_a_local_write_is_seen_at_once_where_it_was_announced(deployed: Registry) -> None:
    snapshot = Snapshot(deployed)
    await snapshot.function(ACME, CLASSIFY)
    await snapshot.function(ACME, RESIZE)
    await deployed.functions.put_version(ACME, CLASSIFY, draft("b"), activate=True)
    assert active(await snapshot.function(ACME, CLASSIFY)) == 1
    snapshot.invalidate(ACME, CLASSIFY)
    assert active(await snapshot.function(ACME, CLASSIFY)) == 2
    assert snapshot.peek_function(ACME, RESIZE) is None
    snapshot.invalidate(ACME)
    assert snapshot.peek_function(ACME, RESIZE) is UNKNOWN


async def test_another_nodes_changes_arrive(deployed: Registry, redis_server: Server | RedisCluster) -> None:
    other = Registry(redis_server.url)
    snapshot = Snapshot(deployed)
    issued, secret = await deployed.keys.issue(ACME, Role.INVOKE)
    async with running(snapshot):

        async def sees(number: int) -> None:
            async def seen() -> bool:
                return active(await snapshot.function(ACME, CLASSIFY)) == number

            await until(seen)

        await sees(1)
        await other.functions.put_version(ACME, CLASSIFY, draft("b"), activate=True)
        await sees(2)
        assert await snapshot.key(secret) == issued
        await other.keys.revoke(ACME, issued.id)

        async def revoked() -> bool:
            return await snapshot.key(secret) is None

        await until(revoked)
        await other.tenants.patch(ACME, suspended=True)

        async def suspended() -> bool:
            entry = await snapshot.function(ACME, CLASSIFY)
            return entry is not None and entry.tenant.suspended

        await until(suspended)
        await other.tenants.delete(ACME)

        async def gone() -> bool:
            return await snapshot.function(ACME, CLASSIFY) is None and await snapshot.tenant(ACME) is None

        await until(gone)
    await other.aclose()


async def test_what_happened_while_nobody_listened_is_caught_up(deployed: Registry) -> None:
    snapshot = Snapshot(deployed)
    assert active(await snapshot.function(ACME, CLASSIFY)) == 1
    await deployed.functions.put_version(ACME, CLASSIFY, draft("b"), activate=True)

    async def caught_up() -> bool:
        return active(await snapshot.function(ACME, CLASSIFY)) == 2

    async with running(snapshot):
        await until(caught_up)
        await on_every_server(deployed, "CLIENT", "KILL", "TYPE", "pubsub")
        await deployed.functions.activate(ACME, CLASSIFY, 1)

        async def again() -> bool:
            return active(await snapshot.function(ACME, CLASSIFY)) == 1

        await until(again)


async def test_without_redis_memory_answers_and_the_rest_is_unavailable(
    deployed: Registry, redis_server: Server | RedisCluster
) -> None:
    hasty = Registry(redis_server.url, timeout_s=0.2)
    snapshot = Snapshot(hasty)
    entry = await snapshot.function(ACME, CLASSIFY)
    async with running(snapshot):

        async def noticed() -> bool:
            return not snapshot.reach.reachable

        async def back() -> bool:
            return snapshot.reach.reachable and await snapshot.function(ACME, RESIZE) is None

        redis_server.pause()
        try:
            with pytest.raises(RegistryUnavailable):
                await snapshot.function(ACME, RESIZE)
            await until(noticed)
            assert snapshot.peek_function(ACME, CLASSIFY) is entry
            assert snapshot.peek_function(ACME, RESIZE) is UNKNOWN
            with pytest.raises(RegistryUnavailable, match="has to wait"):
                await snapshot.key("wisp_acme_0123456789abcdef_" + "A" * 43)
        finally:
            redis_server.resume()
        await until(back)
        assert snapshot.peek_function(ACME, CLASSIFY) is entry
    await hasty.aclose()


class Loader:
    """A registry that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[str | None]] = []

    async def __call__(self) -> str | None:
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]

    async def times(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.asked) < count:
                await asyncio.sleep(0)


HERE = Named(TenantName("acme"), "classify")


def shelf() -> Shelf[str]:
    return Shelf(Memory(capacity=8, absent_s=60))


async def test_callers_at_once_share_one_load() -> None:
    shared, load = shelf(), Loader()
    callers = [asyncio.ensure_future(shared.get(HERE, load)) for _ in range(5)]
    await load.times(1)
    load.asked[0].set_result("one")
    assert await asyncio.gather(*callers) == ["one"] * 5
    assert len(load.asked) == 1
    assert shared.flights == {}


async def test_a_load_overtaken_by_an_invalidation_is_not_kept() -> None:
    shared, load = shelf(), Loader()
    early = asyncio.ensure_future(shared.get(HERE, load))
    await load.times(1)
    shared.invalidate(lambda key: key == HERE)
    late = asyncio.ensure_future(shared.get(HERE, load))
    await load.times(2)  # the later caller does not join the overtaken load
    load.asked[1].set_result("new")
    assert await late == "new"
    load.asked[0].set_result("old")
    assert await early == "old"
    assert shared.memory.peek(HERE) == "new"
    assert shared.flights == {}


async def test_an_overtaken_miss_is_not_kept_either() -> None:
    shared, load = shelf(), Loader()
    early = asyncio.ensure_future(shared.get(HERE, load))
    await load.times(1)
    shared.invalidate(lambda key: True)
    load.asked[0].set_result(None)
    assert await early is None
    assert shared.memory.peek(HERE) is UNKNOWN


async def test_a_failed_load_fails_those_who_waited_and_nobody_later() -> None:
    shared, load = shelf(), Loader()
    callers = [asyncio.ensure_future(shared.get(HERE, load)) for _ in range(3)]
    await load.times(1)
    load.asked[0].set_exception(RegistryUnavailable("gone"))
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [RegistryUnavailable] * 3
    later = asyncio.ensure_future(shared.get(HERE, load))
    await load.times(2)
    load.asked[1].set_result("back")
    assert await later == "back"


async def test_one_callers_cancellation_does_not_touch_another() -> None:
    shared, load = shelf(), Loader()
    first, second, third = (asyncio.ensure_future(shared.get(HERE, load)) for _ in range(3))
    await load.times(1)
    second.cancel()
    first.cancel()  # the one that was loading: the third takes over
    await load.times(2)
    load.asked[1].set_result("value")
    assert await third == "value"
    for cancelled in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    assert shared.memory.peek(HERE) == "value"


async def test_a_real_activation_between_read_and_store_wins(deployed: Registry) -> None:
    """The same race against Redis: whichever load is last to finish, the newest version is what stays."""
    snapshot = Snapshot(deployed)
    for number in range(2, 22):
        await deployed.functions.put_version(ACME, CLASSIFY, draft(str(number)), activate=False)

    async def activate(number: int) -> None:
        await deployed.functions.activate(ACME, CLASSIFY, number)
        snapshot.invalidate(ACME, CLASSIFY)

    for number in range(2, 22):
        await asyncio.gather(snapshot.function(ACME, CLASSIFY), activate(number), snapshot.function(ACME, CLASSIFY))
        assert active(await snapshot.function(ACME, CLASSIFY)) == number


async def test_names_of_one_tenant_do_not_touch_another(deployed: Registry) -> None:
    await deployed.tenants.create(BETA, FREE)
    await deployed.functions.put_version(BETA, CLASSIFY, draft("b"), activate=True)
    snapshot = Snapshot(deployed)
    theirs = await snapshot.function(BETA, CLASSIFY)
    await snapshot.function(ACME, CLASSIFY)
    snapshot.invalidate(ACME)
    assert snapshot.peek_function(ACME, CLASSIFY) is UNKNOWN
    assert snapshot.peek_function(BETA, CLASSIFY) is theirs

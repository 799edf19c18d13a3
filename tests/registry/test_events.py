from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import pytest

from registry.clusters import RedisCluster, on_every_server, settled
from registry.conftest import Server
from registry.samples import ACME, CLASSIFY, FREE, INPUTS, MOBILENET, OUTPUTS, digest, draft
from wisp.errors import RegistryUnavailable
from wisp.registry.events import Event, Subscribed
from wisp.registry.keys import EVENTS
from wisp.registry.records import Role
from wisp.registry.registry import Registry

Events = AsyncGenerator[Subscribed | Event]


async def following(events: Events) -> Event | Subscribed:
    async with asyncio.timeout(10):
        return await anext(events)


async def test_every_change_is_told_with_a_growing_generation(registry: Registry) -> None:
    async with aclosing(registry.subscribe()) as events:
        assert await following(events) == Subscribed()
        await settled(registry, events)

        async def put_model() -> None:
            await registry.models.put(ACME, MOBILENET, digest=digest("m"), size_bytes=1, inputs=INPUTS, outputs=OUTPUTS)

        issued = []

        async def issue() -> None:
            issued.append((await registry.keys.issue(ACME, Role.DEPLOY))[0])

        changes: list[tuple[Callable[[], Awaitable[object]], str, str | None]] = [
            (lambda: registry.tenants.create(ACME, FREE), "tenant", "acme"),
            (lambda: registry.tenants.patch(ACME, suspended=False), "tenant", "acme"),
            (issue, "key", None),
            (put_model, "model", "mobilenet"),
            (
                lambda: registry.functions.put_version(ACME, CLASSIFY, draft("a"), activate=False),
                "function",
                "classify",
            ),
            (lambda: registry.functions.activate(ACME, CLASSIFY, 1), "function", "classify"),
            (lambda: registry.functions.suspend(ACME, CLASSIFY), "function-suspended", "classify"),
            (lambda: registry.functions.delete(ACME, CLASSIFY), "function-deleted", "classify"),
            (lambda: registry.models.delete(ACME, MOBILENET), "model", "mobilenet"),
            (lambda: registry.keys.revoke(ACME, issued[0].id), "key", None),
            (lambda: registry.tenants.delete(ACME), "tenant", "acme"),
        ]
        former = 0
        for change, kind, name in changes:
            await change()
            event = await following(events)
            assert isinstance(event, Event)
            assert event == Event(tenant="acme", kind=kind, name=name or issued[0].id, generation=event.generation)
            assert event.generation == former + 1 or former == 0
            former = event.generation


async def test_an_upload_that_changes_nothing_is_not_told(acme: Registry) -> None:
    async with aclosing(acme.subscribe()) as events:
        assert await following(events) == Subscribed()
        await settled(acme, events)
        await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True)
        assert isinstance(await following(events), Event)
        await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True)
        former = await acme.generation(ACME)
        await acme.functions.suspend(ACME, CLASSIFY)
        event = await following(events)
        assert isinstance(event, Event)
        assert event.generation == former + 1


async def test_what_the_operator_shares_has_no_tenant(registry: Registry) -> None:
    async with aclosing(registry.subscribe()) as events:
        assert await following(events) == Subscribed()
        await settled(registry, events)
        await registry.models.put(None, MOBILENET, digest=digest("m"), size_bytes=1, inputs=INPUTS, outputs=OUTPUTS)
        assert await following(events) == Event(tenant=None, kind="model", name="mobilenet", generation=1)


@pytest.mark.parametrize("data", [b"", b"x", b"[]", b"{}", b'{"tenant":"a"}', b"[" * 100_000, b"\xff"])
async def test_what_cannot_be_read_may_have_told_of_anything(registry: Registry, data: bytes) -> None:
    async with aclosing(registry.subscribe()) as events:
        assert await following(events) == Subscribed()
        await settled(registry, events)
        await registry.connection.command("PUBLISH", EVENTS, data)
        assert await following(events) == Subscribed()


async def test_a_quiet_server_is_not_a_lost_one(registry: Registry) -> None:
    async with aclosing(registry.subscribe(listen_s=0.05)) as events:
        assert await following(events) == Subscribed()
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await registry.tenants.create(ACME, FREE)
        assert isinstance(await waiting, Event)


async def test_a_silent_server_is_a_lost_one(registry: Registry, redis_server: Server | RedisCluster) -> None:
    async with aclosing(registry.subscribe(listen_s=0.1)) as events:
        assert await following(events) == Subscribed()
        redis_server.pause()
        try:
            with pytest.raises(RegistryUnavailable):
                await following(events)
        finally:
            redis_server.resume()


async def test_a_closed_connection_is_a_lost_one(registry: Registry) -> None:
    async with aclosing(registry.subscribe()) as events:
        assert await following(events) == Subscribed()
        await on_every_server(registry, "CLIENT", "KILL", "TYPE", "pubsub")
        with pytest.raises(RegistryUnavailable):
            await following(events)

"""A process that dies between the steps of a change in several slots: nothing is half there, repair heals the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from redis.asyncio.client import PubSub

from registry.clusters import RedisCluster
from registry.conftest import Server
from registry.samples import ACME, CLASSIFY, FREE, INPUTS, MOBILENET, OUTPUTS, digest, draft, pin
from wisp.errors import NotFound, RegistryUnavailable
from wisp.registry import connection as connections
from wisp.registry import models
from wisp.registry.keys import TENANTS
from wisp.registry.registry import Registry

MOST_STEPS = 30


class Dying:
    """A server that is reached so many times and no more, as by a process that is killed."""

    def __init__(self, server: connections.Server, left: int) -> None:
        self.server = server
        self.left = left

    def _step(self) -> None:
        if self.left == 0:
            raise ConnectionError("killed")
        self.left -= 1

    async def execute(self, *words: str | bytes | int) -> Any:
        self._step()
        return await self.server.execute(*words)

    async def execute_together(self, *words: str | bytes | int) -> Any:
        self._step()
        return await self.server.execute_together(*words)

    async def get_each(self, keys: Sequence[str]) -> list[bytes | None]:
        self._step()
        return await self.server.get_each(keys)

    async def ping(self) -> None:
        self._step()
        await self.server.ping()

    async def scan(self, pattern: str) -> AsyncIterator[bytes]:
        self._step()
        async for key in self.server.scan(pattern):
            yield key

    def pubsub(self) -> PubSub:
        return self.server.pubsub()

    async def aclose(self) -> None:
        await self.server.aclose()


@pytest.fixture
async def mortal(redis_server: Server | RedisCluster, registry: Registry) -> AsyncIterator[Registry]:
    other = Registry(redis_server.url)
    yield other
    await other.aclose()


def live(registry: Registry, steps: int) -> Dying:
    server = registry.connection.server
    if isinstance(server, Dying):
        server = server.server
    registry.connection.server = dying = Dying(server, steps)
    return dying


async def names(registry: Registry) -> set[str]:
    return {tenant.name for tenant in await registry.tenants.list()}


async def indexed(registry: Registry) -> set[str]:
    return {member.decode() for member in await registry.connection.command("SMEMBERS", TENANTS)}


async def test_a_tenant_is_there_or_not_wherever_its_maker_or_remover_dies(
    registry: Registry, mortal: Registry
) -> None:
    died = 0
    for steps in range(MOST_STEPS):
        live(mortal, steps)
        try:
            await mortal.tenants.create(ACME, FREE)
        except RegistryUnavailable:
            died += 1
        there = await registry.tenants.find(ACME) is not None
        assert await names(registry) == ({ACME} if there else set())  # written before the tenant: never unlisted
        if not there:
            await registry.tenants.create(ACME, FREE)
        live(mortal, steps)
        try:
            await mortal.tenants.delete(ACME)
        except RegistryUnavailable:
            died += 1
        there = await registry.tenants.find(ACME) is not None
        assert await names(registry) == ({ACME} if there else set())
        await registry.tenants.repair_index()
        assert await indexed(registry) == ({ACME} if there else set())
        if there:
            await registry.tenants.delete(ACME)
    assert 0 < died < MOST_STEPS  # the last went through


async def test_a_shared_model_stays_while_a_version_pins_it_wherever_the_deployment_dies(
    registry: Registry, mortal: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = 0
    for steps in range(MOST_STEPS):
        await registry.tenants.create(ACME, FREE)
        model, _ = await registry.models.put(
            None, MOBILENET, digest=digest("m"), size_bytes=1, inputs=INPUTS, outputs=OUTPUTS
        )
        live(mortal, steps)
        try:
            await mortal.functions.put_version(ACME, CLASSIFY, draft("a", models=(pin(model),)), activate=True)
        except RegistryUnavailable:
            died += 1
        with monkeypatch.context() as later:
            later.setattr(models, "ANNOUNCEMENT_S", -1)  # as if it had died long ago
            entry = await registry.functions.entry(ACME, CLASSIFY)
            live(mortal, steps)
            try:
                await mortal.models.drop_stale_references()
            except RegistryUnavailable:
                died += 1
            await registry.models.drop_stale_references()
            if entry is not None:
                with pytest.raises(Exception, match=f"{ACME}/{CLASSIFY}"):
                    await registry.models.delete(None, MOBILENET)
            await registry.tenants.delete(ACME)
            await registry.models.delete(None, MOBILENET)
            with pytest.raises(NotFound):
                await registry.models.get(None, MOBILENET)
    assert 0 < died < MOST_STEPS

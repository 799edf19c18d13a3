"""What only a cluster can do to a registry: moved slots, a lost server, a failover."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Iterator
from contextlib import aclosing, suppress

import pytest

from registry.clusters import RedisCluster, running_cluster
from registry.conftest import cluster_binary
from registry.samples import ACME, CLASSIFY, FREE, draft
from registry.samples import digest as digest_of_text
from wisp.errors import RegistryUnavailable
from wisp.names import TenantName, parse_tenant
from wisp.registry.cluster import Cluster
from wisp.registry.events import Event, Subscribed
from wisp.registry.keys import SCHEMA, TENANTS, Kind, blob_key, key
from wisp.registry.redisblobs import CHUNK_BYTES, RedisBlobs
from wisp.registry.registry import Registry

WAIT_S = 60.0
TIMEOUT_S = 2.0


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    """One of its own: these tests leave it in pieces."""
    with running_cluster(cluster_binary(), replicas_of_first=1) as started:
        yield started


async def on(function: object, *arguments: str) -> str:
    return await asyncio.to_thread(function, *arguments)  # type: ignore[arg-type]


def primary_of(registry: Registry, name: str) -> int:
    """The port of the server that has this key's slot."""
    server = registry.connection.server
    assert isinstance(server, Cluster)
    node = server.client.get_node_from_key(name)
    assert node is not None
    return int(node.port)


def tenants_on(registry: Registry, port: int, count: int) -> list[TenantName]:
    names = (parse_tenant(f"tenant{number}") for number in range(10_000))
    found = [name for name in names if primary_of(registry, key(name, Kind.TENANT)) == port]
    return found[:count]


async def test_a_failover_while_writes_go_on(cluster: RedisCluster, capsys: pytest.CaptureFixture[str]) -> None:
    """The first server is killed; its replica takes over. Each write is done whole or not at all, those of other slots
    and those after the failover are all there; of the acknowledged ones before it, a replica may lack the last."""
    registry = Registry(cluster.url, timeout_s=TIMEOUT_S)
    await registry.prepare()
    first, replica = cluster.members[0], cluster.members[3]
    lost_side = tenants_on(registry, first.port, 20)
    other_side = tenants_on(registry, cluster.members[1].port, 20)
    sent: list[TenantName] = []
    acknowledged: set[TenantName] = set()
    unknown: set[TenantName] = set()

    async def write(names: list[TenantName]) -> None:
        for name in names:
            sent.append(name)
            try:
                await registry.tenants.create(name, FREE)
                await registry.functions.put_version(name, CLASSIFY, draft(name), activate=True)
            except RegistryUnavailable:
                unknown.add(name)
            else:
                acknowledged.add(name)

    await write(lost_side[:10])
    await on(cluster.wait_until_replicated)
    before = set(acknowledged)
    assert len(before) == 10
    first.process.send_signal(signal.SIGKILL)
    await write(lost_side[10:12] + other_side[:5])
    assert set(lost_side[10:12]) <= unknown
    await on(cluster.take_over, str(replica.port))
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await registry.prepare()
                break
            except RegistryUnavailable:
                await asyncio.sleep(0.1)
    after = lost_side[12:] + other_side[5:]
    await write(after)
    assert set(after) <= acknowledged
    lost = set()
    for name in sent:
        entry = await registry.functions.entry(name, CLASSIFY)
        if name in acknowledged and entry is None:
            lost.add(name)
        if entry is not None:
            assert entry.function.active == 1
    with capsys.disabled():
        print(f"\nfailover: sent {len(sent)} acknowledged {len(acknowledged)} unknown {len(unknown)} lost {len(lost)}")
    assert lost == set()  # the replica had them when the first server was killed
    listed = {tenant.name for tenant in await registry.tenants.list()}
    assert acknowledged <= listed
    await registry.aclose()


async def test_a_slot_that_moves_is_followed(cluster: RedisCluster) -> None:
    registry = Registry(cluster.url, timeout_s=TIMEOUT_S * 5)
    await registry.prepare()
    names = tenants_on(registry, cluster.members[0].port, 30)
    for name in names[:15]:
        await registry.tenants.create(name, FREE)
    move = asyncio.create_task(on(cluster.move_slots, "3000"))
    while not move.done():
        for name in names[:15]:
            await registry.tenants.patch(name, suspended=False)
        assert {tenant.name for tenant in await registry.tenants.list()} == set(names[:15])
    await move
    for name in names[15:]:
        await registry.tenants.create(name, FREE)
    await registry.connection.command("DEL", TENANTS)
    await registry.tenants.repair_index()
    assert {tenant.name for tenant in await registry.tenants.list()} == set(names)
    await registry.aclose()


async def test_listeners_go_on_when_their_server_is_lost(cluster: RedisCluster) -> None:
    """Events are hints: what matters is that a subscription stands again on one that lives."""
    registry = Registry(cluster.url, timeout_s=TIMEOUT_S)
    await registry.prepare()
    await registry.tenants.create(ACME, FREE)
    port = primary_of(registry, key(ACME, Kind.TENANT))
    victim = next(member for member in cluster.members[1:3] if member.port != port)  # it has no replica
    stands = 0
    heard: list[Event] = []

    async def listen() -> None:
        nonlocal stands
        while True:
            try:
                async with aclosing(registry.subscribe(listen_s=1)) as events:
                    async for event in events:
                        if isinstance(event, Subscribed):
                            stands += 1
                        else:
                            heard.append(event)
            except RegistryUnavailable:
                await asyncio.sleep(0.1)

    listener = asyncio.create_task(listen())
    async with asyncio.timeout(WAIT_S):
        while stands == 0:
            await asyncio.sleep(0.02)
        victim.process.send_signal(signal.SIGKILL)
        await on(cluster.forgive)
        heard.clear()
        while not heard:  # first a server that is gone may be asked, then another
            with suppress(RegistryUnavailable):
                await registry.tenants.patch(ACME, suspended=True)
            await asyncio.sleep(0.1)
    listener.cancel()
    await asyncio.gather(listener, return_exceptions=True)
    await registry.aclose()


async def test_blobs_are_spread_and_none_is_removed_when_a_server_is_lost(cluster: RedisCluster) -> None:
    """A collector that saw the references of two servers of three would remove the blobs of the third's."""
    registry = Registry(cluster.url, timeout_s=TIMEOUT_S)
    remote = RedisBlobs(registry.connection)
    data = os.urandom(2 * CHUNK_BYTES + 5)
    await registry.prepare()
    names = [digest_of_text(str(number)) for number in range(12)]
    for name in names:
        await remote.put(name, io.BytesIO(data), len(data))
    assert len({primary_of(registry, blob_key(name)) for name in names}) > 1
    assert await remote.list() == tuple(sorted(names))
    target = io.BytesIO()
    await remote.fetch(names[0], target)
    assert target.getvalue() == data
    assert await remote.delete(names[0])
    assert len(await remote.list()) == 11
    assert [found async for found in registry.connection.scan(SCHEMA)] == [SCHEMA]
    cluster.members[2].process.send_signal(signal.SIGKILL)
    with pytest.raises(RegistryUnavailable):
        [found async for found in registry.connection.scan("*")]
    await registry.aclose()

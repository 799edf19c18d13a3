"""Many Redis servers as one: `redis+cluster://host:port,host:port`. What `connection.Connection` asks of its server.

The library follows MOVED and ASK, which a server answers instead of carrying a command out; it repeats nothing else.
After a lost connection the next command asks anew who has which slots, the servers of the URL among others.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from wisp.errors import InvalidSettings

SCHEMES = ("redis+cluster", "rediss+cluster")
DEFAULT_PORT = 6379
MAX_SEEDS = 64
WHOLE = 3
"""A command may wait for a connection, for the servers' answer to who has which slot, and for its own."""
FORM = "redis+cluster://user:password@host:port,host:port is the form of a Redis Cluster's URL"


def parse_cluster(url: str) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """Host and port of each server that is named, and what is the same for all; raises `InvalidSettings`."""
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        credentials, _, hosts = parts.netloc.rpartition("@")
        seeds = [_host_and_port(host) for host in hosts.split(",")]
    except ValueError as error:
        raise InvalidSettings(FORM) from error
    if parts.path not in ("", "/", "/0") or parts.fragment or len(seeds) > MAX_SEEDS:
        raise InvalidSettings(f"{FORM}; a cluster has database 0 only")
    unwelcome = sorted(name for name in options if not name.startswith("ssl_"))
    if unwelcome:
        raise InvalidSettings(f"a Redis Cluster's URL may carry ssl_…, not {unwelcome[0]!a}")
    user, _, password = credentials.partition(":")
    common: dict[str, Any] = dict(options)
    if credentials:
        common |= {"username": unquote(user) or None, "password": unquote(password) or None}
    if parts.scheme == "rediss+cluster":
        common["ssl"] = True
    return seeds, common


def _host_and_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("no host")
    return parts.hostname, parts.port or DEFAULT_PORT


class Renewed(Connection):
    """Notices before a command, not by it, that the server has closed an idle connection."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._reader is not None and self._reader.at_eof():
            await self.disconnect(nowait=True)
        await super().send_packed_command(command, check_health)


class RenewedTls(Renewed, SSLConnection):
    pass


class Cluster:
    """`connections` commands at once, on as many connections to each server at most."""

    def __init__(self, url: str, *, timeout_s: float, connections: int) -> None:
        self._seeds, self._common = parse_cluster(url)
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(connections)
        self._limits: dict[str, Any] = {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "protocol": 2,
            "driver_info": None,
        }
        self.client = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in self._seeds],
            retry=Retry(NoBackoff(), 0),
            require_full_coverage=True,
            reinitialize_steps=0,  # else every few MOVED close the connections under other commands
            max_connections=connections + 2,  # one more for ASKING, one for the slots
            **self._limits,
            **self._common,
        )
        # Shared with all that the client makes later: it has no argument for it.
        self.client.connection_kwargs["connection_class"] = RenewedTls if "ssl" in self._common else Renewed

    async def aclose(self) -> None:
        await self.client.aclose()  # does nothing after a lost connection
        for nodes in ("nodes_cache", "startup_nodes"):
            await self.client.nodes_manager.aclose(nodes)

    async def execute(self, *words: str | bytes | int) -> Any:
        async with self._place():
            return await self.client.execute_command(*words)

    async def execute_together(self, *words: str | bytes | int) -> Any:
        """Alone: others' keys are on other servers."""
        return await self.execute(*words)

    async def get_each(self, keys: Sequence[str]) -> list[bytes | None]:
        async with self._place():
            if self.client.get_default_node() is None:
                await self.client.initialize()
            pipeline = self.client.pipeline()
            for key in keys:
                pipeline.get(key)
            return cast(list[bytes | None], await pipeline.execute())

    async def ping(self) -> None:
        """All that have slots."""
        async with self._place():
            await self.client.initialize()
            await self.client.execute_command("PING", target_nodes=self.client.get_primaries())

    async def scan(self, pattern: str) -> AsyncIterator[bytes]:
        """All keys that match, of every server that has slots, as they are known at the beginning: fails if one does
        not answer, or if a slot is nobody's. A key whose slot moves meanwhile may be missed."""
        async with self._place():
            await self.client.initialize()
            await self.client.nodes_manager.initialize()
        for node in self.client.get_primaries():
            cursor = 0
            while True:
                async with self._place():
                    cursor, found = await node.execute_command("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
                for key in found:
                    yield key
                if cursor == 0:
                    break

    def pubsub(self) -> PubSub:
        """On any server: what is published on one reaches all. When that one is lost, the next is another, perhaps."""
        known = [(node.host, int(node.port)) for node in self.client.get_nodes()] or self._seeds
        host, port = random.choice(known)  # noqa: S311  (no secret)
        options = {name: value for name, value in self._common.items() if name != "ssl"}
        if "ssl" in self._common:
            options["connection_class"] = SSLConnection
        pool = ConnectionPool(host=host, port=port, retry=Retry(NoBackoff(), 0), **self._limits, **options)
        return Redis.from_pool(pool).pubsub()

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Bounds how many commands are under way, and how long each takes, its looking for the server included."""
        async with asyncio.timeout(WHOLE * self._timeout_s), self._places:
            manager = self.client.nodes_manager
            for host, port in self._seeds:  # the library forgets those once it knows others, which may all go away
                name = f"{host}:{port}"
                if name not in manager.startup_nodes:
                    manager.startup_nodes[name] = ClusterNode(host, port, **self.client.connection_kwargs)
            yield

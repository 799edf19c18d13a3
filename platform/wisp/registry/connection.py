"""The one way to Redis, one server or a cluster: explicit timeouts, no retries, every failure as `RegistryUnavailable`.

Retries are off because a command whose answer was lost may have been carried out (redis-py's default counted one INCR
twice). A message here may reach a caller: it never carries an address or the server's text, which are in the cause.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError
from redis.exceptions import TimeoutError as RedisTimeout

from wisp.errors import InvalidSettings, RegistryUnavailable
from wisp.registry import cluster
from wisp.registry.roundtrips import RoundTrips

SCHEMES = ("redis", "rediss", "unix")
DEFAULT_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 32
READS_PER_ROUND_TRIP = 256


@dataclass(frozen=True)
class Script:
    """A Lua script; its first comment states its KEYS and ARGV."""

    text: str

    @cached_property
    def sha(self) -> str:
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()  # how Redis names scripts


@contextmanager
def translated() -> Iterator[None]:
    """The one place where the client library's errors become wisp's."""
    try:
        yield
    except (RedisTimeout, TimeoutError) as error:
        raise RegistryUnavailable(
            "the registry did not answer in time: whether a change was made is unknown, read it before trying again"
        ) from error
    except (RedisError, RedisClusterException, OSError) as error:
        raise RegistryUnavailable("the registry cannot be reached or refused the command") from error


def checked(url: str) -> str:
    """`url` if wisp offers it; raises `InvalidSettings`, which never repeats the password."""
    if url.partition(":")[0] in cluster.SCHEMES:
        cluster.parse_cluster(url)
        return url
    try:
        parts = urlsplit(url)
        _ = parts.port
        options = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    except ValueError as error:
        raise InvalidSettings("the Redis URL cannot be read: redis://host:port/0 is the form") from error
    if parts.scheme not in SCHEMES:
        raise InvalidSettings(
            "a Redis URL begins with redis://, rediss://, unix://, redis+cluster:// or rediss+cluster://"
        )
    if parts.scheme == "unix" and not parts.path:
        raise InvalidSettings("a unix:// Redis URL needs the path of the socket: unix:///run/redis/redis.sock")
    # The library would take timeouts and retries from here, past the ones that this module promises.
    unwelcome = sorted(name for name in options if name != "db" and not name.startswith("ssl_"))
    if unwelcome:
        raise InvalidSettings(f"a Redis URL may carry db and ssl_…, not {unwelcome[0]!a}")
    return url


class Server(Protocol):
    """One server or many, with the library's own errors."""

    async def execute(self, *words: str | bytes | int) -> Any: ...

    async def execute_together(self, *words: str | bytes | int) -> Any:
        """In one round trip with others that are asked for at the same moment, where that can be."""

    async def get_each(self, keys: Sequence[str]) -> list[bytes | None]: ...

    async def ping(self) -> None: ...

    def scan(self, pattern: str) -> AsyncIterator[bytes]: ...

    def pubsub(self) -> PubSub: ...

    async def aclose(self) -> None: ...


class SingleServer:
    """A bounded pool of connections."""

    def __init__(self, url: str, *, timeout_s: float, connections: int) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            driver_info=None,
        )
        self.client: Redis = Redis.from_pool(pool)
        self._round_trips = RoundTrips(self.client, timeout_s=timeout_s)

    async def aclose(self) -> None:
        await self.client.aclose()

    async def execute(self, *words: str | bytes | int) -> Any:
        return await self.client.execute_command(*words)  # type: ignore[no-untyped-call]

    async def execute_together(self, *words: str | bytes | int) -> Any:
        return await self._round_trips.execute(*words)

    async def get_each(self, keys: Sequence[str]) -> list[bytes | None]:
        # One command: the library spends ten times as long on each of a pipeline's answers as on an item of one.
        return cast(list[bytes | None], await self.execute("MGET", *keys))

    async def ping(self) -> None:
        await self.execute("PING")

    async def scan(self, pattern: str) -> AsyncIterator[bytes]:
        cursor = 0
        while True:
            answer = await self.execute("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            for key in cast(list[bytes], answer[1]):
                yield key
            cursor = int(answer[0])
            if cursor == 0:
                return

    def pubsub(self) -> PubSub:
        return self.client.pubsub()


class Connection:
    """What wisp asks of Redis. Belongs to one event loop."""

    def __init__(self, url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, connections: int = MAX_CONNECTIONS) -> None:
        self.timeout_s = timeout_s
        kind = cluster.Cluster if checked(url).partition(":")[0] in cluster.SCHEMES else SingleServer
        try:
            self.server: Server = kind(url, timeout_s=timeout_s, connections=connections)
        except (ValueError, TypeError, RedisError, RedisClusterException) as error:
            raise InvalidSettings("the Redis URL cannot be used: check its options") from error

    async def aclose(self) -> None:
        with translated():
            await self.server.aclose()

    async def command(self, *words: str | bytes | int) -> Any:
        """One command, answered as the library parses it. All its keys are of one slot."""
        with translated():
            return await self.server.execute(*words)

    async def ping(self) -> None:
        with translated():
            await self.server.ping()

    async def get(self, key: str) -> bytes | None:
        return cast(bytes | None, await self.command("GET", key))

    async def hash_get(self, key: str, field: str) -> bytes | None:
        return cast(bytes | None, await self.command("HGET", key, field))

    async def hash_all(self, key: str) -> dict[str, bytes]:
        found = cast(dict[bytes, bytes], await self.command("HGETALL", key))
        return {field.decode(): value for field, value in found.items()}

    async def hash_get_each(self, key: str, fields: Sequence[str]) -> list[bytes | None]:
        """The values of fields of one hash, in order, all of one moment."""
        return cast(list[bytes | None], await self.command("HMGET", key, *fields)) if fields else []

    async def get_each(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of string keys in any slots, in order, without a transaction."""
        values: list[bytes | None] = []
        for start in range(0, len(keys), READS_PER_ROUND_TRIP):
            with translated():
                values += await self.server.get_each(keys[start : start + READS_PER_ROUND_TRIP])
        return values

    async def scan(self, pattern: str) -> AsyncIterator[str]:
        """Each key that matches, possibly more than once; those that stand throughout are not missed, unless
        their slot moves to another server of a cluster meanwhile."""
        with translated():
            async for key in self.server.scan(pattern):
                yield key.decode()

    async def run(self, script: Script, keys: Sequence[str], *arguments: str | bytes | int) -> list[Any]:
        """One script, whole or not at all. All keys are of one slot."""
        try:
            with translated():
                answer = await self.server.execute_together("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except RegistryUnavailable as error:
            if not isinstance(error.__cause__, NoScriptError):  # then it certainly did not run
                raise
            answer = await self.command("EVAL", script.text, len(keys), *keys, *arguments)
        return cast(list[Any], answer)

    def pubsub(self) -> PubSub:
        return self.server.pubsub()

    async def wait_until_reachable(self, deadline_s: float) -> None:
        """Returns once PING is answered; raises `RegistryUnavailable` when it still is not after `deadline_s`."""
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    try:
                        return await self.ping()
                    except RegistryUnavailable:
                        await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise RegistryUnavailable(f"the registry was not reachable within {deadline_s:g} s") from error

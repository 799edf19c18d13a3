from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from registry.clusters import RedisCluster, on_every_server
from registry.conftest import Server
from wisp.errors import InvalidSettings, RegistryUnavailable
from wisp.registry.connection import Connection, Script
from wisp.registry.registry import Registry


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+cluster://", "is the form"),
        ("redis+cluster://a:1,:2", "is the form"),
        ("redis+cluster://:hunter2@a:x", "is the form"),
        ("redis+cluster://u:hunter2@a:1/1", "database 0 only"),
        ("redis+cluster://:hunter2@a:1?retry=9", "retry"),
        ("redis+cluster://" + ",".join(["a"] * 65), "database 0"),
        ("http://localhost", "begins with"),
        ("localhost:6379", "begins with"),
        ("", "begins with"),
        ("unix://", "path of the socket"),
        ("redis://:hunter2@localhost:notaport", "cannot be read"),
        ("redis://:hunter2@localhost?socket_timeout=0", "socket_timeout"),
        ("redis://:hunter2@localhost?db=x", "options"),
    ],
)
def test_a_url_that_is_not_offered_is_refused_without_its_password(url: str, says: str) -> None:
    with pytest.raises(InvalidSettings, match=says) as caught:
        Connection(url)
    assert "hunter2" not in caught.value.message


async def test_an_unreachable_server_is_unavailable(tmp_path: Path) -> None:
    connection = Connection(f"unix://{tmp_path}/none.sock")
    with pytest.raises(RegistryUnavailable, match="cannot be reached") as caught:
        await connection.ping()
    assert str(tmp_path) not in caught.value.message
    await connection.aclose()


async def test_a_refused_command_is_unavailable(registry: Registry) -> None:
    await registry.connection.command("SET", "text", "x")
    with pytest.raises(RegistryUnavailable):
        await registry.connection.hash_get("text", "field")


async def test_a_time_out_says_that_the_outcome_is_unknown(redis_server: Server | RedisCluster) -> None:
    connection = Connection(redis_server.url, timeout_s=0.2)
    await connection.ping()
    redis_server.pause()
    try:
        with pytest.raises(RegistryUnavailable, match="unknown"):
            await connection.command("INCR", "counted")
    finally:
        redis_server.resume()
    await connection.aclose()


async def test_a_command_whose_answer_is_lost_is_not_sent_twice(
    registry: Registry, redis_server: Server | RedisCluster
) -> None:
    hasty = Connection(redis_server.url, timeout_s=0.2)
    await hasty.ping()
    redis_server.pause()
    try:
        with pytest.raises(RegistryUnavailable):
            await hasty.command("INCR", "counted")
    finally:
        redis_server.resume()
    await hasty.aclose()
    assert await registry.connection.get("counted") in (None, b"1")


async def test_more_callers_than_connections_take_turns(redis_server: Server | RedisCluster) -> None:
    connection = Connection(redis_server.url, connections=2)
    await asyncio.gather(*(connection.ping() for _ in range(20)))
    await connection.aclose()


async def test_a_script_runs_whether_or_not_the_server_has_seen_it(registry: Registry) -> None:
    script = Script("-- KEYS: (none)\n-- ARGV: anything\nreturn {'ok', ARGV[1]}")
    await registry.connection.command("SCRIPT FLUSH")
    for _ in range(2):
        assert await registry.connection.run(script, [], "a") == [b"ok", b"a"]


async def test_connections_that_the_server_closed_are_opened_again(
    registry: Registry, redis_server: Server | RedisCluster
) -> None:
    idle = Connection(redis_server.url)
    await asyncio.gather(*(idle.ping() for _ in range(5)))
    await on_every_server(registry, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await asyncio.gather(*(idle.ping() for _ in range(5)))
    await idle.aclose()


async def test_waiting_for_a_server_ends(tmp_path: Path) -> None:
    connection = Connection(f"unix://{tmp_path}/none.sock")
    with pytest.raises(RegistryUnavailable, match="within"):
        await connection.wait_until_reachable(0.2)
    await connection.aclose()

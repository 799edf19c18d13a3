"""Scripts that are run at the same moment share a round trip, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from registry.conftest import Server
from wisp.errors import RegistryUnavailable
from wisp.registry import roundtrips
from wisp.registry.connection import Connection, Script
from wisp.registry.registry import Registry

COUNT = Script("-- KEYS: a counter\n-- ARGV: by how much\nreturn {redis.call('INCRBY', KEYS[1], ARGV[1])}")
FAIL_IF = Script("-- KEYS: (none)\n-- ARGV: what to say\nif ARGV[1] == 'no' then error('no') end\nreturn {ARGV[1]}")
AT_ONCE = 10
PATIENCE_S = 30


@pytest.fixture
async def connection(registry: Registry, single_server: Server) -> AsyncIterator[Connection]:
    """To an empty server."""
    connection = Connection(single_server.url, timeout_s=PATIENCE_S)
    yield connection
    await connection.aclose()


async def reads(registry: Registry) -> int:
    """How often the server has read from a connection."""
    stats = await registry.connection.command("INFO", "stats")
    return int(stats["total_reads_processed"])


async def test_those_of_one_moment_are_told_to_the_server_at_once(registry: Registry, connection: Connection) -> None:
    await connection.run(COUNT, ["counter"], 0)
    costs = []
    for together in (True, False):
        before = await reads(registry)
        if together:
            await asyncio.gather(*(connection.run(COUNT, ["counter"], 1) for _ in range(AT_ONCE)))
        else:
            for _ in range(AT_ONCE):
                await connection.run(COUNT, ["counter"], 1)
        costs.append(await reads(registry) - before)
    assert costs[1] - costs[0] == AT_ONCE - 1
    assert await connection.get("counter") == str(2 * AT_ONCE).encode()


async def test_each_gets_its_own_answer_however_many_there_are(connection: Connection) -> None:
    words = [str(number) for number in range(3 * roundtrips.MOST + 1)]
    answers = await asyncio.gather(*(connection.run(FAIL_IF, [], word) for word in words))
    assert answers == [[word.encode()] for word in words]


async def test_an_error_is_the_one_commands_that_made_it(connection: Connection) -> None:
    said = ["a", "no", "b", "no", "c"]
    answers = await asyncio.gather(*(connection.run(FAIL_IF, [], word) for word in said), return_exceptions=True)
    assert [answers[at] for at in (0, 2, 4)] == [[b"a"], [b"b"], [b"c"]]
    assert all(isinstance(answers[at], RegistryUnavailable) for at in (1, 3))


async def test_scripts_that_the_server_has_not_seen_run_once_each(registry: Registry, connection: Connection) -> None:
    await registry.connection.command("SCRIPT FLUSH")
    counted = await asyncio.gather(*(connection.run(COUNT, ["counter"], 1) for _ in range(AT_ONCE)))
    assert sorted(counted) == [[number + 1] for number in range(AT_ONCE)]


async def test_one_whose_caller_leaves_takes_no_other_along(connection: Connection) -> None:
    calls = [asyncio.create_task(connection.run(FAIL_IF, [], str(number))) for number in range(3)]
    await asyncio.sleep(0)  # it has been asked, and nothing was sent
    calls[0].cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    calls[1].cancel()
    async with asyncio.timeout(PATIENCE_S):
        ended = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(ended[0], asyncio.CancelledError)
    assert isinstance(ended[1], asyncio.CancelledError)
    assert ended[2] == [b"2"]
    assert await connection.run(FAIL_IF, [], "after") == [b"after"]


async def test_a_lost_answer_is_lost_to_all_and_nothing_is_sent_twice(
    registry: Registry, single_server: Server
) -> None:
    hasty = Connection(single_server.url, timeout_s=0.2)
    await hasty.run(COUNT, ["counter"], 0)
    single_server.pause()
    try:
        asked = (hasty.run(COUNT, ["counter"], 1) for _ in range(AT_ONCE))
        ended = await asyncio.gather(*asked, return_exceptions=True)
    finally:
        single_server.resume()
    assert all(isinstance(each, RegistryUnavailable) and "unknown" in each.message for each in ended)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                assert await hasty.run(COUNT, ["counter"], 100) in [[100], [100 + AT_ONCE]]
                break
            except RegistryUnavailable:
                await asyncio.sleep(0.1)
    await hasty.aclose()

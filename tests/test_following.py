"""Followers of a log: they get what stands there and what comes, never hold the writer up, and learn what they lost."""

from __future__ import annotations

import asyncio

import pytest

from wisp.errors import TooManyInflight
from wisp.following import MAX_FOLLOWERS, MAX_WAITING
from wisp.names import RequestId, parse_function, parse_tenant
from wisp.tenantlog import Stream, TenantLog

ACME, BETA = parse_tenant("acme"), parse_tenant("beta")
HELLO, OTHER = parse_function("hello"), parse_function("other")
PATIENCE_S = 20.0


def write(log: TenantLog, *texts: str) -> None:
    for text in texts:
        log.add(ACME, HELLO, request_id=RequestId("r"), version=1, stream=Stream.LOG, text=text)


async def test_what_stands_there_comes_first_then_what_is_written_of_this_function() -> None:
    log = TenantLog()
    write(log, "old")
    with log.follow(ACME, HELLO) as follower:
        write(log, "new\nnewer")
        log.add(ACME, OTHER, request_id=RequestId("r"), version=1, stream=Stream.LOG, text="of another function")
        log.add(BETA, HELLO, request_id=RequestId("r"), version=1, stream=Stream.LOG, text="of another tenant")
        lines = [await follower.take(PATIENCE_S) for _ in range(3)]
        assert [line and line.text for line in lines] == ["old", "new", "newer"]
        assert await follower.take(0.01) is None
        waiting = asyncio.create_task(follower.take(PATIENCE_S))
        await asyncio.sleep(0)
        write(log, "at last")
        line = await waiting
        assert line is not None
        assert line.text == "at last"
        assert not follower.over


async def test_a_reader_that_lags_gets_what_it_had_and_the_number_of_what_it_lost() -> None:
    log = TenantLog()
    write(log, "old")
    with log.follow(ACME, HELLO) as follower:
        for number in range(MAX_WAITING + 7):
            write(log, str(number))
        taken = []
        while not follower.over:
            line = await follower.take(PATIENCE_S)
            assert line is not None
            taken.append(line.text)
            write(log, "written while it reads: lost as well, so that nothing is missing in the middle")
        assert taken == ["old", *map(str, range(MAX_WAITING))]
        assert follower.lost == 7 + len(taken)


async def test_a_tenant_has_so_many_followers_and_another_its_own() -> None:
    log = TenantLog()
    held = [log.follow(ACME, HELLO) for _ in range(MAX_FOLLOWERS)]
    for one in held:
        one.__enter__()
    with pytest.raises(TooManyInflight), log.follow(ACME, OTHER):
        pass
    with log.follow(BETA, HELLO):
        pass
    held[0].__exit__(None, None, None)
    with log.follow(ACME, OTHER):
        pass
    for one in held[1:]:
        one.__exit__(None, None, None)
    assert not log.followers.count


async def test_a_drain_and_a_forgotten_function_end_their_followers() -> None:
    log = TenantLog()
    write(log, "last words")
    with log.follow(ACME, HELLO) as follower, log.follow(ACME, OTHER) as other:
        log.forget(ACME, HELLO)
        assert not follower.over
        assert await follower.take(PATIENCE_S) is not None
        assert follower.over
        assert not other.over
        waiting = asyncio.create_task(other.take(PATIENCE_S))
        await asyncio.sleep(0)
        log.followers.end_all()
        assert await waiting is None
        assert other.over
    with log.follow(ACME, OTHER) as late:
        assert late.over

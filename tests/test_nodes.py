"""Several nodes on one Redis, as processes of their own: updates under load, faults below them, and none below them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from redisprocess import RedisProcess, redis_process
from serving import serving
from updates import Crowd, Platform, first_answer_s, wide_policies

VERSIONS = 4
UPDATES = 40
WAIT_S = 60.0


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[tuple[RedisProcess, tuple[str, ...]]]:
    """A Redis, and the flags of nodes that share it and one directory of blobs."""
    policies = wide_policies(tmp_path / "policies")
    with redis_process() as server:
        yield server, ("--redis", server.url, "--blobs", f"file://{tmp_path / 'blobs'}", "--policies", str(policies))


def place(tmp_path: Path, name: str) -> Path:
    directory = tmp_path / name
    directory.mkdir(exist_ok=True)
    return directory


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


async def test_updates_in_a_row_under_a_crowd_lose_and_mix_nothing(
    tmp_path: Path, shared: tuple[RedisProcess, tuple[str, ...]]
) -> None:
    _, flags = shared
    with serving(place(tmp_path, "a"), *flags) as first, serving(place(tmp_path, "b"), *flags) as second:
        here, there = Platform(first.port), Platform(second.port)
        here.make_tenant("acme")
        for number in range(1, VERSIONS + 1):
            assert here.upload("which", number, activate=number == 1).json()["version"] == number
        there.key = here.key
        path, at = "/t/acme/which", 1
        async with (
            Crowd(here.port, here.key, path, clients=32) as near,
            Crowd(there.port, here.key, path, clients=32) as far,
        ):
            for update in range(UPDATES):
                at = (update + 1) % VERSIONS + 1
                began = time.perf_counter()
                answer = await asyncio.to_thread(
                    here.call, "POST", "/v1/tenants/acme/functions/which/activate", key=here.key, json={"version": at}
                )
                assert answer.status_code == 200
                async with asyncio.timeout(WAIT_S):
                    await first_answer_s(here.port, here.key, path, at, began)
                    await first_answer_s(there.port, here.key, path, at, began)
            await near.sent(64)
            await far.sent(64)
        for crowd in (near, far):
            assert not crowd.count.wrong
            assert crowd.count.right == crowd.count.sent > UPDATES

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


def registry_of(platform: Platform) -> dict[str, object]:
    found = platform.ready()["registry"]
    assert isinstance(found, dict)
    return found


def answers(platform: Platform, number: int, key: str = "") -> bool:
    answer = platform.call("GET", "/t/acme/which", key=key or platform.key)
    return answer.status_code == 200 and f"NUMBER={number}\0" in answer.text


async def test_a_node_without_its_registry_goes_on_with_what_it_kept_and_catches_up(
    tmp_path: Path, shared: tuple[RedisProcess, tuple[str, ...]]
) -> None:
    server, flags = shared
    flags = (*flags[:2], *flags[4:])  # blobs in Redis: this node has copies
    edge, centre = place(tmp_path, "edge"), place(tmp_path, "centre")
    with serving(edge, *flags) as process:
        platform = Platform(process.port)
        platform.make_tenant("acme")
        assert platform.upload("which", 1).status_code == 201
        assert platform.upload("unused", 1).status_code == 201
        other = platform.call("POST", "/v1/tenants/acme/keys", json={"role": "invoke"}).json()
        assert answers(platform, 1)
        assert answers(platform, 1, other["secret"])
    server.kill()
    with serving(edge, *flags) as process:
        platform.port = process.port
        ready = platform.ready()
        assert ready["ready"]
        assert registry_of(platform)["reachable"] is False
        assert registry_of(platform)["mode"] == "read_only"
        assert answers(platform, 1)
        assert answers(platform, 1, other["secret"])
        strange = other["secret"][:-1] + ("A" if other["secret"][-1] != "A" else "B")
        for path, key in (("/t/acme/which", strange), ("/t/acme/unused", platform.key)):
            assert platform.call("GET", path, key=key).json()["code"] == "registry_unavailable"
        assert platform.upload("which", 2).json()["code"] == "registry_unavailable"

        server.start()
        until(lambda: registry_of(platform)["reachable"] is True)
        assert answers(platform, 1)
        with serving(centre, *flags) as second:
            elsewhere = Platform(second.port, platform.key)
            assert elsewhere.upload("which", 2).json()["version"] == 2
            elsewhere.call("DELETE", f"/v1/tenants/acme/keys/{other['id']}").raise_for_status()
        until(lambda: answers(platform, 2))
        until(lambda: platform.call("GET", "/t/acme/which", key=other["secret"]).status_code == 401)

    snapshot = edge / "data" / "snapshot"
    whole = snapshot.read_bytes()
    assert b'"TOKEN"' not in whole
    assert platform.key.encode() not in whole
    server.kill()
    snapshot.write_bytes(whole.replace(b'"suspended":false', b'"suspended":null', 1))
    with pytest.raises(AssertionError, match=r"(?s)damaged, or another node's.*cannot be reached.*is damaged"):
        serving(edge, *flags).__enter__()
    snapshot.unlink()
    with pytest.raises(AssertionError, match=r"cannot be reached.*a kept snapshot to go on with is not there"):
        serving(edge, *flags).__enter__()
    snapshot.write_bytes(whole.replace(b'"suspended":false', b'"suspended":null', 1))
    server.start()
    with serving(edge, *flags) as process:
        platform.port = process.port
        kept = registry_of(platform)["kept"]
        assert isinstance(kept, dict)
        assert kept["found_damaged"] is True
        assert answers(platform, 2)

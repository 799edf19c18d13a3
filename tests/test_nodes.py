"""Several nodes on one Redis, as processes of their own: updates under load, faults below them, and none below them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import httpx
import pytest

from platforms import wide_policies
from redisprocess import RedisProcess, redis_process
from served import processes_of
from serving import command, environment, serving
from updates import Crowd, Platform, first_answer_s

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
        compiled = tmp_path / "b" / "data" / "code"  # uploads reach the other node's cache before they are active
        until(lambda: len(list(compiled.glob("*.cwasm"))) == VERSIONS)
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


def answers(platform: Platform, number: int, key: str = "", *, function: str = "which", also: str = "") -> bool:
    answer = platform.call("GET", f"/t/acme/{function}", key=key or platform.key)
    return answer.status_code == 200 and f"NUMBER={number}\0" in answer.text and also in answer.text


async def test_a_node_without_its_registry_goes_on_with_what_it_kept_and_catches_up(
    tmp_path: Path, shared: tuple[RedisProcess, tuple[str, ...]]
) -> None:
    server, flags = shared
    flags = flags[:2]  # blobs and policies in Redis too: this node has copies
    edge, centre = place(tmp_path, "edge"), place(tmp_path, "centre")
    with serving(edge, *flags) as process:
        platform = Platform(process.port)
        platform.make_tenant("acme")
        assert platform.upload("which", 1).status_code == 201
        assert platform.upload("unused", 1).status_code == 201
        platform.call("PUT", "/v1/tenants/acme/secrets/TOKEN", content=b"of-great-value").raise_for_status()
        assert platform.upload("secret", 1, more="secrets: [TOKEN]\n").status_code == 201
        assert answers(platform, 1, function="secret", also="TOKEN=of-great-value\0")
        other = platform.call("POST", "/v1/tenants/acme/keys", json={"role": "invoke"}).json()
        assert answers(platform, 1)
        assert answers(platform, 1, other["secret"])
    server.kill()
    for compiled in (edge / "data" / "code").glob("*.cwasm"):  # it has copies of the modules, too
        compiled.unlink()
    with serving(edge, *flags) as process:
        platform.port = process.port
        ready = platform.ready()
        assert ready["ready"]
        assert registry_of(platform)["reachable"] is False
        assert registry_of(platform)["mode"] == "read_only"
        assert answers(platform, 1)
        assert answers(platform, 1, other["secret"])
        assert answers(platform, 1, function="secret", also="TOKEN=of-great-value\0")
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
    assert b'"TOKEN"' in whole
    assert b"of-great-value" not in whole
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


class Writer:
    """Somebody who makes keys and functions, one after the other, and remembers what was acknowledged."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.keys: set[str] = set()
        self.functions: set[str] = set()
        self.refused = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def acknowledged(self) -> int:
        return len(self.keys) + len(self.functions)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                if number % 4:
                    answer = self.platform.call("POST", "/v1/tenants/acme/keys", json={"role": "invoke"})
                    if answer.status_code == 201:
                        self.keys.add(answer.json()["id"])
                else:
                    answer = self.platform.upload(f"written-{number}", 1)
                    if answer.status_code == 201:
                        self.functions.add(f"written-{number}")
            except httpx.TransportError:  # the platform itself was killed
                return
            if answer.status_code == 503 and answer.json()["code"] == "registry_unavailable":
                self.refused += 1
            elif answer.status_code != 201:
                self.wrong.append(answer.text)

    async def went_on(self, *, acknowledged: int = 0, refused: int = 0) -> None:
        """Until that much more has happened."""
        goal = (self.acknowledged + acknowledged, self.refused + refused)
        async with asyncio.timeout(WAIT_S):
            while self.acknowledged < goal[0] or self.refused < goal[1]:
                await asyncio.sleep(0.02)

    def lost(self, platform: Platform) -> set[str]:
        """What was acknowledged and is not there. All that is there is whole."""
        keys = {key["id"] for key in platform.call("GET", "/v1/tenants/acme/keys").json()["items"]}
        functions = {one["function"] for one in platform.call("GET", "/v1/tenants/acme/functions").json()["items"]}
        for name in functions - {"which"}:
            answer = platform.call("GET", f"/t/acme/{name}", key=platform.key)
            assert (answer.status_code, "NUMBER=1\0" in answer.text) == (200, True), answer.text
        return (self.keys - keys) | (self.functions - functions)


async def test_whatever_happens_to_redis_callers_are_answered_and_nothing_acknowledged_is_lost(
    tmp_path: Path, shared: tuple[RedisProcess, tuple[str, ...]]
) -> None:
    server, flags = shared
    with serving(place(tmp_path, "a"), *flags) as process:
        platform = Platform(process.port)
        platform.make_tenant("acme")
        assert platform.upload("which", 1).status_code == 201
        assert answers(platform, 1)

        async def stopped(writer: Writer) -> None:
            server.signal(signal.SIGSTOP)
            await writer.went_on(refused=1)
            assert (await asyncio.to_thread(registry_of, platform))["reachable"] is False
            server.signal(signal.SIGCONT)

        async def killed(writer: Writer) -> None:
            server.kill()
            await writer.went_on(refused=3)
            server.start()

        async def read_only(writer: Writer) -> None:
            with server.client() as client:
                client.replicaof("127.0.0.1", "1")
                await writer.went_on(refused=3)
                client.replicaof("NO", "ONE")

        async def full(writer: Writer) -> None:
            with server.client() as client:
                client.config_set("maxmemory", 1)
                await writer.went_on(refused=3)
                client.config_set("maxmemory", 0)

        async def slow(writer: Writer) -> None:
            with server.client() as client:
                for _ in range(5):
                    await asyncio.to_thread(client.execute_command, "DEBUG", "SLEEP", "0.2")
            await writer.went_on(acknowledged=1)

        with Writer(platform) as writer:
            async with Crowd(platform.port, platform.key, "/t/acme/which", clients=4, pause_s=0.02) as crowd:
                for fault in (stopped, killed, read_only, full, slow):
                    await writer.went_on(acknowledged=4)
                    await fault(writer)
                    await crowd.sent(20)
                    await asyncio.to_thread(until, lambda: registry_of(platform)["reachable"] is True)
        assert not crowd.count.wrong
        assert crowd.count.right == crowd.count.sent
        assert not writer.wrong
        assert not writer.lost(platform)
        metrics = platform.call("GET", "/metrics").text
        assert "wisp_registry_reachable 1.0" in metrics
        print(f"sent {crowd.count.sent} right {crowd.count.right} failed 0, "
              f"writes acknowledged {writer.acknowledged} refused {writer.refused} lost 0")  # fmt: skip


async def test_a_kill_of_the_platform_or_of_its_redis_loses_nothing_acknowledged_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    directory = place(tmp_path, "alone")
    segments = set(Path("/dev/shm").iterdir())
    with serving(directory) as process:
        platform = Platform(process.port)
        platform.make_tenant("acme")
        assert platform.upload("which", 1).status_code == 201
        with Writer(platform) as writer:
            await writer.went_on(acknowledged=4)
            (redis_pid,) = (pid for pid, line in processes_of(process.process.pid).items() if "redis-server" in line)
            os.kill(redis_pid, signal.SIGKILL)
            await writer.went_on(acknowledged=8)
            assert answers(platform, 1)
            children = processes_of(process.process.pid)
            process.process.kill()
            process.process.wait(WAIT_S)
    assert children
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    assert not (directory / "data" / "redis" / "redis.sock").exists()
    assert set(Path("/dev/shm").iterdir()) <= segments
    began = time.perf_counter()
    with serving(directory) as process:
        platform.port = process.port
        assert platform.ready()["ready"]
        print(f"ready again after {time.perf_counter() - began:.2f} s")
        assert answers(platform, 1)
        assert not writer.wrong
        assert not writer.lost(platform)
        assert not list((directory / "data" / "staging").iterdir())


def test_nodes_that_share_a_port_each_get_connections_and_one_goes_on_alone(
    tmp_path: Path, shared: tuple[RedisProcess, tuple[str, ...]]
) -> None:
    flags = (*shared[1], "--share-port")
    with serving(place(tmp_path, "a"), *flags) as first:
        there = ("--bind", f"127.0.0.1:{first.port}")
        with serving(place(tmp_path, "b"), *flags, *there) as second:
            platform = Platform(first.port)
            platform.make_tenant("acme")
            platform.upload("which", 1, activate=True)

            def answered() -> bool:
                with httpx.Client(headers={"authorization": f"Bearer {platform.key}"}, timeout=WAIT_S) as fresh:
                    return fresh.get(f"{first.url}/t/acme/which").status_code == 200

            until(lambda: answered() and all("function=which" in node.log.read_text() for node in (first, second)))
            first.terminate()
            assert first.wait() == 0
            assert all(answered() for _ in range(8))

            alone = subprocess.run(
                command("--data-dir", str(tmp_path / "c"), *shared[1], *there),
                env=environment(), capture_output=True, text=True, timeout=WAIT_S, check=False,
            )  # fmt: skip
            assert alone.returncode == 2
            assert alone.stderr.endswith(f"wisp: --bind 127.0.0.1:{first.port}: Address already in use\n")

"""The whole platform over HTTP, as its users have it: mixed load, murdered children, memory, drain, sudden death."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from platforms import TENANTS, wide_policies
from served import Connection, Reply, Served, connected, descriptors, rss_bytes, served_platform

SAMPLES = TENANTS / "acme" / "digits" / "samples"
CLIENTS = 16
RIGHT_LABELS = {
    name: label for name, label in json.loads((SAMPLES / "labels.json").read_text()).items() if name != "6-b.png"
}
"""What the model reads right; tests/models/test_digits.py states the one that it does not."""
MODULES = 4
"""hello, digits and burn of acme's, hello of globex's."""

Ask = Callable[[Connection, int], Awaitable[tuple[bool, Reply]]]


class Mix:
    """Requests of three kinds to two tenants; each answer is judged by its content."""

    def __init__(self, served: Served) -> None:
        self.acme, self.globex = served.key("acme"), served.key("globex")
        self.digits = [((SAMPLES / name).read_bytes(), label) for name, label in sorted(RIGHT_LABELS.items())]

    async def hello(self, connection: Connection, number: int) -> tuple[bool, Reply]:
        reply = await connection.request("GET", f"/t/acme/hello?name=n{number}", key=self.acme)
        return reply.status == 200 and f"n{number}\n".encode() in reply.body, reply

    async def other_hello(self, connection: Connection, number: int) -> tuple[bool, Reply]:
        reply = await connection.request("GET", f"/t/globex/hello/p{number}", key=self.globex)
        return reply.status == 200 and b"globex" in reply.body.lower(), reply

    async def digit(self, connection: Connection, number: int) -> tuple[bool, Reply]:
        png, label = self.digits[number % len(self.digits)]
        reply = await connection.request("POST", "/t/acme/digits", key=self.acme, body=png, kind="image/png")
        return reply.status == 200 and reply.json().get("label") == label, reply

    async def burn(self, connection: Connection, _number: int) -> tuple[bool, Reply]:
        reply = await connection.request("GET", "/t/acme/burn", key=self.acme)
        used = reply.headers.get("wisp-fuel-used")
        return (reply.status, reply.outcome, used) == (500, "fuel_exhausted", "50000000"), reply

    def ask(self, number: int) -> Ask:
        """Of twenty: nine hello, five of the other tenant's, five digits, one burn."""
        turn = number % 20
        if turn == 0:
            return self.burn
        if turn < 6:
            return self.digit
        return self.other_hello if turn < 11 else self.hello


async def load(served: Served, count: int, ask: Callable[[int], Ask]) -> list[Reply]:
    """`count` requests from sixteen clients; returns the replies that were not right."""
    numbers = itertools.count()
    wrong: list[Reply] = []

    async def client() -> None:
        async with connected(served.port) as connection:
            while (number := next(numbers)) < count:
                right, reply = await ask(number)(connection, number)
                if not right:
                    wrong.append(reply)

    async with asyncio.timeout(300), asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())
    return wrong


def shapes(replies: list[Reply]) -> Counter[tuple[int, str, bytes]]:
    return Counter((reply.status, reply.error, reply.body[:200]) for reply in replies)


async def settled(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptors:
    """What the platform's processes have open, by kind, and what it has them for.

    A sandbox has a line to a tenant's inference host from when its guest first infers: a socket, and the tensors that
    it reads and writes. It keeps each module that it has linked. All else is there from the start.
    """

    router: Counter[str]
    peers: int
    """Sockets of the router's that lead to callers and to Redis."""
    sandboxes: dict[int, Counter[str]]
    hosts: dict[int, Counter[str]]

    @classmethod
    def of(cls, served: Served) -> Self:
        sandboxes, hosts = served.child("sandbox.main"), served.child("inference.host")
        (redis,) = served.child("redis-server")

        def peers() -> int:
            return served.connections() + descriptors(redis)["socket"]

        while True:
            before, router, after = peers(), descriptors(served.pid), peers()
            if before == after:  # none came or went meanwhile
                break
        return cls(
            router=router,
            peers=after,
            sandboxes={pid: descriptors(pid) for pid in sandboxes},
            hosts={pid: descriptors(pid) for pid in hosts},
        )

    @property
    def lines(self) -> int:
        return sum(kinds["memfd:tensors"] // 2 for kinds in self.sandboxes.values())

    def expected_after(self, start: Descriptors) -> Descriptors:
        """What there should be, given what there was before anybody inferred."""
        ((shared, idle),) = start.hosts.items()
        own = len(self.hosts) - 1
        router = Counter({"socket": own + self.peers - start.peers, "rooms": own})
        router.update({"memfd:tensors": self.lines, "memfd:meter": 2 * self.lines})
        serving = Counter({"socket": self.lines, "memfd:tensors": 2 * self.lines, "memfd:meter": 2 * self.lines})
        return Descriptors(
            router=start.router + router,
            peers=self.peers,
            sandboxes={
                pid: start.sandboxes[pid]
                + Counter({"memfd:code": min(kinds["memfd:code"], MODULES)})
                + (Counter({"socket": 1, "memfd:tensors": 2}) if kinds["memfd:tensors"] else Counter())
                for pid, kinds in self.sandboxes.items()
            },
            hosts={pid: idle if pid == shared else idle + serving for pid in self.hosts},
        )


async def test_two_tenants_and_sixteen_clients_get_only_right_answers_and_leave_nothing(tmp_path: Path) -> None:
    with served_platform(tmp_path / "data", "--dev", "--policies", str(wide_policies(tmp_path / "policies"))) as served:
        served.wait_for("globex/hello")
        mix, start = Mix(served), Descriptors.of(served)
        assert not shapes(await load(served, 2200, mix.ask))
        found = Descriptors.of(served)
        assert found.sandboxes.keys() == start.sandboxes.keys()
        assert len(found.hosts) == 2  # the shared one, and acme's own
        await settled(lambda: (now := Descriptors.of(served)) == now.expected_after(start))
        assert served.stop() == 0


async def test_killed_children_cost_only_what_was_in_them(tmp_path: Path) -> None:
    with served_platform(tmp_path / "data", "--dev", "--policies", str(wide_policies(tmp_path / "policies"))) as served:
        served.wait_for("globex/hello")
        mix, asked = Mix(served), 0

        def ask(number: int) -> Ask:
            nonlocal asked
            asked = number
            return mix.ask(number)

        loading = asyncio.create_task(load(served, 3000, ask))
        for module, after in (("sandbox.main", 600), ("inference.host", 1200), ("sandbox.main", 1800)):
            async with asyncio.timeout(60):
                while asked <= after:
                    await asyncio.sleep(0.01)
            assert not loading.done()
            os.kill(served.child(module)[0], signal.SIGKILL)
        wrong = await loading
        allowed = {"child_lost", "model_loading", "queue_timeout"}
        strangers = [reply for reply in wrong if reply.error not in allowed and not lost_inference(reply)]
        assert not shapes(strangers)
        assert sum(reply.error == "child_lost" for reply in wrong) <= 2
        assert sum(lost_inference(reply) for reply in wrong) <= 2
        await settled(lambda: len(served.child("sandbox.main")) == 4 and served.child("inference.host") != [])
        assert not shapes(await load(served, 200, mix.ask))
        await settled(lambda: len(served.child("inference.host")) == 2)  # the shared one, and acme's own once it infers
        assert served.stop() == 0


def lost_inference(reply: Reply) -> bool:
    """The guest's own answer when wasi-nn told it that the inference failed."""
    return reply.status == 500 and reply.outcome == "ok"


async def test_memory_stays_flat_over_twenty_thousand_requests(tmp_path: Path) -> None:
    with served_platform(tmp_path / "data", "--dev", "--policies", str(wide_policies(tmp_path / "policies"))) as served:
        served.wait_for("globex/hello")
        mix = Mix(served)
        assert not shapes(await load(served, 3000, mix.ask))
        pids = [served.pid, *served.child("sandbox.main"), *served.child("inference.host")]
        before = {pid: rss_bytes(pid) for pid in pids}
        assert not shapes(await load(served, 17_000, mix.ask))
        grown = {pid: (rss_bytes(pid) - before[pid]) / 2**20 for pid in pids}
        assert max(grown.values()) < 6, grown
        assert served.stop() == 0


async def test_a_term_lets_requests_in_flight_finish(tmp_path: Path) -> None:
    with served_platform(tmp_path, "--dev", "--drain-delay", "500ms") as served:
        served.wait_for("globex/hello")
        mix = Mix(served)
        async with AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(connected(served.port)) for _ in range(8)]
            running = [asyncio.create_task(mix.burn(connection, 0)) for connection in connections]
            await asyncio.sleep(0.01)
            served.process.send_signal(signal.SIGTERM)
            for right, reply in await asyncio.gather(*running):
                assert right, reply
            ready = await connections[0].request("GET", "/readyz")
            assert ready.status == 503
        assert await asyncio.to_thread(served.process.wait, 30) == 0
        await settled(lambda: not served.children())


async def test_a_killed_router_leaves_no_process_and_comes_back_with_its_state(tmp_path: Path) -> None:
    with served_platform(tmp_path, "--dev") as served:
        served.wait_for("globex/hello")
        key, children = served.key("acme"), served.children()
        served.process.send_signal(signal.SIGKILL)
        served.process.wait(10)
        await settled(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    with served_platform(tmp_path) as served:
        async with connected(served.port) as connection:
            reply = await connection.request("GET", "/t/acme/hello?name=again", key=key)
        assert (reply.status, b"again" in reply.body) == (200, True)
        assert served.stop() == 0


@pytest.mark.parametrize("path", ["/", "/v1", "/t", "/t/", "/t/acme", "/nowhere", "/v1/tenants/../x"])
async def test_what_does_not_exist_is_a_problem_and_says_nothing_internal(tmp_path: Path, path: str) -> None:
    with served_platform(tmp_path) as served:
        async with connected(served.port) as connection:
            reply = await connection.request("GET", path)
        assert reply.status in (401, 404)
        assert reply.headers["content-type"] == "application/problem+json"
        assert b"Traceback" not in reply.body

"""A guarded canary on two whole nodes: neither sees enough of it alone, together they take it back, once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from platforms import HANDLER_POLICY, wide_policies
from redisprocess import RedisProcess, redis_process
from serving import serving
from updates import Platform
from wat import answering, handler
from wisp.names import parse_tenant
from wisp.registry.keys import Kind, key
from wisp.registry.traffic import sticky_point

BASE = "/v1/tenants/acme/functions/greet"
LEAST = 40
SHARE = 50
WAIT_S = 60.0
USERS = [f"user-{number}" for number in range(200)]
UNLUCKY = [user for user in USERS if sticky_point("acme/greet", user.encode()) >= SHARE]
"""Who gets the candidate."""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


@dataclass(slots=True, kw_only=True)
class Pair:
    """Two nodes and the Redis that they share; `greet` has a version that answers and one that traps."""

    server: RedisProcess
    first: Platform
    second: Platform
    candidates: int = 0
    """Requests that went to the one that traps, under the traffic in force."""

    def call(self, node: Platform, value: str) -> int:
        """The version that answered, as it does."""
        answer = httpx.get(
            f"http://127.0.0.1:{node.port}/t/acme/greet",
            headers={"authorization": f"Bearer {node.key}", "x-user": value},
            timeout=WAIT_S,
        )
        version = answer.headers["wisp-version"]
        if version == "2":
            assert (answer.status_code, answer.json()["code"]) == (500, "guest_trap")
            self.candidates += 1
        else:
            assert (version, answer.status_code, answer.text) == ("1", 200, "well")
        return int(version)

    def split(self) -> None:
        """Returns when both nodes follow it."""
        self.candidates = 0
        body = {
            "split": [{"version": 1, "percent": SHARE}, {"version": 2, "percent": 100 - SHARE}],
            "sticky": {"header": "x-user"},
            "guard": {"max_error_rate": 0.1, "min_requests": LEAST, "window": "3600s"},
        }
        self.first.call("PUT", f"{BASE}/traffic", key=self.first.key, json=body).raise_for_status()
        until(lambda: self.call(self.second, UNLUCKY[0]) == 2)

    def is_split(self) -> bool:
        return all(
            node.call("GET", BASE, key=node.key).json()["traffic"] is not None for node in (self.first, self.second)
        )

    def counted(self) -> int:
        """Requests of the candidate's that have come together in the registry."""
        with self.server.client() as client:
            tally = client.hget(key(parse_tenant("acme"), Kind.GUARDS), "greet")
        rows = json.loads(tally)["2"] if tally else {}
        return sum(requests for requests, _ in rows.values())

    def rollbacks(self) -> list[str]:
        items = self.second.call("GET", f"{BASE}/history", key=self.second.key).json()["items"]
        return [item["message"] for item in items if item["action"] == "rollback"]

    def is_back(self) -> bool:
        return all(self.call(node, UNLUCKY[0]) == 1 for node in (self.first, self.second))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with redis_process() as server:
        flags = ("--redis", server.url, "--policies", str(wide_policies(tmp_path / "policies")))
        with serving(tmp_path / "a", *flags) as first, serving(tmp_path / "b", *flags) as second:
            here, there = Platform(first.port), Platform(second.port)
            here.make_tenant("acme")
            there.key = here.key
            for guest in (answering(b"well"), handler("(unreachable)")):
                form = {"module": ("m", guest), "policy": ("p", HANDLER_POLICY)}
                made = here.call("PUT", f"{BASE}?activate=false", key=here.key, files=form)
                assert made.status_code == 201, made.text
            here.call("POST", f"{BASE}/activate", key=here.key, json={"version": 1}).raise_for_status()
            yield Pair(server=server, first=here, second=there)


def test_two_nodes_together_take_a_canary_back_once(pair: Pair) -> None:
    pair.split()
    for number in range(LEAST - 1 - pair.candidates):
        assert pair.call((pair.first, pair.second)[number % 2], UNLUCKY[number]) == 2
    until(lambda: pair.counted() == LEAST - 1)  # each node has told of its half, and of nothing twice
    assert pair.is_split()
    assert not pair.rollbacks()
    assert pair.call(pair.first, UNLUCKY[0]) == 2
    until(lambda: len(pair.rollbacks()) == 1)
    until(pair.is_back)
    assert pair.rollbacks() == [f"{LEAST} of {LEAST} requests failed within 3600 s"]


def test_two_nodes_that_judge_at_once_are_one(pair: Pair) -> None:
    pair.split()
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(pair.call, (pair.first, pair.second)[n % 2], UNLUCKY[n % 50]) for n in range(4 * LEAST)]
        assert {call.result(WAIT_S) for call in calls} <= {1, 2}
    until(pair.is_back)
    assert len(pair.rollbacks()) == 1
    pair.split()  # what is told late of the former one counts nothing here
    for number in range(10):
        assert pair.call((pair.first, pair.second)[number % 2], UNLUCKY[number]) == 2
    until(lambda: pair.counted() == pair.candidates)
    assert pair.is_split()
    assert len(pair.rollbacks()) == 1

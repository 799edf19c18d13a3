"""Updates under a crowd: two nodes on one Redis, 64 clients, 200 activations in a row.

Prints what was sent, right, failed and mixed (each answer is held to its content: module, environment and bundled file
of one version), and on each node the time from the `activate` call to the first answer of the new version, and to the
moment at which the request that got it began: that the node had switched by then, without the wait in its queue. First
without the crowd, then with it: on a machine with few cores, the clients take most of it, and the second says more of
the queue than of the switch.

    python tests/bench/bench_update.py [--quick]
"""

from __future__ import annotations

import asyncio
import platform as machine
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx

from platforms import OPERATOR_KEY, wide_policies
from redisprocess import redis_process
from served import connected
from serving import serving
from updates import Crowd, Platform, said

VERSIONS = 8
PATH = "/t/acme/which"


async def probe(port: int, key: str, number: int, since: float) -> float:
    async with connected(port) as connection:
        while said(await connection.request("GET", PATH, key=key)) != number:
            await asyncio.sleep(0.001)
        return time.perf_counter() - since


def show(name: str, seconds: list[float]) -> None:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    print(f"  {name:34} p50 {cuts[49] * 1e3:7.1f} ms   p99 {cuts[98] * 1e3:7.1f} ms   max {max(seconds) * 1e3:7.1f} ms")


async def round_of(updates: int, clients: int, nodes: tuple[Platform, Platform]) -> None:
    here = nodes[0]
    called: list[float] = []
    first: dict[str, list[float]] = {"first new answer, the same node": [], "first new answer, the other node": []}
    began_with: dict[str, list[float]] = {
        "its request began, the same node": [],
        "its request began, the other node": [],
    }
    started = time.perf_counter()
    async with AsyncExitStack() as stack:
        crowds = [
            await stack.enter_async_context(Crowd(node.port, node.key, PATH, clients=clients // 2)) for node in nodes
        ]
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{here.port}", timeout=60)
        )
        headers = {"authorization": f"Bearer {OPERATOR_KEY}"}
        for update in range(updates):
            number = (update + 1) % VERSIONS + 1
            began = time.perf_counter()
            switches = [asyncio.create_task(crowd.switched_s(number)) for crowd in crowds] if clients else []
            probes = [asyncio.create_task(probe(node.port, node.key, number, began)) for node in nodes]
            answer = await client.post(
                "/v1/tenants/acme/functions/which/activate", json={"version": number}, headers=headers
            )
            called.append(time.perf_counter() - began)
            answer.raise_for_status()
            for times, task in zip(first.values(), probes, strict=True):
                times.append(await task)
            for times, switch in zip(began_with.values(), switches, strict=False):
                times.append(await switch - began)
    sent, right = (sum(getattr(crowd.count, name) for crowd in crowds) for name in ("sent", "right"))
    wrong = [shape for crowd in crowds for shape in crowd.count.wrong.elements()]
    mixed = sum(status == 200 for status, _, _ in wrong)
    rate = sent / (time.perf_counter() - started)
    print(f"{updates} updates under {clients} clients, {rate:.0f} requests/s: "
          f"sent {sent} right {right} failed {len(wrong) - mixed} mixed {mixed}")  # fmt: skip
    for shape in sorted(set(wrong))[:5]:
        print("  ", shape)
    show("activate answered", called)
    for name, times in (*first.items(), *began_with.items()):
        if times:
            show(name, times)


def main() -> None:
    quick = "--quick" in sys.argv
    updates, clients = (20, 16) if quick else (200, 64)
    print(f"Python {machine.python_version()}, {machine.machine()}; two nodes of one sandbox each, one Redis")
    with tempfile.TemporaryDirectory(prefix="wisp-") as directory, redis_process() as server:
        root = Path(directory)
        flags = ("--redis", server.url, "--blobs", f"file://{root / 'blobs'}",
                 "--policies", str(wide_policies(root / "policies")))  # fmt: skip
        for name in ("a", "b"):
            (root / name).mkdir()
        with serving(root / "a", *flags) as first, serving(root / "b", *flags) as second:
            here = Platform(first.port)
            here.make_tenant("acme")
            there = Platform(second.port, here.key)
            for number in range(1, VERSIONS + 1):
                answer = here.upload("which", number, activate=number == 1)
                assert answer.status_code == 201, answer.text
            compiled = root / "b" / "data" / "code"
            while len(list(compiled.glob("*.cwasm"))) < VERSIONS:
                time.sleep(0.05)
            for crowd in (0, clients):
                asyncio.run(round_of(updates, crowd, (here, there)))


if __name__ == "__main__":
    main()

"""What a hostile neighbour costs an honest tenant: the victim's latency alone and beside each attacker, and the ratio.

The victim calls tenants/acme/digits at a steady rate, in an open loop: a request is sent when it is due, whether or not
earlier ones were answered, and its latency counts from when it was due. Platform, victim's client and attackers'
clients are processes of their own on the same cores. Both clients stand for other machines: the attackers' runs at
niceness 19, so that it takes little of the platform's cores, the victim's in real time (where that is allowed), so that
its own waiting for one is not taken for the platform's. What the load takes all the same, --control shows: the same
victim beside a server that does nothing but answer, and those attackers that need no platform.
Phases alone and beside an attacker alternate, so that a drift of the machine meets both. Lost: whatever was not
answered with the right digit within ten seconds. Writes build/bench/neighbours.json.

Run: make bench-neighbours, or .venv/bin/python tests/bench/bench_neighbours.py [--quick] [--control] [ATTACKER ...]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from bench import attackers  # noqa: E402
from bench.control import control  # noqa: E402
from bench.openloop import wait_for_no_core  # noqa: E402
from bench.report import Cores, Result, heading, percentile, table, write_json  # noqa: E402
from bench.stage import free_port  # noqa: E402
from platforms import OPERATOR_KEY  # noqa: E402
from served import Connection, Served, served_platform  # noqa: E402

DIGITS = REPOSITORY / "tenants" / "acme" / "digits"
ANSWER = b'"label": 7'
LOST_S = 10.0
SETTLE_S = 1.0
CALM_S = 60.0
ATTACKER_NICE = 19
GOAL_RATIO = 2.0


@dataclass(slots=True, kw_only=True)
class Phase:
    """What the victim met."""

    latencies_ms: list[float] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)

    def add(self, other: Phase) -> None:
        self.latencies_ms += other.latencies_ms
        self.lost += other.lost


class Victim:
    """Inside the victim's client process."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self.key = key
        self.body = (DIGITS / "samples" / "7-a.png").read_bytes()
        self.idle: list[Connection] = []
        self.phase = Phase()

    async def run(self, seconds: float, rate: float) -> Phase:
        self.phase = Phase()
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds * rate)):
                due = start + number / rate
                await asyncio.sleep(due - time.perf_counter())
                group.create_task(self.call(due))
        return self.phase

    def connection(self) -> Connection:
        """One that is open and idle, else a new one."""
        while self.idle:
            connection = self.idle.pop()
            if connection.reader is not None and not connection.reader.at_eof():
                return connection
            if connection.writer is not None:
                connection.writer.transport.abort()
        return Connection(self.port)

    async def call(self, due: float) -> None:
        connection = self.connection()
        try:
            async with asyncio.timeout(LOST_S):
                answer = await connection.request("POST", "/t/acme/digits", key=self.key, body=self.body)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.phase.lost[type(error).__name__] += 1
            if connection.writer is not None:
                connection.writer.transport.abort()
            return
        latency_ms = (time.perf_counter() - due) * 1e3
        self.idle.append(connection)
        if answer.status != 200 or ANSWER not in answer.body:
            self.phase.lost[answer.error or str(answer.status)] += 1
        else:
            self.phase.latencies_ms.append(latency_ms)


async def be_victim(port: int, key: str) -> None:
    """A line of JSON in is a phase to run, a line of JSON out what it met."""
    wait_for_no_core()
    victim, loop = Victim(port, key), asyncio.get_running_loop()
    gc.collect()
    gc.freeze()  # a collection here would be taken for the platform's
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        phase = await victim.run(order["seconds"], order["rate"])
        print(json.dumps({"latencies_ms": phase.latencies_ms, "lost": phase.lost}), flush=True)


async def be_attacker(name: str, port: int, keys: dict[str, str]) -> None:
    """Until its standard input closes."""
    os.nice(ATTACKER_NICE)
    if name in ("slow_compiles", attackers.TOGETHER):
        attackers.slow_module()
    print("ready", flush=True)
    stop = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    statuses = await attackers.attack(name, port, keys, stop)
    print(json.dumps(statuses), flush=True)


class Peer:
    """One of the processes above."""

    def __init__(self, role: str, **options: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--role", json.dumps({"role": role, **options})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ask(self, **order: object) -> Phase:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        said = json.loads(self.read())
        return Phase(latencies_ms=said["latencies_ms"], lost=Counter(said["lost"]))

    def close(self) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            said = self.read()
            self.process.wait(LOST_S)
        finally:
            self.process.kill()
            self.process.wait(LOST_S)
            self.process.stdout.close()
        return said


class Target(Protocol):
    """What is measured, and each tenant's key there."""

    port: int
    keys: dict[str, str]

    def calm(self) -> None: ...


class Platform:
    """The tenants of a served platform."""

    def __init__(self, served: Served) -> None:
        self.port = served.port
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=60)
        self.keys: dict[str, str] = {}

    def key(self, tenant: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[tenant]}"}

    def populate(self) -> None:
        operator = {"Authorization": f"Bearer {OPERATOR_KEY}"}
        for tenant in ("acme", *attackers.MALLORYS):
            made = self.http.post("/v1/tenants", json={"tenant": tenant, "class": "standard"}, headers=operator)
            self.keys[tenant] = made.raise_for_status().json()["key"]["secret"]
        self.deploy("acme", "digits", (DIGITS / "module.wasm").read_bytes(), (DIGITS / "policy.yaml").read_bytes(),
                    [("digits", DIGITS / "digits.onnx")])  # fmt: skip
        for tenant in attackers.MALLORYS:
            for each in attackers.FUNCTIONS:
                self.deploy(tenant, each.name, each.module(), each.policy.encode(), attackers.models_of(each))

    def deploy(self, tenant: str, name: str, module: bytes, policy: bytes, models: list[tuple[str, Path]]) -> None:
        for model, file in models:
            url = f"/v1/tenants/{tenant}/models/{model}"
            self.http.put(url, content=file.read_bytes(), headers=self.key(tenant)).raise_for_status()
        parts = [("module", ("module.wasm", module)), ("policy", ("policy.yaml", policy))]
        url = f"/v1/tenants/{tenant}/functions/{name}"
        answer = self.http.put(url, files=parts, headers=self.key(tenant))
        if answer.is_error:
            raise RuntimeError(f"{tenant}/{name}: {answer.text}")

    def calm(self) -> None:
        """Returns when nothing runs or waits any more."""
        until = time.monotonic() + CALM_S
        while time.monotonic() < until:
            levels = self.http.get("/metrics", headers={"Authorization": f"Bearer {OPERATOR_KEY}"}).text
            if "\nwisp_sandboxes_busy 0.0" in levels and "\nwisp_queued 0.0" in levels:
                return
            time.sleep(0.1)
        raise RuntimeError("the platform does not come to rest after an attack")


@contextmanager
def platform() -> Iterator[Platform]:
    workers = str(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as directory, served_platform(Path(directory), "--workers", workers) as served:
        found = Platform(served)
        try:
            found.populate()
            yield found
        finally:
            found.http.close()


def measure(
    target: AbstractContextManager[Target], names: list[str], *, rounds: int, seconds: float, rate: float
) -> tuple[dict[str, Phase], dict[str, Phase]]:
    """(alone, attacked), by attacker."""
    alone = {name: Phase() for name in names}
    attacked = {name: Phase() for name in names}
    with target as found:
        port = found.port
        victim = Peer("victim", port=port, key=found.keys["acme"])
        victim.ask(seconds=min(seconds, 2.0), rate=rate)  # warm
        try:
            for number in range(rounds):
                for name in names:
                    alone[name].add(victim.ask(seconds=seconds, rate=rate))
                    cores = Cores()
                    attacker = Peer("attacker", name=name, port=port, keys=found.keys)
                    try:
                        attacker.read()
                        time.sleep(SETTLE_S)
                        met = victim.ask(seconds=seconds, rate=rate)
                        attacked[name].add(met)
                    finally:
                        said = attacker.close().strip()
                    stolen = f"{cores.stolen_percent:.1f} % of the cores taken by the hypervisor"
                    found.calm()
                    print(f"  round {number + 1} {name}: {summary(met)}; {stolen}; attacker: {said}", flush=True)
        finally:
            victim.close()
    return alone, attacked


def summary(phase: Phase) -> str:
    times = phase.latencies_ms
    lost = f", lost {dict(phase.lost)}" if phase.lost else ""
    return f"p50 {percentile(times, 50):.1f} ms, p99 {percentile(times, 99):.1f} ms{lost}"


def report(alone: dict[str, Phase], attacked: dict[str, Phase], method: str, name_of_file: str) -> bool:
    rows, results = [], []
    for name, beside in attacked.items():
        before = alone[name].latencies_ms
        p50, p99 = percentile(before, 50), percentile(before, 99)
        ratio = percentile(beside.latencies_ms, 99) / p99
        lost = float(beside.lost.total())
        rows.append(
            (
                name,
                f"{p50:.1f}",
                f"{p99:.1f}",
                f"{percentile(beside.latencies_ms, 50):.1f}",
                f"{percentile(beside.latencies_ms, 99):.1f}",
                f"{ratio:.2f}",
                f"{lost:.0f}",
            )
        )
        value = round(ratio, 3) if beside.latencies_ms else None
        results.append(Result(name=f"victim_p99_ratio.{name}", value=value, unit="ratio", goal=GOAL_RATIO))
        results.append(Result(name=f"victim_lost.{name}", value=lost, unit="requests", goal=0))
    print(heading(method))
    print(table(("attacker", "alone p50", "p99", "beside p50", "p99", "ratio", "lost"), rows))
    print(f"written: {write_json(name_of_file, method, results)}")
    return all(result.met for result in results)


def main() -> None:
    names = [*(attack.name for attack in attackers.ATTACKS), attackers.TOGETHER]
    controls = [attackers.SPIN.name, *(attack.name for attack in attackers.ATTACKS if attack.anywhere)]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("attackers", nargs="*", metavar="ATTACKER", help=f"of {', '.join(names)}")
    parser.add_argument("--control", action="store_true", help="beside a server that does nothing but answer")
    parser.add_argument("--quick", action="store_true", help="a smoke run: one short round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one phase")
    parser.add_argument("--rate", type=float, default=30.0, help="the victim's requests a second")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role is not None:
        options = json.loads(arguments.role)
        asyncio.run(be_victim(**options) if options.pop("role") == "victim" else be_attacker(**options))
        return
    known = controls if arguments.control else names
    if unknown := set(arguments.attackers) - set(known):
        parser.error(f"there is no attacker {min(unknown)} for it")
    rounds, seconds = (1, 2.0) if arguments.quick else (arguments.rounds, arguments.seconds)
    chosen = arguments.attackers or known
    tenants = ("acme", *attackers.MALLORYS)
    target: AbstractContextManager[Target] = control(free_port(), tenants) if arguments.control else platform()
    alone, attacked = measure(target, chosen, rounds=rounds, seconds=seconds, rate=arguments.rate)
    called = "a constant answer" if arguments.control else "acme/digits"
    method = (
        f"{called} at {arguments.rate:g} requests/s in an open loop, {rounds} rounds of {seconds:g} s alone and "
        f"{seconds:g} s beside each attacker in turn; platform and clients share the cores, attackers' clients at "
        f"niceness {ATTACKER_NICE}, the victim's in real time"
    )
    if not report(alone, attacked, method, "neighbours-control" if arguments.control else "neighbours"):
        print("not every goal is met")


if __name__ == "__main__":
    main()

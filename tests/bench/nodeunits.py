"""What a request, an upload and a function that is known cost a node: CPU of router, sandboxes and compile children,
and memory."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bench.load import Request, measure
from bench.redisunits import ROUNDS, line_of
from bench.report import Result
from bench.stage import HELLO, Tenants, platform
from bench.wasmfiles import module_of
from platforms import OPERATOR_KEY, REPOSITORY, Tenancy, wide_policies
from served import rss_bytes
from wisp.api.dataplane import DataPlane
from wisp.code import compile_limits
from wisp.names import FunctionName, parse_function
from wisp.node import Node
from wisp.registry.records import Draft
from wisp.settings import Settings
from wisp.telemetry import Metrics

CALLERS: Final = 8
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
MODULES: Final = (
    REPOSITORY / "tenants/globex/hello/module.wasm",
    REPOSITORY / "tests/guests/probe/module.wasm",
    REPOSITORY / "tenants/globex/classify/module.wasm",
)
"""From Rust, of 34, 101 and 308 kB."""
MODULE_BYTES: Final = 30_000


def cpu_s(pids: Sequence[int]) -> float:
    """User and system time of processes, to the kernel's tick."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) * TICK_S


def pss_bytes(pids: Sequence[int]) -> int:
    """Proportional, so that what processes share counts once."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def sandboxes_of(node: Node) -> list[int]:
    return [slot.pid for slot in node.sandboxes.slots if slot.pid is not None]


class Caller:
    """Asks the data plane as an ASGI server would."""

    def __init__(self, node: Node, tenancy: Tenancy) -> None:
        self.app = DataPlane(node, Metrics())
        self.tenancy = tenancy

    async def ask(self, function: str) -> None:
        bearer = b"Bearer " + self.tenancy.secret.encode()
        path = f"/t/{self.tenancy.name}/{function}"
        scope = {
            "type": "http", "method": "GET", "raw_path": path.encode(), "path": path, "query_string": b"",
            "headers": [(b"host", b"127.0.0.1"), (b"authorization", bearer), (b"accept", b"*/*")],
            "http_version": "1.1",
        }  # fmt: skip
        sent: list[Any] = []
        heard = False

        async def receive() -> dict[str, Any]:
            nonlocal heard
            if heard:
                await asyncio.Event().wait()
            heard = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        assert sent[0]["status"] == 200, sent

    async def ask_often(self, function: str, times: int) -> None:
        for _ in range(times):
            await self.ask(function)


async def measure_requests(node: Node, acme: Tenancy, *, quick: bool) -> list[Result]:
    """`hello`, with eight callers at once: the cheapest of five rounds."""
    caller, each = Caller(node, acme), 25 if quick else 250
    await caller.ask_often("hello", 100)
    rounds = []
    for _ in range(ROUNDS):
        router_s, sandbox_s = time.process_time(), cpu_s(sandboxes_of(node))
        await asyncio.gather(*(caller.ask_often("hello", each) for _ in range(CALLERS)))
        rounds.append((time.process_time() - router_s, cpu_s(sandboxes_of(node)) - sandbox_s))
    router_s, sandbox_s = (min(column) for column in zip(*rounds, strict=True))
    requests = CALLERS * each
    return [
        Result(name="router, without HTTP", value=router_s / requests * 1e6, unit="µs"),
        Result(name="sandbox_request_us", value=sandbox_s / requests * 1e6, unit="µs"),
    ]


async def measure_compiling(node: Node, turns: int) -> list[Result]:
    """CPU of the compile child, its start included; the line through the cheapest turn of three real modules."""
    limits = compile_limits(node.ceilings)
    points = []
    for module in MODULES:
        cheapest_s = float("inf")
        for _ in range(turns):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            with module.open("rb") as source:
                async with node.stores.code.compilers.start(limits) as compilation:
                    await compilation.facts(source.fileno(), limits)
                    await compilation.code()
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            cheapest_s = min(cheapest_s, used_s)
        points.append((module.stat().st_size / 1e5, cheapest_s * 1e6))
    child_us, each_us = line_of(points)
    return [
        Result(name="compile child alone", value=child_us, unit="µs"),
        Result(name="compile, 100 kB of wasm", value=each_us, unit="µs"),
        Result(name="compile_us", value=child_us + 10 * each_us, unit="µs"),
    ]


async def measure_memory(node: Node, acme: Tenancy, *, quick: bool) -> list[Result]:
    """One after the other: functions known to Redis, remembered, planned, called (all of one module), and modules."""
    functions, modules = (200, 6) if quick else (2000, 24)
    version = await node.registry.functions.version(acme.name, parse_function("hello"), 1)
    stored = Draft(**{name: getattr(version, name) for name in Draft.__dataclass_fields__})
    names: list[FunctionName] = [parse_function(f"f{number}") for number in range(functions)]

    async def redis_bytes() -> int:
        return int((await node.registry.connection.command("INFO", "memory"))["used_memory"])

    def router_bytes() -> int:
        gc.collect()
        return rss_bytes(os.getpid())

    in_redis = await redis_bytes()
    for name in names:
        await node.registry.functions.put_version(acme.name, name, replace(stored), activate=True)
    in_redis = await redis_bytes() - in_redis
    before = router_bytes()
    for name in names:
        await node.snapshot.function(acme.name, name)
    remembered = router_bytes()
    for name in names:
        await node.dispatcher.resolve(acme.name, name, acme.secret)
    planned = router_bytes()
    caller, called = Caller(node, acme), names[: functions // 4]
    unlinked = pss_bytes(sandboxes_of(node))
    for name in called:
        await caller.ask(name)
    linked = pss_bytes(sandboxes_of(node))
    for number in range(modules):
        await acme.deploy(f"m{number}", module_of(MODULE_BYTES, b"hello\n", number + 1))
    deployed = pss_bytes(sandboxes_of(node))
    for number in range(modules):
        await caller.ask(f"m{number}")
    loaded = pss_bytes(sandboxes_of(node))
    return [
        Result(name="Redis, a function with one version", value=in_redis / functions, unit="bytes"),
        Result(name="router, a function remembered", value=(remembered - before) / functions, unit="bytes"),
        Result(name="router, and its plan", value=(planned - remembered) / functions, unit="bytes"),
        Result(name="sandbox, a function linked, module shared", value=(linked - unlinked) / len(called), unit="bytes"),
        Result(name="sandbox, a module of 30 kB linked", value=(loaded - deployed) / modules, unit="bytes"),
    ]


async def measure_node(folder: Path, *, quick: bool) -> list[Result]:
    settings = Settings.load(
        {
            "data_dir": str(folder / "data"),
            "workers": "1",
            "policies": str(wide_policies(folder / "policies")),
            "access_log": "off",
        },
        environ={"WISP_OPERATOR_KEY": OPERATOR_KEY},
    )
    async with Node(settings) as node:
        acme = await Tenancy.create(node, "acme", "standard")
        await acme.deploy_folder("hello")
        return [
            *await measure_requests(node, acme, quick=quick),
            *await measure_compiling(node, 1 if quick else 5),
            *await measure_memory(node, acme, quick=quick),
        ]


def measure_http(folder: Path, *, quick: bool) -> list[Result]:
    """The router's CPU for `hello` over kept connections, with its HTTP server: what a request really costs it."""
    with platform(folder, "--workers", "1", "--access-log", "off") as (served, tenants):
        assert isinstance(tenants, Tenants)
        key = tenants.create()
        tenants.deploy(key, "hello", (HELLO / "module.wasm").read_bytes())
        secret = key["Authorization"].removeprefix("Bearer ")
        request = Request(port=served.port, path="/t/globex/hello", body=b"", right=bool, key=secret)
        measure(request, CALLERS, 1)
        seconds = 0.5 if quick else 2.0
        cheapest_s = float("inf")
        for _ in range(ROUNDS):
            used_s = cpu_s([served.pid])
            load = measure(request, CALLERS, seconds)
            cheapest_s = min(cheapest_s, (cpu_s([served.pid]) - used_s) / (load.rate * seconds))
    return [Result(name="router_request_us", value=cheapest_s * 1e6, unit="µs")]

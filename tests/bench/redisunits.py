"""What the registry's calls cost a real redis-server and the process that makes them, in µs of CPU.

Redis' are from `INFO cpu`, the caller's are its process time. Calls follow one another, so that each bears its own
turn of the event loop: a router that makes several at once pays less. Of five rounds the cheapest counts, which is the
one that was disturbed least. The server is private and listens on a Unix socket.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.leasesim import quota
from bench.report import Result
from quota_nodes import ACME, FREE
from registry.samples import CLASSIFY, digest, draft
from wisp.names import parse_function, parse_tenant
from wisp.quotas.allowances import Allowance
from wisp.registry.blobstore import open_blobs
from wisp.registry.following import Following
from wisp.registry.keys import EVENTS, Kind, key
from wisp.registry.registry import Registry
from wisp.registry.snapshot import Snapshot
from wisp.registry.usage import METRICS, Use

TENANTS: Final = 1000
SUBSCRIBERS: Final = (1, 8, 64)
HOLDERS: Final = (1, 8, 32)
BLOB_BYTES: Final = (100_000, 10_000_000)
WARM: Final = 20
ROUNDS: Final = 5
EVENT: Final = json.dumps({"tenant": "acme", "kind": "function", "name": "classify", "generation": 1234567})


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Of one call, in µs of CPU."""

    redis_us: float
    router_us: float


def line_of(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The straight line nearest to the points by least squares: its value at 0, and its slope."""
    slope, at_zero = statistics.linear_regression([x for x, _ in points], [y for _, y in points])
    return at_zero, slope


async def redis_cpu_us(registry: Registry) -> float:
    info = await registry.connection.command("INFO", "cpu")
    return (float(info["used_cpu_user"]) + float(info["used_cpu_sys"])) * 1e6


async def spent(registry: Registry, call: Callable[[int], Awaitable[object]], calls: int) -> Spent:
    """`call` is given a number that grows, and is warmed up; `calls` a round."""
    numbers = itertools.count()
    for number in itertools.islice(numbers, WARM):
        await call(number)
    rounds = []
    for _ in range(ROUNDS):
        redis_us, router_s = await redis_cpu_us(registry), time.process_time()
        for number in itertools.islice(numbers, calls):
            await call(number)
        router_us = (time.process_time() - router_s) * 1e6
        rounds.append(((await redis_cpu_us(registry) - redis_us) / calls, router_us / calls))
    redis_us, router_us = (min(column) for column in zip(*rounds, strict=True))
    return Spent(redis_us=redis_us, router_us=router_us)


@asynccontextmanager
async def subscribed(path: Path, count: int) -> AsyncIterator[None]:
    """Subscribers that read and drop what they are told."""

    async def drop(reader: asyncio.StreamReader) -> None:
        while await reader.read(1 << 16):
            pass

    opened = [await asyncio.open_unix_connection(path) for _ in range(count)]
    for reader, writer in opened:
        writer.write(f"SUBSCRIBE {EVENTS}\r\n".encode())
        assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"*3")
    tasks = [asyncio.create_task(drop(reader)) for reader, _ in opened]
    try:
        yield
    finally:
        for task, (_, writer) in zip(tasks, opened, strict=True):
            task.cancel()
            writer.close()
        await asyncio.gather(*tasks, return_exceptions=True)


def both(name: str, each: Spent) -> list[Result]:
    return [
        Result(name=f"redis_{name}_us", value=each.redis_us, unit="µs"),
        Result(name=f"router_{name}_us", value=each.router_us, unit="µs"),
    ]


async def measure_records(registry: Registry, calls: int) -> list[Result]:
    """A new version with its activation, read back as an entry, and one flush of usage of one function."""
    await registry.tenants.create(ACME, FREE)
    functions = registry.functions

    async def write(number: int) -> None:
        fresh = replace(draft(str(number)), content_digest=digest(f"content {number}"))
        await functions.put_version(ACME, parse_function(f"f{number % 50}"), fresh, activate=True)

    async def read(number: int) -> None:
        assert await functions.entry(ACME, parse_function(f"f{number % 10}")) is not None

    hour = int(time.time()) // 3600
    use = Use(outcomes={"ok": 7}, sums=[123_456 + place for place in range(len(METRICS))])

    async def flush(number: int) -> None:
        await registry.usage.add(ACME, "life", number + 1, {(hour, CLASSIFY): use}, now_s=hour * 3600)

    return [
        *both("write", await spent(registry, write, calls)),
        *both("entry", await spent(registry, read, calls)),
        *both("usage", await spent(registry, flush, calls)),
    ]


async def measure_generations(registry: Registry, calls: int) -> list[Result]:
    tenants = [parse_tenant(f"t{number}") for number in range(TENANTS)]
    for tenant in tenants:
        await registry.connection.command("SET", key(tenant, Kind.GENERATION), 12)
    each = await spent(registry, lambda _: registry.generations(tenants), calls)
    return both("generation", Spent(redis_us=each.redis_us / TENANTS, router_us=each.router_us / TENANTS))


async def measure_leases(registry: Registry, calls: int) -> list[Result]:
    """Of a quota that is not short, beside 0, 7 and 31 other nodes that hold a lease of the same tenant."""
    points: list[tuple[int, Spent]] = []
    for holders in HOLDERS:
        tenant = parse_tenant(f"held{holders}")
        await registry.tenants.create(tenant, FREE)
        allowance = Allowance(tenant, quota(10**5, 10**5))

        async def lease(number: int, tenant=tenant, allowance=allowance, holder: str = "0") -> None:  # type: ignore[no-untyped-def]
            asks = allowance.asks(number)
            granted = await registry.quotas.lease(
                tenant, holder=holder, number=number + 1, length_s=600, rate=10**5, asks=asks
            )
            allowance.take_over(granted, number, number)

        for other in range(1, holders):
            await lease(0, holder=str(other))
        points.append((holders, await spent(registry, lease, calls)))
    fixed_us, holder_us = line_of([(holders, each.redis_us) for holders, each in points])
    return [
        Result(name="redis_lease_us", value=fixed_us, unit="µs"),
        Result(name="redis_holder_us", value=holder_us, unit="µs"),
        Result(name="router_lease_us", value=statistics.fmean(each.router_us for _, each in points), unit="µs"),
    ]


async def measure_events(registry: Registry, path: Path, calls: int) -> list[Result]:
    """PUBLISH to 1, 8 and 64 subscribers; then what it costs a node to be told."""

    async def publish(_: int) -> None:
        await registry.connection.command("PUBLISH", EVENTS, EVENT)

    points = []
    for count in SUBSCRIBERS:
        async with subscribed(path, count):
            points.append((count, (await spent(registry, publish, calls)).redis_us))
    alone_us, each_us = line_of(points)
    following = Following(Snapshot(registry))
    async with aclosing(registry.subscribe()) as events:
        await anext(events)
        told_us = float("inf")
        for _ in range(ROUNDS):
            for number in range(calls):
                await publish(number)
            began = time.process_time()
            for _ in range(calls):
                following.apply(await anext(events))  # type: ignore[arg-type]
            told_us = min(told_us, (time.process_time() - began) / calls * 1e6)
    return [
        *(Result(name=f"PUBLISH, {count} subscribers", value=us, unit="µs") for count, us in points),
        Result(name="redis_publish_us", value=alone_us, unit="µs"),
        Result(name="redis_event_us", value=each_us, unit="µs"),
        Result(name="router_event_us", value=told_us, unit="µs"),
    ]


async def measure_blobs(registry: Registry, folder: Path, turns: int) -> list[Result]:
    """Median of wall time, and the caller's and Redis' CPU; `get` is the first on a node."""
    found = []
    for name, url in (("file", f"file://{folder}/blobs"), ("redis", "redis:")):
        ours, theirs = (
            open_blobs(url, connection=registry.connection, cache=folder / name / side) for side in ("a", "b")
        )
        for size in BLOB_BYTES:
            took: dict[str, list[tuple[float, float, float]]] = {"put": [], "get": []}
            for _ in range(turns):
                upload = folder / "upload"
                upload.write_bytes(os.urandom(size))
                for what in took:
                    redis_us = await redis_cpu_us(registry)
                    cpu_s, wall_s = time.process_time(), time.perf_counter()
                    if what == "put":
                        stored = await ours.put_file(upload)
                    else:
                        os.close(await theirs.open(stored))
                    took[what].append(
                        (
                            (time.perf_counter() - wall_s) * 1e3,
                            (time.process_time() - cpu_s) * 1e3,
                            (await redis_cpu_us(registry) - redis_us) / 1e3,
                        )
                    )
            for what, times in took.items():
                for place, kind in enumerate(("wall", "node CPU", "Redis CPU")):
                    value = statistics.median(each[place] for each in times)
                    found.append(Result(name=f"blob {what}, {name}, {size:,} bytes: {kind}", value=value, unit="ms"))
    return found


async def measure_redis(url: str, folder: Path, *, quick: bool) -> list[Result]:
    calls = 30 if quick else 300
    registry = Registry(url)
    try:
        await registry.prepare()
        return [
            *await measure_records(registry, calls),
            *await measure_generations(registry, 3 if quick else 20),
            *await measure_leases(registry, calls),
            *await measure_events(registry, Path(url.removeprefix("unix://")), calls),
            *await measure_blobs(registry, folder, 3 if quick else 10),
        ]
    finally:
        await registry.aclose()

"""hello over each server beside a bare application on it, and beside workerd: how many a second, and at half of that
rate how far the slowest are from the others. And from two nodes that share a port, as many sandboxes in all, beside
workerd."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench import workerd
from bench.openloop import latencies_ms
from bench.report import Result, percentile
from bench.stage import HELLO, REPOSITORY, Size, free_port, platform, ratio, turns, wait_for, wrk
from redisprocess import redis_process
from wisp.cores import usable_cores

SERVERS = ("hypercorn", "uvicorn")
WORKERD = "workerd"
SETTLE_S = 2


@contextmanager
def bare(server: str) -> Iterator[int]:
    """The port of a bare application."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "tests/bench/bare.py", server, str(port)], cwd=REPOSITORY)
    try:
        wait_for(f"http://127.0.0.1:{port}/")
        yield port
    finally:
        process.terminate()
        process.wait(30)


def spread(port: int, path: str, secret: str, rate: float, seconds: int) -> float:
    """p99 ÷ p50 at a steady rate, as a caller sees it, once it has lasted for a while."""
    latencies_ms(port, path, secret, rate, SETTLE_S)
    times = latencies_ms(port, path, secret, rate, seconds)
    return percentile(times, 99) / percentile(times, 50)


def measure(size: Size) -> list[Result]:
    results = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workerd_port = None
        if workerd.binary() is None:
            print("  workerd: not found on the PATH nor by WORKERD; left out")
        else:
            workerd_port = free_port()
            (directory / WORKERD).mkdir()
            module = (HELLO / "module.wasm").read_bytes()
            stack.enter_context(workerd.served(directory / WORKERD, module, workerd_port))
            wait_for(f"http://127.0.0.1:{workerd_port}/")
        for server in SERVERS:
            results += _measure(server, directory / server, workerd_port, size)
        if workerd_port is not None:
            results += _measure_two(directory / "two", workerd_port, size)
    return results


def _measure_two(directory: Path, workerd_port: int, size: Size) -> list[Result]:
    workers = str(max(1, usable_cores() // 2))
    with redis_process() as redis, ExitStack() as stack:
        flags = ["--server", "uvicorn", "--redis", redis.url, "--workers", workers, "--spare", workers, "--share-port"]
        served, tenants = stack.enter_context(platform(directory / "first", *flags))
        stack.enter_context(platform(directory / "second", *flags, "--bind", f"127.0.0.1:{served.port}"))
        key = tenants.create()
        tenants.deploy(key, "hello", (HELLO / "module.wasm").read_bytes())
        url = f"{tenants.url}/t/globex/hello"
        loads = {
            "hello": partial(wrk, url, key, size.seconds),
            WORKERD: partial(wrk, f"http://127.0.0.1:{workerd_port}/", {}, size.seconds),
        }
        wrk(url, key, 1)
        rates = turns(loads, size.rounds)
    return [
        Result(
            name="hello_vs_workerd.uvicorn_two_nodes",
            value=ratio(rates["hello"], rates[WORKERD]),
            unit="ratio",
            goal=1.0,
            better="higher",
        ),
        Result(
            name="hello_rps.uvicorn_two_nodes", value=statistics.median(rates["hello"]), unit="req/s", better="higher"
        ),
    ]


def _measure(server: str, directory: Path, workerd_port: int | None, size: Size) -> list[Result]:
    with bare(server) as bare_port, platform(directory, "--server", server) as (served, tenants):
        key = tenants.create()
        tenants.deploy(key, "hello", (HELLO / "module.wasm").read_bytes())
        url, secret = f"{tenants.url}/t/globex/hello", key["Authorization"].removeprefix("Bearer ")
        loads = {
            "bare": partial(wrk, f"http://127.0.0.1:{bare_port}/", {}, size.seconds),
            "hello": partial(wrk, url, key, size.seconds),
        }
        if workerd_port is not None:
            loads[WORKERD] = partial(wrk, f"http://127.0.0.1:{workerd_port}/", {}, size.seconds)
        wrk(url, key, 1)
        rates = turns(loads, size.rounds)
        half = statistics.median(rates["hello"]) / 2
        steady = {
            "bare": partial(spread, bare_port, "/", "", half, size.seconds),
            "hello": partial(spread, served.port, "/t/globex/hello", secret, half, size.seconds),
        }
        spreads = {name: statistics.median(found) for name, found in turns(steady, size.rounds).items()}
    return [
        Result(
            name=f"e2e_hello_vs_bare.{server}",
            value=ratio(rates["hello"], rates["bare"]),
            unit="ratio",
            goal=0.7 if server == "hypercorn" else None,
            better="higher",
        ),
        Result(
            name=f"hello_vs_workerd.{server}",
            value=ratio(rates["hello"], rates[WORKERD]) if WORKERD in rates else None,
            unit="ratio",
            goal=None if server == "hypercorn" else 1.0,
            better="higher",
        ),
        Result(name=f"p99_vs_p50_at_half_load.{server}", value=spreads["hello"], unit="ratio", goal=3.0),
        Result(name=f"bare_p99_vs_p50_at_that_rate.{server}", value=spreads["bare"], unit="ratio"),
        *(
            Result(name=f"{name}_rps.{server}", value=statistics.median(found), unit="req/s", better="higher")
            for name, found in rates.items()
        ),
    ]

"""What speed costs and what it does not, as ratios taken side by side in one run; `make bench`.

Sections (give their names to run some alone): isolation, between, http, cold, density, edge, bodies. Variants take
turns within a section, so that what else the machine does falls on all of them. The load generator is wrk, on the same
cores; without it on the PATH the sections that need it are left out, and said. Writes build/bench/speed.json.

    .venv/bin/python tests/bench/bench_speed.py [--quick] [SECTION ...]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from bench import between, edge, httpservers, isolation, population  # noqa: E402
from bench.report import Result, heading, table, write_json  # noqa: E402
from bench.stage import (  # noqa: E402
    FULL,
    HELLO,
    QUICK,
    Size,
    measured,
    platform,
    ratio,
    turns,
    wrk,
)
from bench.wasmfiles import module_of  # noqa: E402
from served import connected, processes_of  # noqa: E402
from wisp.sandbox.engine import Engine  # noqa: E402

SMALL_MODEL = REPOSITORY / "tenants" / "acme" / "digits"
MIB = 1 << 20
VISITS_S = 250
"""Functions are visited before they are measured, each by every sandbox: about five times in all."""


def milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def measure_cold(size: Size) -> list[Result]:
    """Functions of their own module each, so that nothing of one is warm by another."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with platform(directory) as (_, tenants):
            key = tenants.create()
            uploads: dict[str, list[float]] = {}
            for label, bytes_, samples in (("100kB", 100_000, size.samples), ("5MB", 5_000_000, min(size.samples, 5))):
                uploads[label] = []
                for number in range(samples):
                    module = module_of(bytes_, b"hi", mark=number + 1)
                    function = f"f-{label.lower()}-{number}"

                    def first(function: str = function, module: bytes = module) -> None:
                        tenants.deploy(key, function, module)
                        tenants.http.get(f"/t/globex/{function}", headers=key).raise_for_status()

                    uploads[label].append(milliseconds(first))
        starts, firsts = [], []
        begun = time.perf_counter()
        with platform(directory) as (_, tenants):
            starts.append((time.perf_counter() - begun) * 1e3)
            tenants.http.get("/healthz").raise_for_status()
            for number in range(size.samples):
                firsts.append(
                    milliseconds(
                        lambda number=number: tenants.http.get(  # type: ignore[misc]
                            f"/t/globex/f-100kb-{number}", headers=key
                        ).raise_for_status()
                    )
                )
            warm = [
                milliseconds(lambda: tenants.http.get("/t/globex/f-100kb-0", headers=key).raise_for_status())
                for _ in range(50)
            ]
    client = statistics.median(warm)
    return [
        Result(name="cold_first_request_ms", value=statistics.median(firsts), unit="ms", goal=5.0),
        Result(name="warm_request_ms", value=client, unit="ms"),
        *(
            Result(name=f"upload_to_first_answer_ms.{label}", value=statistics.median(times), unit="ms")
            for label, times in uploads.items()
        ),
        Result(name="start_to_ready_ms", value=statistics.median(starts), unit="ms"),
        Result(name="compile_mb_per_s", value=compiled_mb_per_s(), unit="MB/s", better="higher"),
        Result(name="demo_s", value=demo_s(), unit="s"),
    ]


def compiled_mb_per_s() -> float:
    """Of WebAssembly, by the engine on one module of 5 MB."""
    module = module_of(5_000_000, b"hi")
    return len(module) / 1e3 / milliseconds(lambda: Engine().compile(module))


def demo_s() -> float:
    command = [sys.executable, "-m", "wisp.cli", "demo"]

    def demo() -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY, timeout=300)

    return milliseconds(demo) / 1e3


def proportional_mb(root: int) -> float:
    """Proportional set size of a process and all that it started, so that shared pages count once."""
    total = 0
    for pid in (root, *processes_of(root)):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def measure_density(size: Size) -> list[Result]:
    results = []
    idle: dict[int, float] = {}
    for workers in (2, 4):
        with (
            tempfile.TemporaryDirectory() as name,
            platform(Path(name), "--workers", str(workers), "--spare", "2") as (served, tenants),
        ):
            key = tenants.create("acme")
            model = (SMALL_MODEL / "digits.onnx").read_bytes()
            tenants.http.put("/v1/tenants/acme/models/digits", content=model, headers=key).raise_for_status()
            files = {
                "module": (SMALL_MODEL / "module.wasm").read_bytes(),
                "policy": (SMALL_MODEL / "policy.yaml").read_bytes(),
            }
            tenants.http.put("/v1/tenants/acme/functions/digits", files=files, headers=key).raise_for_status()
            picture = (SMALL_MODEL / "samples" / "7-a.png").read_bytes()
            for _ in range(8):
                tenants.http.post("/t/acme/digits", content=picture, headers=key).raise_for_status()
            time.sleep(2)
            idle[workers] = proportional_mb(served.pid)
    results += [
        Result(name="rss_idle_mb", value=idle[2], unit="MB", goal=250.0),
        Result(name="rss_per_sandbox_mb", value=(idle[4] - idle[2]) / 2, unit="MB", goal=35.0),
    ]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with platform(directory / "empty") as (served, _):
            empty = proportional_mb(served.pid)
        begun = time.perf_counter()
        people = population.settle(
            directory / "data", tenants=min(1000, size.functions // 10), functions=size.functions
        )
        print(f"  {size.functions} functions registered in {time.perf_counter() - begun:.0f} s")
        begun = time.perf_counter()
        with platform(directory) as (served, tenants):
            started = (time.perf_counter() - begun) * 1e3
            registered = proportional_mb(served.pid)
            counts = sorted({1, 100, size.functions})
            scripts = {count: population.rotation(directory, people, count) for count in counts}
            for count in counts:
                wrk(tenants.url, {}, max(2, count // VISITS_S), script=scripts[count])
            slowest: dict[int, list[float]] = {count: [] for count in counts}

            def one(count: int) -> float:
                # Those who came before give their leases back within this time, and those who come now have theirs.
                wrk(tenants.url, {}, size.seconds, script=scripts[count])
                rate, p99 = measured(tenants.url, {}, size.seconds, script=scripts[count])
                slowest[count].append(p99)
                return rate

            rates = turns({str(count): partial(one, count) for count in counts}, size.rounds)
            grown = proportional_mb(served.pid)
        most = str(size.functions)
        results += [
            Result(
                name=f"rps_{most}_functions_vs_1",
                value=ratio(rates[most], rates["1"]),
                unit="ratio",
                goal=0.9,
                better="higher",
            ),
            Result(
                name="rps_100_functions_vs_1",
                value=ratio(rates["100"], rates["1"]),
                unit="ratio",
                goal=0.9,
                better="higher",
            ),
            *(
                Result(name=f"p99_ms_at_full_load_{count}_functions", value=statistics.median(times), unit="ms")
                for count, times in slowest.items()
            ),
            Result(name=f"start_with_{most}_functions_ms", value=started, unit="ms"),
            Result(name=f"rss_{most}_functions_in_rotation_mb", value=grown, unit="MB"),
            Result(name="rss_per_registered_function_kb", value=(registered - empty) / size.functions * 1e3, unit="kB"),
            Result(name="rss_per_loaded_function_kb", value=(grown - registered) / size.functions * 1e3, unit="kB"),
        ]
    return results


def measure_edge(size: Size) -> list[Result]:
    """The whole platform on one core and 512 MB, against the same on all cores; the load generator is not confined."""
    if not edge.available():
        print("  edge: no memory cgroup can be made here; the platform is held to one core alone")
    figures: dict[str, list[float]] = {}
    peak = 0.0
    with ExitStack() as stack:
        variants: dict[str, Callable[[], float]] = {}
        for name in ("full", "edge"):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if name == "edge":
                stack.enter_context(edge.confined())
            served, tenants = stack.enter_context(platform(directory, *(["--workers", "1"] if name == "edge" else [])))
            if name == "edge":
                edge.release()
            key = tenants.create()
            tenants.deploy(key, "hello", (HELLO / "module.wasm").read_bytes())
            url = f"{tenants.url}/t/globex/hello"
            variants[name] = lambda url=url, key=key: wrk(url, key, size.seconds)  # type: ignore[misc]
            wrk(url, key, 1)
        figures = turns(variants, size.rounds)
        peak = proportional_mb(served.pid)
    return [
        Result(name="edge_rps_vs_full", value=ratio(figures["edge"], figures["full"]), unit="ratio", better="higher"),
        Result(name="edge_rps", value=statistics.median(figures["edge"]), unit="req/s", better="higher"),
        Result(name="edge_rss_mb", value=peak, unit="MB", goal=512.0),
    ]


ECHO_POLICY = (
    b"wisp: 1\nabi: handler\nlimits: {fuel: 1G, memory: 64Mi, timeout: 5s, request_body: 16Mi, response_body: 16Mi}\n"
)


def measure_bodies(size: Size) -> list[Result]:
    """A guest that answers with the body it was sent, through the whole platform."""
    results = []
    with tempfile.TemporaryDirectory() as name, platform(Path(name)) as (served, tenants):
        key = tenants.create()
        tenants.deploy(key, "echo", population.echo_module(), ECHO_POLICY)
        secret = key["Authorization"].removeprefix("Bearer ")

        async def round_trip(body: bytes, count: int) -> list[float]:
            times = []
            async with connected(served.port) as connection:
                for _ in range(count):
                    start = time.perf_counter()
                    reply = await connection.request("POST", "/t/globex/echo", key=secret, body=body)
                    times.append((time.perf_counter() - start) * 1e3)
                    assert reply.body == body, reply.status
            return times

        for label, length, count in (("1kB", 1000, 200), ("100kB", 100_000, 100), ("10MB", 10_000_000, 10)):
            times = asyncio.run(round_trip(os.urandom(length), max(3, count if not size.quick else count // 10)))
            results.append(Result(name=f"echo_ms.{label}", value=statistics.median(times), unit="ms"))
    return results


SECTIONS: dict[str, Callable[[Size], list[Result]]] = {
    "isolation": lambda size: isolation.measure(size.quick),
    "between": between.measure,
    "http": httpservers.measure,
    "cold": measure_cold,
    "density": measure_density,
    "edge": measure_edge,
    "bodies": measure_bodies,
}
NEED_WRK = {"between", "http", "density", "edge"}
METHOD = (
    "platforms and load generator share the machine; variants alternate within a section and ratios are of neighbouring"
    " rounds; wrk with 16 connections; in the sandbox alone, the best round of each variant"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="whether it works, in a few minutes; no figures to keep")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    chosen = parser.parse_args()
    unknown = set(chosen.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    size = QUICK if chosen.quick else FULL
    print(heading(METHOD))
    results: list[Result] = []
    for name in chosen.sections or SECTIONS:
        print(f"\n{name}", flush=True)
        if name in NEED_WRK and shutil.which("wrk") is None:
            print("  left out: wrk is not on the PATH")
            continue
        found = SECTIONS[name](size)
        results += found
        print(table(("", "value", "goal"), [_row(result) for result in found]), flush=True)
    if not chosen.quick and not chosen.sections:
        print(f"\nwritten: {write_json('speed', METHOD, results)}")


def _row(result: Result) -> tuple[str, str, str]:
    value = "-" if result.value is None else f"{result.value:.4g} {result.unit}"
    sign = "<=" if result.better == "lower" else ">="
    mark = {True: " met", False: " NOT MET", None: ""}[result.met]
    return f"  {result.name}", value, "" if result.goal is None else f"{sign} {result.goal:g}{mark}"


if __name__ == "__main__":
    main()

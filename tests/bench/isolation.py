"""What isolation costs: one request in the sandbox, against the engine's floor and against the public API."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from bench.bench_hello import ACME, Bench, link
from bench.floor import bare_c_api, public_api
from bench.report import Result
from sandbox.programs import PROBE
from wisp.sandbox.capi import Engine
from wisp.wire.exchange import encode_request_head
from wisp.wire.invocations import FunctionLink
from wisp.wire.outcome import Outcome
from wisp.wire.segments import create_frozen

PLAIN = ACME.parent / "globex" / "hello"
"""A handler that imports what Rust's library always does, and calls none of it."""
GREETING = ACME / "hello"
"""One that reads its environment."""
ENVIRONMENT = {"GREETING": "hello"}
NS = 1_000_000_000


def request(wasm: bytes, function: FunctionLink, path: bytes = b"/") -> Callable[[], object]:
    """As a sandbox runs it, from the decoded frame to the ending."""
    bench = Bench()
    bench.modules.add(function.module, create_frozen("code", [Engine().compile(wasm)]))
    bench.modules.link(function)
    found, prepared = bench.modules.function(function.handle)
    files = bench.modules.files(function.handle)
    head = request_head(path)

    def once() -> object:
        ending, _ = bench.runner.run(
            number=1, function=found, prepared=prepared, deadline_ns=time.monotonic_ns() + NS, head=head, body=b"",
            line=None, answer=bench.answer.view, files=files, request_id=b"r-1",
        )  # fmt: skip
        assert ending.outcome is Outcome.OK, ending
        return ending

    return once


def handler_request(wasm: bytes) -> Callable[[], object]:
    return request(wasm, replace(link("hello"), environment=tuple(ENVIRONMENT.items())))


def command_request() -> Callable[[], object]:
    """Rust's standard library: reads the environment, prints a head and a body."""
    return request(PROBE.read_bytes(), replace(link("hello"), abi="command", entrypoint="_start"), b"/env")


def request_head(path: bytes = b"/") -> bytes:
    return encode_request_head(b"POST", path, b"name=ada", ((b"host", b"localhost"),))


def best_us(runs: dict[str, Callable[[], object]], *, rounds: int, calls: int) -> dict[str, float]:
    """Per call; the variants take turns, so that what else the machine does falls on all, and the best round counts."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(calls):
                run()
            best[name] = min(best[name], (time.perf_counter() - start) / calls * 1e6)
    return best


def measure(quick: bool) -> list[Result]:
    head = request_head()
    plain, greeting = ((folder / "module.wasm").read_bytes() for folder in (PLAIN, GREETING))
    costs = best_us(
        {
            "floor": bare_c_api(plain, head),
            "handler": handler_request(plain),
            "command": command_request(),
            "greeting": handler_request(greeting),
            "public_api": public_api(greeting, head, ENVIRONMENT),
        },
        rounds=4 if quick else 25,
        calls=100 if quick else 400,
    )
    floor, handler = costs["floor"], costs["handler"]
    return [
        Result(name="handler_vs_floor", value=handler / floor, unit="ratio", goal=1.5),
        Result(name="command_vs_floor", value=costs["command"] / floor, unit="ratio", goal=3.0),
        Result(
            name="public_api_vs_handler",
            value=costs["public_api"] / costs["greeting"],
            unit="ratio",
            goal=4.0,
            better="higher",
        ),
        *(Result(name=f"{name}_us", value=cost, unit="µs") for name, cost in costs.items()),
    ]

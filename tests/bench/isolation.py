"""What isolation costs: one request in the sandbox, against the engine's floor and against the public API."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench.floor import bare_c_api, public_api, public_command
from bench.report import Result
from bench.sandboxed import ACME, Bench, link, request_head
from sandbox.programs import PROBE
from wisp.sandbox import cgi
from wisp.wire.exchange import decode_request_head

PLAIN = ACME.parent / "globex" / "hello"
"""A handler that imports what Rust's library always does, and calls none of it."""
GREETING = ACME / "hello"
"""One that reads its environment."""
ENVIRONMENT = {"GREETING": "hello"}


def handler_request(folder: Path) -> Callable[[], object]:
    return Bench().prepared(folder, replace(link("hello"), environment=tuple(ENVIRONMENT.items())))


def command_request() -> Callable[[], object]:
    """Rust's standard library: reads the environment, prints a head and a body."""
    return Bench().prepared(PROBE, replace(link("hello"), abi="command", entrypoint="_start"), path=b"/env")


def variables() -> dict[str, str]:
    """What `command_request` shows its program, as text."""
    told = cgi.variables(decode_request_head(request_head(b"/env")), 0, link("hello"), b"r-1")
    return {name.decode(): value.decode() for name, value in told.items()}


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
            "handler": handler_request(PLAIN),
            "command": command_request(),
            "greeting": handler_request(GREETING),
            "public_api": public_api(greeting, head, ENVIRONMENT),
            "public_command": public_command(PROBE.read_bytes(), variables()),
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
        Result(
            name="public_api_vs_command",
            value=costs["public_command"] / costs["command"],
            unit="ratio",
            goal=4.0,
            better="higher",
        ),
        *(Result(name=f"{name}_us", value=cost, unit="µs") for name, cost in costs.items()),
    ]

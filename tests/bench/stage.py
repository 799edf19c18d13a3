"""What the sections of bench_speed.py share: how much of everything, a platform that no quota stops, load, ratios."""

from __future__ import annotations

import re
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from platforms import OPERATOR_KEY, wide_policies
from served import Served, served_platform

REPOSITORY = Path(__file__).resolve().parents[2]
HELLO = REPOSITORY / "tenants" / "globex" / "hello"
POLICY = (HELLO / "policy.yaml").read_bytes()
CONNECTIONS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything: `seconds` a round of load, `rounds` of it, `samples` of what is timed one by one."""

    quick: bool
    seconds: int
    rounds: int
    samples: int
    functions: int


FULL = Size(quick=False, seconds=6, rounds=3, samples=20, functions=10_000)
QUICK = Size(quick=True, seconds=1, rounds=1, samples=3, functions=300)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


class Tenants:
    """A platform's control plane, with one tenant."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=120)

    def create(self, name: str = "globex", kind: str = "standard") -> dict[str, str]:
        body = {"tenant": name, "class": kind}
        made = self.http.post("/v1/tenants", json=body, headers=bearer(OPERATOR_KEY)).raise_for_status()
        return bearer(made.json()["key"]["secret"])

    def deploy(
        self, key: dict[str, str], function: str, module: bytes, policy: bytes = POLICY, *, tenant: str = "globex"
    ) -> None:
        url = f"/v1/tenants/{tenant}/functions/{function}"
        self.http.put(url, files={"module": module, "policy": policy}, headers=key).raise_for_status()


@contextmanager
def platform(directory: Path, *flags: str) -> Iterator[tuple[Served, Tenants]]:
    """A node whose tenants no quota stops: what is measured is the platform."""
    with served_platform(
        directory / "data", "--policies", str(wide_policies(directory / "policies")), *flags
    ) as served:
        tenants = Tenants(served.port)
        try:
            yield served, tenants
        finally:
            tenants.http.close()
            served.stop()


def wrk(url: str, headers: dict[str, str], seconds: int, *, script: Path | None = None) -> float:
    return measured(url, headers, seconds, script=script)[0]


def measured(url: str, headers: dict[str, str], seconds: int, *, script: Path | None = None) -> tuple[float, float]:
    """(requests a second that were answered 2xx, p99 in ms); anything else ends the run."""
    words = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    words += ["-s", str(script)] if script is not None else []
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", *words, url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    if "Non-2xx" in printed:
        raise SystemExit(printed)
    found = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    slow = re.search(r"99%\s+([\d.]+)(us|ms|s)\b", printed)
    assert found is not None, printed
    assert slow is not None, printed
    return float(found[1]), float(slow[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[slow[2]]


def turns(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            figures[name].append(run())
    return figures


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of rounds that were neighbours in time."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(url: str) -> None:
    for _ in range(300):
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"{url} does not answer")

"""What a request costs: in the sandbox alone, and over HTTP as a ratio to a bare ASGI application on the same server.

Both servers run in turn on the same machine in one run, with the same load generator (wrk) and connections; ratios are
what to read. Run with `make bench`; needs wrk on the PATH for the HTTP half, and says so where it is missing.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import httpx

from wisp.sandbox.capi import Engine
from wisp.sandbox.guest import GuestRunner
from wisp.sandbox.hostline import HostLine
from wisp.sandbox.modules import LinkedModules
from wisp.wire.channel import Channel, socket_pair
from wisp.wire.confinement import Limits, child_arguments
from wisp.wire.exchange import encode_request_head
from wisp.wire.inferences import CLOSE, OPEN, SLOT, Binding, BoundModel
from wisp.wire.inferences import Kind as HostKind
from wisp.wire.invocations import FunctionLink, ModelLink
from wisp.wire.meters import Meter
from wisp.wire.outcome import Outcome
from wisp.wire.segments import Segment, create_fixed, create_frozen
from wisp.wire.tensors import ElementType, TensorSpec

REPOSITORY = Path(__file__).resolve().parents[2]
ACME = REPOSITORY / "tenants" / "acme"
CONNECTIONS = 16
SECONDS = 5
ROUNDS = 3
NS = 1_000_000_000

BARE = """
import asyncio, sys, uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello, world\\n"})
config = Config()
config.bind = [sys.argv[1]]
config.include_server_header = False
config.errorlog = None
uvloop.run(serve(app, config))
"""


def link(name: str, models: tuple[ModelLink, ...] = ()) -> FunctionLink:
    return FunctionLink(
        handle=1, module=name, abi="handler", entrypoint="", fuel=NS, memory_bytes=32 << 20, response_bytes=1 << 20,
        log_bytes=8192, environment=(), models=models, clock="coarse", random="real", trap_on_violation=True,
    )  # fmt: skip


def fastest_us(run: Callable[[], None], count: int) -> float:
    """Per call, the best of five rounds: what the work costs when nothing else is in the way."""
    for _ in range(count // 5):
        run()
    best = min(timed(run, count // 5) for _ in range(5))
    return best / (count // 5) * 1e6


def timed(run: Callable[[], None], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        run()
    return time.perf_counter() - start


class Bench:
    """A guest runner in this process, and one module in it."""

    def __init__(self) -> None:
        self.runner = GuestRunner()
        self.modules = LinkedModules(self.runner.engine, self.runner.linker)
        self.answer = Segment.create("answer", 1 << 20)

    def cost_us(
        self, folder: Path, function: FunctionLink, body: bytes, line: HostLine | None = None,
        before: Callable[[int], None] = lambda _: None, count: int = 10_000,
    ) -> float:  # fmt: skip
        code = Engine().compile((folder / "module.wasm").read_bytes())
        self.modules.add(function.module, create_frozen("code", [code]))
        self.modules.link(function)
        found, prepared = self.modules.function(function.handle)
        files = self.modules.files(function.handle)
        head = encode_request_head(b"POST", b"/", b"name=ada", ((b"host", b"localhost"),))

        def once() -> None:
            deadline_ns = time.monotonic_ns() + NS
            before(deadline_ns)
            ending, _ = self.runner.run(
                number=1, function=found, prepared=prepared, deadline_ns=deadline_ns, head=head, body=body, line=line,
                answer=self.answer.view, files=files,
            )  # fmt: skip
            assert ending.outcome is Outcome.OK, ending

        return fastest_us(once, count)


@contextmanager
def inference_host(binding: Binding, model: Path) -> Iterator[tuple[HostLine, Callable[[int], None]]]:
    """A host process with the model loaded, and the two things that a router does for each invocation."""
    ours, theirs = socket_pair()
    with tempfile.TemporaryDirectory() as empty:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "wisp.inference.host", *child_arguments(Limits(), theirs.fileno(), threads=2)],
            pass_fds=(theirs.fileno(),), env={}, cwd=empty,
        )  # fmt: skip
        theirs.close()
        control = Channel(ours)
        assert control.receive() is not None
        with model.open("rb") as file:
            digest = binding.models[0].digest
            payload = json.dumps({"digest": digest, "bytes": model.stat().st_size}).encode()
            control.send(HostKind.LOAD, payload, (file.fileno(),))
            assert control.receive() is not None
        near, far = socket_pair()
        tensors = create_fixed("tensors", 1 << 20)
        meter = Meter.create()
        control.send(HostKind.SLOT, SLOT.pack(0), (far.fileno(), tensors, meter.fd))
        far.close()
        control.send(HostKind.BIND, binding.encode())
        line = HostLine(Channel(near), Segment(tensors))

        def before(deadline_ns: int) -> None:
            control.send(HostKind.CLOSE, CLOSE.pack(0, 1))
            control.send(HostKind.OPEN, OPEN.pack(0, binding.handle, 1, deadline_ns))

        try:
            yield line, before
        finally:
            line.close()
            control.close()
            process.wait(10)
            meter.close()


def sandbox_costs() -> dict[str, float]:
    bench = Bench()
    hello = bench.cost_us(ACME / "hello", link("hello"), b"")
    spec_in = TensorSpec(name="image", dtype=ElementType.F32, shape=(-1, 1, 8, 8))
    spec_out = TensorSpec(name="logits", dtype=ElementType.F32, shape=(-1, 10))
    model = ModelLink(
        name="digits", target="cpu", max_inferences=64, max_time_ns=NS, inputs=(spec_in,), outputs=(spec_out,)
    )
    digest = "sha256:" + "0" * 64
    bound = BoundModel(digest=digest, max_inferences=64, max_time_ns=NS)
    binding = Binding(handle=1, tenant="acme", models=(bound,))
    png = (ACME / "digits" / "samples" / "7-a.png").read_bytes()
    with inference_host(binding, ACME / "digits" / "digits.onnx") as (line, before):
        digits = bench.cost_us(ACME / "digits", link("digits", (model,)), png, line, before, count=3_000)
    return {"hello_us": hello, "digits_us": digits}


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


def requests_per_second(url: str, headers: dict[str, str]) -> float:
    arguments = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", *arguments, url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in printed:
        raise SystemExit(printed)
    found = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    assert found is not None, printed
    return float(found[1])


def http_ratio() -> dict[str, float]:
    """Alternating rounds, so that what else the machine does falls on both."""
    bare_port, wisp_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "WISP_OPERATOR_KEY": "benchmark-" + "k" * 32}
        bare = subprocess.Popen([sys.executable, "-c", BARE, f"127.0.0.1:{bare_port}"])
        served = subprocess.Popen(
            [sys.executable, "-m", "wisp.cli", "serve", "--bind", f"127.0.0.1:{wisp_port}", "--data-dir", directory],
            env=environment, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            base = f"http://127.0.0.1:{wisp_port}"
            wait_for(f"http://127.0.0.1:{bare_port}/")
            wait_for(f"{base}/readyz")
            operator = {"Authorization": f"Bearer {environment['WISP_OPERATOR_KEY']}"}
            with httpx.Client(base_url=base, timeout=60, headers=operator) as client:
                made = client.post("/v1/tenants", json={"tenant": "acme", "class": "standard"}).raise_for_status()
                key = {"Authorization": f"Bearer {made.json()['key']['secret']}"}
                parts = {
                    "module": (ACME / "hello" / "module.wasm").read_bytes(),
                    "policy": (ACME / "hello" / "policy.yaml").read_bytes(),
                }
                client.put("/v1/tenants/acme/functions/hello", files=parts, headers=key).raise_for_status()
            pairs = [
                (
                    requests_per_second(f"http://127.0.0.1:{bare_port}/", {}),
                    requests_per_second(f"{base}/t/acme/hello", key),
                )
                for _ in range(ROUNDS)
            ]
        finally:
            for process in (bare, served):
                process.terminate()
                process.wait(30)
    bare_rps, wisp_rps = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"bare_rps": bare_rps, "hello_rps": wisp_rps, "ratio": wisp_rps / bare_rps}


def main() -> None:
    packages = " ".join(f"{name} {version(name)}" for name in ("wasmtime", "onnxruntime", "hypercorn", "uvloop"))
    print(f"machine: {platform.machine()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}")
    print(f"versions: Python {platform.python_version()}, {packages}")
    costs = sandbox_costs()
    print(f"in the sandbox, one request, best of five: hello {costs['hello_us']:.1f} µs", end="")
    print(f", digits {costs['digits_us']:.1f} µs (one inference in the host process included)")
    if shutil.which("wrk") is None:
        print("over HTTP: skipped, wrk is not on the PATH")
        return
    over_http = http_ratio()
    print(
        f"over HTTP, {CONNECTIONS} connections, median of {ROUNDS} rounds of {SECONDS} s, generator on the same cores:"
    )
    print(
        f"  bare ASGI hello {over_http['bare_rps']:.0f} req/s, /t/acme/hello {over_http['hello_rps']:.0f} req/s", end=""
    )
    print(f", ratio {over_http['ratio']:.2f}")


if __name__ == "__main__":
    main()

"""What lies between the processes: frames, bodies in segments, tensors, links; sandboxes against cores; and how late
hello is while another tenant's guests call the host all the time, or move large bodies."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.openloop import latencies_ms
from bench.population import echo_module
from bench.report import Result, percentile
from bench.sandboxed import ACME, Bench, inference_host, link
from bench.stage import HELLO, Size, platform, turns, wrk
from sandbox.guests import compiled
from wat import answering
from wisp.wire.channel import Channel, socket_pair
from wisp.wire.inferences import Binding, BoundModel
from wisp.wire.invocations import INLINE_BYTES, ModelLink
from wisp.wire.segments import Segment, create_frozen
from wisp.wire.tensors import ElementType, TensorSpec

STOP, ECHO, SEGMENT = 1, 2, 3
FRAME_BYTES = 256
RATE = 100.0
"""Requests a second of hello, beside neighbours that ask again at once."""
NEIGHBOURS = 2
CALLS = 2000
"""Host calls of one request of the talkative guest."""
LARGE_BYTES = 4_000_000
POLICY = (
    b"wisp: 1\nabi: handler\nlimits: {fuel: 1G, memory: 64Mi, timeout: 10s, request_body: 16Mi, response_body: 16Mi}\n"
)
TALK = f"""(local $left i32)
  (local.set $left (i32.const {CALLS}))
  (loop $more
    (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 64)))
    (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))"""
CLOCK = '(import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))'


def _peer(fd: int) -> None:
    """Echoes frames; answers a segment with one byte of what it has copied out of it."""
    channel = Channel.from_fd(fd)
    while (frame := channel.receive()) is not None and frame.kind != STOP:
        if frame.kind == SEGMENT:
            with Segment(frame.fds[0], writable=False) as segment:
                channel.send(SEGMENT, bytes(segment.view)[-1:])
        else:
            channel.send(ECHO, frame.payload)


@contextmanager
def peer() -> Iterator[Channel]:
    near, far = socket_pair()
    process = multiprocessing.get_context("fork").Process(target=_peer, args=(far.fileno(),), daemon=True)
    process.start()
    far.close()
    channel = Channel(near)
    try:
        yield channel
        channel.send(STOP)
    finally:
        near.close()
        process.join(10)


def best_us(run: Callable[[], object], count: int) -> float:
    """Of five rounds: what it costs when nothing else is in the way."""
    rounds = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count):
            run()
        rounds.append((time.perf_counter() - start) / count * 1e6)
    return min(rounds)


def frames(quick: bool) -> list[Result]:
    """There and back between two processes, each waiting for the other."""
    count = 100 if quick else 2000
    with peer() as channel:

        def frame(payload: bytes) -> None:
            channel.send(ECHO, payload)
            assert channel.receive() is not None

        def segment(body: bytes) -> None:
            fd = create_frozen("body", [body])
            channel.send(SEGMENT, b"", (fd,))
            os.close(fd)
            assert channel.receive() is not None

        small, inline, middle, large = (os.urandom(size) for size in (FRAME_BYTES, INLINE_BYTES, 100_000, 10_000_000))
        return [
            Result(name="frame_us", value=best_us(lambda: frame(small), count), unit="µs"),
            Result(name=f"frame_of_{INLINE_BYTES}_bytes_us", value=best_us(lambda: frame(inline), count), unit="µs"),
            Result(name="body_by_memfd_us.100kB", value=best_us(lambda: segment(middle), count // 4), unit="µs"),
            Result(name="body_by_memfd_us.10MB", value=best_us(lambda: segment(large), 3), unit="µs"),
        ]


def links(quick: bool) -> list[Result]:
    """A function's link in a sandbox that has its module, and the module's own: mapped, its imports resolved."""
    bench = Bench()
    bench.prepared(HELLO, link("hello"))
    code = compiled((HELLO / "module.wasm").read_bytes())

    def load() -> None:
        bench.modules.add("again", create_frozen("code", [code]))
        bench.modules.drop("again")

    count = 50 if quick else 500
    return [
        Result(name="link_us", value=best_us(lambda: bench.modules.link(link("hello")), count), unit="µs"),
        Result(name="module_us", value=best_us(load, count), unit="µs"),
    ]


def tensors(quick: bool) -> list[Result]:
    """digits in a sandbox, with and without its inference in a host process."""
    spec_in = TensorSpec(name="image", dtype=ElementType.F32, shape=(-1, 1, 8, 8))
    spec_out = TensorSpec(name="logits", dtype=ElementType.F32, shape=(-1, 10))
    second = 1_000_000_000
    model = ModelLink(
        name="digits", target="cpu", max_inferences=64, max_time_ns=second, inputs=(spec_in,), outputs=(spec_out,)
    )
    bound = BoundModel(digest="sha256:" + "0" * 64, max_inferences=64, max_time_ns=second)
    binding = Binding(handle=1, tenant="acme", models=(bound,))
    picture = (ACME / "digits" / "samples" / "7-a.png").read_bytes()
    bench = Bench()
    runs: list[int] = []
    trips: list[int] = []
    with inference_host(binding, ACME / "digits" / "digits.onnx") as (line, before):
        once = bench.prepared(ACME / "digits", link("digits", (model,)), body=picture, line=line)
        ask = line.infer

        def timed(*arguments: Any) -> Any:
            start = time.monotonic_ns()
            try:
                return ask(*arguments)
            finally:
                trips.append(time.monotonic_ns() - start)

        line.infer = timed  # type: ignore[assignment,method-assign]

        def infer() -> None:
            before(time.monotonic_ns() + second)
            runs.append(once().receipt.nn_ns)

        whole = best_us(infer, 50 if quick else 1000)
    return [
        Result(name="digits_in_sandbox_us", value=whole, unit="µs"),
        Result(name="tensor_round_trip_us", value=statistics.median(trips) / 1e3, unit="µs"),
        Result(name="of_that_model_run_us", value=statistics.median(runs) / 1e3, unit="µs"),
    ]


def sandboxes(size: Size) -> list[Result]:
    """hello's rate with one, two and four sandboxes, none of them spare."""
    rates: dict[int, list[float]] = {}
    for _ in range(1 if size.quick else 2):
        for workers in (1, 2, 4):
            with (
                tempfile.TemporaryDirectory() as name,
                platform(Path(name), "--workers", str(workers), "--spare", "0") as (_, tenants),
            ):
                key = tenants.create()
                tenants.deploy(key, "hello", (HELLO / "module.wasm").read_bytes())
                url = f"{tenants.url}/t/globex/hello"
                wrk(url, key, 1)
                rates.setdefault(workers, []).append(wrk(url, key, size.seconds))
    return [
        Result(name=f"rps_with_{workers}_sandboxes", value=max(found), unit="req/s", better="higher")
        for workers, found in rates.items()
    ]


@contextmanager
def neighbours(url: str, path: str, key: dict[str, str], body_bytes: int, directory: Path) -> Iterator[None]:
    """Callers of this function, from another process, until the block ends."""
    script = directory / f"neighbours-{body_bytes}.lua"
    script.write_text(f'wrk.method = "POST"\nwrk.body = string.rep("x", {body_bytes})\n')
    words = [word for name, value in key.items() for word in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", f"-c{NEIGHBOURS}", "-d600s", "-s", str(script), *words, f"{url}{path}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def beside(size: Size) -> list[Result]:
    """hello's p99 alone, beside a tenant whose guests call the host all the time, and beside one with large bodies."""
    with tempfile.TemporaryDirectory() as name, platform(Path(name)) as (served, tenants):
        victim, other = tenants.create(), tenants.create("other")
        tenants.deploy(victim, "hello", (HELLO / "module.wasm").read_bytes())
        tenants.deploy(other, "talk", answering(b"done", work=TALK, before=CLOCK), POLICY, tenant="other")
        tenants.deploy(other, "echo", echo_module(), POLICY, tenant="other")
        secret = victim["Authorization"].removeprefix("Bearer ")

        def p99(function: str, body_bytes: int) -> float:
            with ExitStack() as stack:
                if function:
                    path = f"/t/other/{function}"
                    stack.enter_context(neighbours(tenants.url, path, other, body_bytes, Path(name)))
                    time.sleep(0.5)
                times = latencies_ms(served.port, "/t/globex/hello", secret, RATE, size.seconds)
            return percentile(times, 99)

        found = turns(
            {
                "nobody": lambda: p99("", 0),
                "host_calls": lambda: p99("talk", 0),
                "large_bodies": lambda: p99("echo", LARGE_BYTES),
            },
            size.rounds,
        )
    return [
        Result(name=f"hello_p99_ms_beside.{what}", value=statistics.median(times), unit="ms")
        for what, times in found.items()
    ]


def measure(size: Size) -> list[Result]:
    return [
        *frames(size.quick),
        *links(size.quick),
        *tensors(size.quick),
        *sandboxes(size),
        *beside(size),
    ]

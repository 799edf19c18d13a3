"""What hostile tenants do to a platform, one function an attack, for bench_neighbours.py.

Each attack is data (what its tenants deploy) and a coroutine (what one of its clients does until it is cancelled). The
clients come from addresses of their own, 127.0.0.2 onwards, since a platform may tell callers apart by address.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import wasmtime

from platforms import TENANTS, TINY_MODELS
from wat import LOOP, handler

MALLORYS = ("mallory", "mallet", "mal", "mala")
"""Tenants of the larger class who mean no good."""
INFER = TENANTS.parent / "tests" / "guests" / "infer" / "module.wasm"
IP_BIND_ADDRESS_NO_PORT = 24
"""ip(7). Without it the kernel looks for a port that is free for all peers, and once some ten thousand closed
connections linger it looks for tens of milliseconds, without preemption: work of the attacker's machine."""
PATIENCE_S = 60.0
PAUSE_S = 0.01
"""After a refusal: an attacker who spins on refusals loads the machine with himself."""
MODULE_FUNCTIONS, MODULE_STEPS = 300, 400
BOUNDARY = "wisp-bench-boundary"

FULL = "limits: {fuel: 10G, memory: 256Mi, timeout: 10s, request_body: 16Mi, response_body: 16Mi, logs: 64Ki}\n"
POLICY = f"wisp: 1\nabi: handler\n{FULL}"
GREEDY = "concurrency: {max_queue: 64, queue_timeout: 10s}\n"

GROW = """(local $at i32)
  (loop $more
    (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
  (loop $touch
    (local.set $at (i32.add (local.get $at) (i32.const 4096)))
    (i32.store8 (local.get $at) (i32.const 1))
    (br_if $touch (i32.lt_u (i32.add (local.get $at) (i32.const 4096)) (i32.mul (memory.size) (i32.const 65536)))))
  (i32.store (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 200))
  (i64.const 68719476748)"""
LOG = """(memory.fill (i32.const 65536) (i32.const 10) (i32.const 65536))
  (i32.store (i32.const 8192) (i32.const 65536)) (i32.store (i32.const 8196) (i32.const 65536))
  (drop (call $fd_write (i32.const 2) (i32.const 8192) (i32.const 1) (i32.const 8200)))
  (i32.store (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 200))
  (i64.const 68719476748)"""
WRITE = '(import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))'
LARGE = f"""(i32.store (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 200))
  (i64.const {16 << 32 | 8 << 20})"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """What is deployed under `name` for each tenant of an attack; `models` by name, of tests/models/tiny."""

    name: str
    module: Callable[[], bytes]
    policy: str
    models: tuple[str, ...] = ()


FUNCTIONS = (
    Function(name="loop", module=lambda: handler(LOOP), policy=POLICY + GREEDY),
    Function(name="grow", module=lambda: handler(GROW), policy=POLICY + GREEDY),
    Function(name="log", module=lambda: handler(LOG, before=WRITE), policy=POLICY + GREEDY),
    Function(
        name="large",
        module=lambda: handler(LARGE, memory='(memory (export "memory") 160)'),
        policy=POLICY + GREEDY,
    ),
    Function(name="hello", module=lambda: (TENANTS / "acme/hello/module.wasm").read_bytes(), policy=POLICY),
    Function(
        name="infer",
        module=INFER.read_bytes,
        policy=POLICY + GREEDY + "models:\n"
        "  - {name: identity_f32, model: identity-f32, max_time: 10s}\n"
        "  - {name: slow_gemm, model: slow-gemm, max_time: 10s}\n",
        models=("identity_f32", "slow_gemm"),
    ),
)


@dataclass(slots=True, kw_only=True)
class Client:
    """One attacking tenant's means: where, as whom, from which addresses."""

    port: int
    tenant: str
    key: str
    number: int
    statuses: Counter[str] = field(default_factory=Counter)

    async def connect(self, address: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        from_there = socket.socket()
        try:
            from_there.setblocking(False)
            from_there.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            from_there.bind((f"127.0.{address}.{2 + self.number}", 0))
            await asyncio.get_running_loop().sock_connect(from_there, ("127.0.0.1", self.port))
            return await asyncio.open_connection(sock=from_there)
        except BaseException:
            from_there.close()
            raise

    def head(self, method: str, path: str, length: int, kind: str = "application/octet-stream") -> bytes:
        return (
            f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
        ).encode()

    async def repeat(self, method: str, path: str, body: Callable[[], bytes] = bytes, kind: str = "") -> None:
        """One connection, one request after the other, for ever."""
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                await self._repeat(method, path, body, kind)
            await asyncio.sleep(PAUSE_S)

    async def _repeat(self, method: str, path: str, body: Callable[[], bytes], kind: str) -> None:
        reader, writer = await self.connect()
        try:
            while True:
                content = body()
                writer.write(self.head(method, path, len(content), kind or "application/octet-stream") + content)
                async with asyncio.timeout(PATIENCE_S):
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                    length = int(head.partition("content-length:")[2].partition("\r\n")[0] or 0)
                    await reader.readexactly(length)
                status = head.split(" ", 2)[1]
                self.statuses[status] += 1
                if status in ("429", "503"):
                    await asyncio.sleep(PAUSE_S)
        finally:
            writer.transport.abort()


async def fuel_loops(client: Client) -> None:
    await client.repeat("GET", f"/t/{client.tenant}/loop")


async def memory_growth(client: Client) -> None:
    await client.repeat("GET", f"/t/{client.tenant}/grow")


async def huge_tensors(client: Client) -> None:
    tensor = bytes(4 * 4_000_000)
    await client.repeat("POST", f"/t/{client.tenant}/infer?graph=identity_f32&type=f32&dims=4000000", lambda: tensor)


async def inference_flood(client: Client) -> None:
    await client.repeat("POST", f"/t/{client.tenant}/infer?graph=slow_gemm&type=f32&dims=1", lambda: bytes(4))


async def log_flood(client: Client) -> None:
    await client.repeat("GET", f"/t/{client.tenant}/log")


async def request_flood(client: Client) -> None:
    await client.repeat("GET", f"/t/{client.tenant}/hello")


async def model_flood(client: Client) -> None:
    """A model that nobody has seen, again and again: each is judged in a child."""
    model, numbers = (TINY_MODELS / "slow_gemm.onnx").read_bytes(), itertools.count()

    def fresh() -> bytes:
        mark = f"{os.getpid()}-{id(client)}-{next(numbers)}".encode()
        return model + b"\x32" + bytes([len(mark)]) + mark  # onnx.proto, ModelProto.doc_string

    await client.repeat("PUT", f"/v1/tenants/{client.tenant}/models/flood", fresh)


@cache
def slow_module() -> bytes:
    """Some seconds of compilation."""
    step = "(local.set 0 (i32.add (i32.mul (local.get 0) (i32.const {0})) (i32.rotl (local.get 0) (i32.const {1}))))"
    steps = "".join(step.format(number * 7 + 3, number % 31 + 1) for number in range(MODULE_STEPS))
    functions = "".join(f"(func (param i32) (result i32) {steps} (local.get 0))" for _ in range(MODULE_FUNCTIONS))
    text = f"""(module (memory (export "memory") 4)
      (func (export "wisp_alloc") (param i32) (result i32) (i32.const 65536))
      (func (export "wisp_handle") (param i32 i32) (result i64) (i64.const 0)) {functions})"""
    return bytes(wasmtime.wat2wasm(text))


async def slow_compiles(client: Client) -> None:
    module, numbers = slow_module(), itertools.count()

    def fresh() -> bytes:
        mark = f"{os.getpid()}-{id(client)}-{next(numbers)}".encode()
        own = module + b"\0" + bytes([len(mark) + 2]) + b"\1m" + mark  # a custom section
        return form((("module", own), ("policy", POLICY.encode())))

    path = f"/v1/tenants/{client.tenant}/functions/slow?activate=false"
    await client.repeat("PUT", path, fresh, f"multipart/form-data; boundary={BOUNDARY}")


def form(parts: tuple[tuple[str, bytes], ...]) -> bytes:
    written = b"".join(
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in parts
    )
    return written + f"--{BOUNDARY}--\r\n".encode()


async def slow_readers(client: Client) -> None:
    """Asks for eight mebibytes, and takes a few bytes of them at a time."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await client.connect()
            try:
                writer.write(client.head("GET", f"/t/{client.tenant}/large", 0))
                while await reader.read(512):
                    await asyncio.sleep(0.5)
            finally:
                writer.transport.abort()
        await asyncio.sleep(PAUSE_S)


async def slow_writers(client: Client) -> None:
    """Announces sixteen mebibytes, sends one at once and then a byte at a time."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await client.connect()
            try:
                writer.write(client.head("POST", f"/t/{client.tenant}/hello", 16 << 20) + bytes(1 << 20))
                while True:
                    await asyncio.sleep(0.2)
                    writer.write(b"x")
                    await writer.drain()
            finally:
                writer.transport.abort()
        await asyncio.sleep(PAUSE_S)


async def idle_connections(client: Client) -> None:
    """As many as it can have, each with half a head."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await client.connect()
            try:
                writer.write(b"GET /t/acme/digits HTTP/1.1\r\nhost: localhost\r\n")
                await reader.read(1)
            finally:
                writer.transport.abort()
        await asyncio.sleep(PAUSE_S)


async def connection_churn(client: Client) -> None:
    """A connection, a request without a key, the answer, and away."""
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await client.connect()
            try:
                writer.write(b"GET /t/acme/digits HTTP/1.1\r\nhost: localhost\r\n\r\n")
                await reader.readuntil(b"\r\n\r\n")
                client.statuses["401"] += 1
            finally:
                writer.transport.abort()


async def hang_ups(client: Client) -> None:
    """Lets a long run begin, and goes away."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await client.connect()
            writer.write(client.head("GET", f"/t/{client.tenant}/loop", 0))
            await asyncio.sleep(0.1)
            writer.transport.abort()


async def spin(_: Client) -> None:
    while True:
        sum(range(100_000))
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """`clients` of each of `tenants`. `anywhere`: it does the same to any server, where nothing is deployed."""

    name: str
    run: Callable[[Client], Awaitable[None]]
    clients: int
    tenants: int = 1
    anywhere: bool = False


ATTACKS = (
    Attack(name="fuel_loops", run=fuel_loops, clients=16),
    Attack(name="fuel_loops_4_tenants", run=fuel_loops, clients=16, tenants=4),
    Attack(name="memory_growth", run=memory_growth, clients=16),
    Attack(name="huge_tensors", run=huge_tensors, clients=8, anywhere=True),
    Attack(name="inference_flood", run=inference_flood, clients=16),
    Attack(name="inference_flood_4_tenants", run=inference_flood, clients=16, tenants=4),
    Attack(name="model_flood", run=model_flood, clients=4),
    Attack(name="log_flood", run=log_flood, clients=16),
    Attack(name="slow_readers", run=slow_readers, clients=64),
    Attack(name="slow_writers", run=slow_writers, clients=64, anywhere=True),
    Attack(name="slow_compiles", run=slow_compiles, clients=4),
    Attack(name="request_flood", run=request_flood, clients=32, anywhere=True),
    Attack(name="request_flood_4_tenants", run=request_flood, clients=16, tenants=4),
    Attack(name="connection_churn", run=connection_churn, clients=32, anywhere=True),
    Attack(name="idle_connections", run=idle_connections, clients=1500, anywhere=True),
    Attack(name="hang_ups", run=hang_ups, clients=8),
)
SPIN = Attack(name="spin", run=spin, clients=1)
"""Of bench_neighbours.py --control alone: the attackers' process computes, and sends nothing."""
TOGETHER = "all_together"


def attacks_of(name: str) -> list[Attack]:
    return list(ATTACKS) if name == TOGETHER else [attack for attack in (*ATTACKS, SPIN) if attack.name == name]


async def attack(name: str, port: int, keys: dict[str, str], stop: Awaitable[object]) -> Counter[str]:
    """Until `stop` is done; how often which status came back."""
    clients: list[Client] = []
    running: list[asyncio.Task[None]] = []
    for each in attacks_of(name):
        for tenant in MALLORYS[: each.tenants]:
            client = Client(port=port, tenant=tenant, key=keys[tenant], number=MALLORYS.index(tenant))
            clients.append(client)
            running += [asyncio.create_task(_run(each, client)) for _ in range(each.clients)]
    await stop
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return sum((client.statuses for client in clients), Counter())


async def _run(attack: Attack, client: Client) -> None:
    await attack.run(client)


def models_of(function: Function) -> list[tuple[str, Path]]:
    return [(name.replace("_", "-"), TINY_MODELS / f"{name}.onnx") for name in function.models]

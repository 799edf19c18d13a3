"""A function that says which version it is, three times over, and clients that hold it to that over real sockets.

The module has a number, its policy's environment has one, and a file of its bundle has one. In a right answer all three
are that of the version that `Wisp-Version` names.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx
import wasmtime

from platforms import OPERATOR_KEY
from served import Connection, Reply, connected

POLICY = """wisp: 1
abi: command
environment: {{NUMBER: "{number}"}}
files: [{{mount: /data, from: bundle, allow: ["*"]}}]
limits: {{timeout: 10s}}
concurrency: {{max_inflight: 64, max_queue: 128, queue_timeout: 10s}}
"""
SAID = re.compile(rb"module=(\d+) (?:.*\0)?NUMBER=(\d+)\0.* file=(\d+)", re.DOTALL)

PROGRAM = """(module
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 200) "{head}")
  (data (i32.const 300) "data/number")
  (data (i32.const 320) " file=")
  (func $check (param i32) (if (local.get 0) (then unreachable)))
  (func (export "_start")
    (call $check (call $sizes (i32.const 0) (i32.const 4)))
    (call $check (call $environ (i32.const 4096) (i32.const 32768)))
    (call $check (call $open (i32.const 3) (i32.const 0) (i32.const 300) (i32.const 11) (i32.const 0)
      (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 8)))
    (i32.store (i32.const 16) (i32.const 400))
    (i32.store (i32.const 20) (i32.const 64))
    (call $check (call $read (i32.load (i32.const 8)) (i32.const 16) (i32.const 1) (i32.const 12)))
    (i32.store (i32.const 32) (i32.const 200))
    (i32.store (i32.const 36) (i32.const {length}))
    (i32.store (i32.const 40) (i32.const 32768))
    (i32.store (i32.const 44) (i32.load (i32.const 4)))
    (i32.store (i32.const 48) (i32.const 320))
    (i32.store (i32.const 52) (i32.const 6))
    (i32.store (i32.const 56) (i32.const 400))
    (i32.store (i32.const 60) (i32.load (i32.const 12)))
    (call $check (call $write (i32.const 1) (i32.const 32) (i32.const 4) (i32.const 64)))))"""


def module(number: int) -> bytes:
    head = f"content-type: text/plain\n\nmodule={number} "
    text = PROGRAM.format(head=head.replace("\n", "\\n"), length=len(head))
    return bytes(wasmtime.wat2wasm(text))


@dataclass(slots=True)
class Platform:
    """One node by its port, as its operator and one tenant speak to it."""

    port: int
    key: str = ""

    def call(self, method: str, path: str, *, key: str = OPERATOR_KEY, **more: object) -> httpx.Response:
        return httpx.request(
            method,
            f"http://127.0.0.1:{self.port}{path}",
            headers={"authorization": f"Bearer {key}"},
            timeout=60,
            **more,  # type: ignore[arg-type]
        )

    def make_tenant(self, tenant: str) -> None:
        answer = self.call("POST", "/v1/tenants", json={"tenant": tenant, "class": "standard"})
        assert answer.status_code == 201, answer.text
        self.key = answer.json()["key"]["secret"]

    def upload(self, function: str, number: int, *, activate: bool = True, more: str = "") -> httpx.Response:
        """Version `number`, if it is the number-th that is uploaded. `more`: further lines of its policy."""
        return self.call(
            "PUT",
            f"/v1/tenants/acme/functions/{function}?activate={'true' if activate else 'false'}",
            key=self.key,
            files=[
                ("module", ("m", module(number))),
                ("policy", ("p", (POLICY.format(number=number) + more).encode())),
                ("file", ("number", str(number).encode())),
            ],
        )

    def ready(self) -> dict[str, object]:
        answer: dict[str, object] = self.call("GET", "/readyz").json()
        return answer


def said(reply: Reply) -> int | None:
    """The version that an answer is of; None if it is not of one version."""
    found = SAID.fullmatch(reply.body)
    if reply.status != 200 or found is None or len(set(found.groups())) != 1:
        return None
    number = int(found[1])
    return number if reply.headers.get("wisp-version") == str(number) else None


@dataclass(slots=True)
class Count:
    """`wrong`: what was neither right nor excused, by status, error and body."""

    sent: int = 0
    right: int = 0
    excused: int = 0
    wrong: Counter[tuple[int, str, bytes]] = field(default_factory=Counter)

    def note(self, reply: Reply, *, allowed: Callable[[int], bool], excuse: Callable[[Reply], bool]) -> None:
        self.sent += 1
        number = said(reply)
        if number is not None and allowed(number):
            self.right += 1
        elif excuse(reply):
            self.excused += 1
        else:
            self.wrong[reply.status, reply.error, reply.body[:80]] += 1


class Crowd:
    """Clients that call without a pause until they are told to stop, each on a connection of its own."""

    def __init__(
        self,
        port: int,
        key: str,
        path: str,
        *,
        clients: int,
        floor: Callable[[], int] = lambda: 0,
        excuse: Callable[[Reply], bool] = lambda reply: False,
        pause_s: float = 0,
    ) -> None:
        """`floor`: the oldest version that may answer a request that begins now."""
        self.count = Count()
        self._port, self._key, self._path = port, key, path
        self._clients, self._floor, self._excuse, self._pause_s = clients, floor, excuse, pause_s
        self._expected = 0
        self._switched_s: float | None = None
        self._stop = asyncio.Event()
        self._group: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Crowd:
        self._group = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        assert self._group is not None
        await self._group

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(connected(self._port)) for _ in range(self._clients)]
            async with asyncio.TaskGroup() as group:
                for connection in connections:
                    group.create_task(self._client(connection))

    async def _client(self, connection: Connection) -> None:
        while not self._stop.is_set():
            floor = self._floor()
            began_s = time.perf_counter()
            reply = await connection.request("GET", self._path, key=self._key)
            if said(reply) == self._expected:
                self._switched_s = min(began_s, self._switched_s or began_s)
            self.count.note(reply, allowed=lambda number: number >= floor, excuse=self._excuse)  # noqa: B023
            if self._pause_s:
                await asyncio.sleep(self._pause_s)

    async def switched_s(self, number: int) -> float:
        """When the first of its requests began that this version answered; it was not answering before."""
        self._expected, self._switched_s = number, None
        async with asyncio.timeout(60):
            while self._switched_s is None:
                await asyncio.sleep(0.001)
        await self.sent(self._clients)  # those that began earlier and have waited longer
        return self._switched_s

    async def sent(self, more: int) -> None:
        """Until that many more requests were answered."""
        until = self.count.sent + more
        async with asyncio.timeout(60):
            while self.count.sent < until:
                await asyncio.sleep(0.01)


async def first_answer_s(port: int, key: str, path: str, number: int, since: float) -> float:
    """Seconds from `since` (`time.perf_counter`) to the first answer of that version on one node."""
    async with connected(port) as connection:
        while True:
            reply = await connection.request("GET", path, key=key)
            if said(reply) == number:
                return time.perf_counter() - since

"""Requests at a steady rate, sent when they are due whether or not earlier ones were answered.

A latency counts from when its request was due. The generator is kept cheap, since it runs on the cores of what it
measures: one protocol object for each connection and no task for a request.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from typing import cast

import uvloop

ANSWER_S = 30.0
STATUS = b"HTTP/1.1 200 "


class Line(asyncio.Protocol):
    """One keep-alive connection with one request under way at most; goes back to `idle` by itself."""

    def __init__(self, idle: list[Line], found: list[float]) -> None:
        self._idle = idle
        self._found = found
        self._due = 0.0
        self._received = b""
        self.failed = ""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes, due: float) -> None:
        assert self.transport is not None
        self._due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"\ncontent-length:")[2].partition(b"\r")[0]):
            return
        if not head.startswith(STATUS):
            self.failed = self._received[:600].decode("latin-1")
        self._received = b""
        self._found.append((time.perf_counter() - self._due) * 1e3)
        self._idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.failed = self.failed or f"the connection was closed: {error}"


async def _measure(port: int, path: str, key: str, rate: float, seconds: float) -> list[float]:
    loop = asyncio.get_running_loop()
    request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n\r\n".encode()
    idle: list[Line] = []
    lines: list[Line] = []
    found: list[float] = []

    async def ask(due: float) -> None:
        _, line = await loop.create_connection(lambda: Line(idle, found), "127.0.0.1", port)
        lines.append(line)
        line.ask(request, due)

    total = int(rate * seconds)
    start = time.perf_counter()
    async with asyncio.TaskGroup() as opening:
        for number in range(total):
            due = start + number / rate
            early = due - time.perf_counter()
            if early > 0:
                await asyncio.sleep(early)
            if idle:
                idle.pop().ask(request, due)
            else:
                opening.create_task(ask(due))
    async with asyncio.timeout(ANSWER_S):
        while len(found) < total and not any(line.failed for line in lines):
            await asyncio.sleep(0.01)
    wrong = [line.failed for line in lines if line.failed]
    for line in lines:
        assert line.transport is not None
        line.transport.abort()
    if wrong:
        raise RuntimeError(wrong[0])
    return found


def latencies_ms(port: int, path: str, key: str, rate: float, seconds: float) -> list[float]:
    """In a process of its own: the benchmark's own threads, which follow what a platform prints, delay nothing there.
    Raises `CalledProcessError` for an answer that is not 200."""
    order = json.dumps([port, path, key, rate, seconds])
    done = subprocess.run([sys.executable, __file__, order], stdout=subprocess.PIPE, check=True, timeout=seconds + 90)
    found: list[float] = json.loads(done.stdout)
    return found


def main() -> None:
    order = json.loads(sys.argv[1])
    gc.collect()
    gc.freeze()
    print(json.dumps(uvloop.run(_measure(*order))))


if __name__ == "__main__":
    main()

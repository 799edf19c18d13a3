"""Callers that ask again as soon as they are answered, on connections of their own, all in this one process.

Every answer is read: one that does not say the right label ends the run. A refusal for want of room (429 or 503) is
counted, is neither a request a second nor a latency, and its caller asks again after a little while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import uvloop

from bench.report import percentile

REFUSALS = (b" 429", b" 503")
PAUSE_S = 0.01
ANSWER_S = 60.0
"""The longest that the last answer may take once the round is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`right`: whether this is the body of the answer."""

    port: int
    path: str
    body: bytes
    right: Callable[[bytes], bool]
    key: str = ""
    kind: str = ""

    def encode(self) -> bytes:
        lines = [f"POST {self.path} HTTP/1.1", "host: localhost", f"content-length: {len(self.body)}"]
        lines += [f"authorization: Bearer {self.key}"] if self.key else []
        lines += [f"content-type: {self.kind}"] if self.kind else []
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one round showed. Without any answer the times are not numbers."""

    rate: float
    p50_ms: float
    p99_ms: float
    refused: int = 0


class Caller(asyncio.Protocol):
    def __init__(self, request: Request, encoded: bytes) -> None:
        self._request, self._encoded = request, encoded
        self._received = b""
        self._until = 0.0
        self._sent = 0.0
        self.times: list[float] = []
        self.refused = 0
        self.ended = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def start(self, until: float) -> None:
        self._until = until
        self._ask()

    def _ask(self) -> None:
        assert self.transport is not None
        self._sent = time.perf_counter()
        self.transport.write(self._encoded)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        now = time.perf_counter()
        self._received = b""
        if head[8:12] in REFUSALS:
            self.refused += 1
            asyncio.get_running_loop().call_later(PAUSE_S, self._go_on, now)
            return
        if head[8:12] != b" 200" or not self._request.right(body):
            self._fail(f"{self._request.path} on port {self._request.port}: {(head + body)[:600]!r}")
            return
        self.times.append(now - self._sent)
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        if now < self._until and not self.ended.done():
            self._ask()
        elif not self.ended.done():
            self.ended.set_result(None)

    def connection_lost(self, _: Exception | None) -> None:
        self._fail(f"{self._request.path} on port {self._request.port} closed the connection")

    def _fail(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_exception(RuntimeError(reason))


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise RuntimeError(f"an answer without a length: {head[:200]!r}")


async def _measure(request: Request, callers: int, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    encoded = request.encode()
    made = []
    for _ in range(callers):
        _, caller = await loop.create_connection(lambda: Caller(request, encoded), "127.0.0.1", request.port)
        made.append(caller)
    began = time.perf_counter()
    try:
        for caller in made:
            caller.start(began + seconds)
        async with asyncio.timeout(seconds + ANSWER_S):
            await asyncio.gather(*(caller.ended for caller in made))
    finally:
        for caller in made:
            if caller.transport is not None:
                caller.transport.close()
    took = time.perf_counter() - began
    times = [one * 1e3 for caller in made for one in caller.times]
    refused = sum(caller.refused for caller in made)
    return Load(rate=len(times) / took, p50_ms=percentile(times, 50), p99_ms=percentile(times, 99), refused=refused)


def measure(request: Request, callers: int, seconds: float) -> Load:
    """Raises `RuntimeError` for a wrong answer."""
    return uvloop.run(_measure(request, callers, seconds))

"""Ten thousand requests of many kinds, a sandbox and a router killed among them: the bill is the sum of the receipts.

The bound, stated beforehand: every request that was answered is billed with its receipt, exactly. Of those that were
being answered when the router was killed (one for each client at most) each is billed once or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from platforms import TENANTS
from served import Connection, Reply, Served, connected, served_platform

REQUESTS = 10_000
CLIENTS = 12
DIGIT = next(iter(sorted((TENANTS / "acme" / "digits" / "samples").glob("*.png")))).read_bytes()
COUNTED = {
    "fuel": "wisp-fuel-used",
    "nn_fuel": "wisp-nn-fuel",
    "inferences": "wisp-inferences",
    "tensor_bytes": "wisp-tensor-bytes",
}


@dataclass(slots=True)
class Bill:
    """Of one function. `outcomes` of those that were answered; `unanswered` may have been billed or not."""

    outcomes: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    sums: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    cpu_ms: float = 0.0
    nn_ms: float = 0.0
    unanswered: int = 0

    def add(self, reply: Reply, bytes_in: int) -> None:
        self.outcomes[reply.outcome or reply.error] += 1
        self.sums["bytes_in"] += bytes_in if reply.outcome else 0  # what was refused has no receipt
        self.sums["bytes_out"] += len(reply.body) if reply.outcome == "ok" else 0
        for name, header in COUNTED.items():
            self.sums[name] += int(reply.headers.get(header, "0"))
        times = dict(part.strip().split(";dur=") for part in reply.headers.get("server-timing", "").split(",") if part)
        self.cpu_ms += float(times.get("cpu", "0"))
        self.nn_ms += float(times.get("nn", "0"))


class Callers:
    """Clients that go on until `REQUESTS` have been sent, through whatever platform runs at present."""

    def __init__(self, served: Served) -> None:
        self.bills: defaultdict[str, Bill] = defaultdict(Bill)
        self.keys = {tenant: served.key(tenant) for tenant in ("acme", "globex")}
        self.answered = 0
        self._numbers = itertools.count()
        self._port = served.port
        self._running = asyncio.Event()
        self._running.set()

    def pause(self) -> None:
        self._running.clear()

    def resume(self, served: Served) -> None:
        self._port = served.port
        self._running.set()

    def request(self, number: int) -> tuple[str, str, bytes]:
        """Tenant, function and body: of forty, four digits, one that burns its fuel, one that overruns its limits."""
        turn = number % 40
        if turn < 4:
            return "acme", "digits", DIGIT
        if turn == 4:
            return "acme", "burn", b""
        if turn == 5:
            return "acme", "digits", b"not a picture"
        return ("acme", "hello", b"x" * turn) if turn % 2 else ("globex", "hello", b"")

    async def client(self) -> None:
        while (number := next(self._numbers)) < REQUESTS:
            await self._running.wait()
            async with connected(self._port) as connection:
                while number < REQUESTS and await self._ask(connection, number):
                    if not self._running.is_set():
                        break
                    number = next(self._numbers)

    async def _ask(self, connection: Connection, number: int) -> bool:
        """Whether there was an answer."""
        tenant, function, body = self.request(number)
        bill = self.bills[f"{tenant}/{function}"]
        try:
            reply = await connection.request(
                "POST", f"/t/{tenant}/{function}", key=self.keys[tenant], body=body, kind="image/png"
            )
        except (OSError, EOFError):
            bill.unanswered += 1
            with contextlib.suppress(OSError):
                await connection.close()
            connection.writer = connection.reader = None
            return False
        bill.add(reply, len(body))
        self.answered += 1
        return True

    async def until(self, answered: int) -> None:
        while self.answered < answered:
            await asyncio.sleep(0.01)


async def billed(served: Served, tenant: str, key: str) -> dict[str, dict[str, Any]]:
    async with connected(served.port) as connection:
        reply = await connection.request("GET", f"/v1/tenants/{tenant}/usage", key=key)
    assert reply.status == 200, reply.body
    found: dict[str, dict[str, Any]] = {}
    items: list[dict[str, Any]] = reply.json()["items"]  # type: ignore[assignment]
    for item in items:
        total = found.setdefault(f"{tenant}/{item['function']}", {"outcomes": defaultdict(int)})
        for outcome, count in item["outcomes"].items():
            total["outcomes"][outcome] += count
        for name, value in item.items():
            if isinstance(value, int | float):
                total[name] = total.get(name, 0) + value
    return found


async def all_billed(served: Served, callers: Callers) -> dict[str, dict[str, Any]]:
    """Once it no longer changes and nothing is missing; else what there is after a while."""
    found: dict[str, dict[str, Any]] = {}
    for _ in range(100):
        found = {}
        for tenant, key in callers.keys.items():
            found |= await billed(served, tenant, key)
        if sum(item["requests"] for item in found.values()) >= callers.answered:
            break
        await asyncio.sleep(0.2)
    return found


def compare(name: str, bill: Bill, item: dict[str, Any]) -> None:
    answered = sum(bill.outcomes.values())
    extra = item["requests"] - answered
    assert 0 <= extra <= bill.unanswered, (name, item, bill)
    for outcome, count in bill.outcomes.items():
        assert count <= item["outcomes"][outcome] <= count + extra, (name, outcome)
    for metric, total in bill.sums.items():
        assert item[metric] == total if extra == 0 else item[metric] >= total, (name, metric, extra)
    for metric, total_ms in (("cpu_s", bill.cpu_ms), ("nn_s", bill.nn_ms)):
        rounding_s = answered * 0.5e-6 + 1e-9  # a receipt's milliseconds have three decimals
        assert item[metric] >= total_ms / 1e3 - rounding_s, (name, metric)
        assert extra or item[metric] <= total_ms / 1e3 + rounding_s, (name, metric)


async def test_the_bill_is_the_sum_of_the_receipts(tmp_path: Path) -> None:
    with served_platform(tmp_path, "--dev", "--access-log", "off") as served:
        served.wait_for("globex/hello")
        callers = Callers(served)
        async with asyncio.timeout(300), asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(callers.client())
            await callers.until(REQUESTS // 4)
            os.kill(served.child("sandbox.main")[0], signal.SIGKILL)
            await callers.until(REQUESTS // 2)
            callers.pause()
            served.process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(served.process.wait, 30)
            with served_platform(tmp_path, "--access-log", "off") as successor:
                callers.resume(successor)
                await callers.until(REQUESTS - CLIENTS)
                while sum(bill.unanswered for bill in callers.bills.values()) + callers.answered < REQUESTS:
                    await asyncio.sleep(0.01)
                found = await all_billed(successor, callers)
                assert successor.stop() == 0
    assert sum(bill.unanswered for bill in callers.bills.values()) <= CLIENTS
    assert set(found) == set(callers.bills)
    for name, bill in callers.bills.items():
        compare(name, bill, found[name])
    assert found["acme/burn"]["outcomes"]["fuel_exhausted"] > 0
    assert found["acme/digits"]["inferences"] > 0

"""What quotas cost: µs of a request's way in and out, and Redis commands per 1,000 requests at steady rates.

    python tests/bench/bench_quotas.py [--quick]

`enter`, `settle` and `leave` are the calls that a warm request makes: the best of five runs. Redis counts its commands
itself (`INFO commandstats`: scripts), over ten seconds (two with --quick) at each rate, with one node and one tenant,
whose lease is renewed as in service. A private Redis server is started for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from quota_nodes import ACME, FREE, QUOTA, leases_asked, redis_running  # beside the tests
from wisp.names import parse_function
from wisp.policy.grants import Concurrency
from wisp.quotas.quotas import Quotas
from wisp.registry.registry import Registry
from wisp.wire.outcome import Receipt

QUICK = "--quick" in sys.argv[1:]
CALLS = 2_000 if QUICK else 20_000
RUNS = 5
RATES = (10, 100, 1000)
STEADY_S = 2 if QUICK else 10
HELLO = parse_function("hello")
ROOMY = Concurrency(max_inflight=8, max_queue=100, queue_timeout_ns=10_000_000_000)
FAST = QUOTA.model_copy(update={"requests_per_second": 10**6, "burst": 10**6, "fuel_per_day": 10**15})
RECEIPT = Receipt(fuel=123_456, cpu_ns=100_000, bytes_out=100)


async def one(quotas: Quotas) -> None:
    turn = await quotas.enter(ACME, HELLO, FAST, ROOMY, fuel=10**9, infers=False, bytes_in=100)
    turn.settle(RECEIPT, RECEIPT.bytes_out)
    turn.leave()


async def microseconds(quotas: Quotas) -> float:
    best = float("inf")
    for _ in range(RUNS):
        spent = 0.0
        for _ in range(CALLS // 100):
            began = time.perf_counter()
            for _ in range(100):
                await one(quotas)
            spent += time.perf_counter() - began
            await asyncio.sleep(0)  # leases are asked for beside
        best = min(best, spent / (CALLS // 100 * 100) * 1e6)
    return best


async def commands_per_thousand(quotas: Quotas, registry: Registry, rate: int) -> tuple[float, int]:
    """(Redis commands per 1,000 requests, requests)."""
    await registry.connection.command("CONFIG", "RESETSTAT")
    began, sent = time.perf_counter(), 0
    while (passed_s := time.perf_counter() - began) < STEADY_S:
        while sent < passed_s * rate:
            await one(quotas)
            sent += 1
        await asyncio.sleep(0.002)
    return await leases_asked(registry) * 1000 / sent, sent


async def main() -> None:
    with redis_running() as url:
        registry = Registry(url)
        await registry.prepare()
        await registry.tenants.create(ACME, FREE)
        quotas = Quotas(registry.quotas)
        renewing = asyncio.create_task(quotas.run())
        print(f"enter, settle, leave        {await microseconds(quotas):8.2f} µs")
        for rate in RATES:
            commands, sent = await commands_per_thousand(quotas, registry, rate)
            print(f"at {rate:5} requests/s          {commands:8.2f} Redis commands per 1,000 requests ({sent} sent)")
        renewing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewing
        await quotas.close()
        await registry.aclose()


if __name__ == "__main__":
    asyncio.run(main())

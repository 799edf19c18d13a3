"""What a receipt costs the router, per request: measuring, recording in the ledger and its journal, the access log.

    python tests/bench/bench_receipts.py [--quick]

Prints µs a call, the best of five runs of 20,000 (of 1,000 with --quick).
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from wisp.accesslog import AccessLog
from wisp.ledger import Ledger
from wisp.names import parse_function, parse_tenant
from wisp.registry.connection import Connection
from wisp.registry.usage import Usage
from wisp.scheduling.measures import Measure
from wisp.wire.invocations import FunctionLink
from wisp.wire.outcome import Receipt

CALLS = 1_000 if "--quick" in sys.argv[1:] else 20_000
RUNS = 5
ACME, HELLO = parse_tenant("acme"), parse_function("hello")
RECEIPT = Receipt(fuel=123_456, cpu_ns=123_456, guest_ns=100_000, bytes_in=10, bytes_out=20)
LINK = FunctionLink(
    handle=1, module="", abi="handler", entrypoint="", fuel=10**9, memory_bytes=2**24, response_bytes=0, log_bytes=0,
    environment=(), models=(), clock="real", random="real", trap_on_violation=True,
)  # fmt: skip


def best_us(call: Callable[[], None]) -> float:
    found = float("inf")
    for _ in range(RUNS):
        began = time.perf_counter()
        for _ in range(CALLS):
            call()
        found = min(found, (time.perf_counter() - began) / CALLS * 1e6)
    return found


def measuring(measure: Measure) -> None:
    measure.begin(1)
    measure.end(RECEIPT, LINK)


def main() -> None:
    measure = Measure()
    measure.follow(os.getpid())
    print(f"measure a request            {best_us(lambda: measuring(measure)):6.2f} µs")
    measure.renew_meter().begin(1)
    print(f"measure one that may infer   {best_us(lambda: measuring(measure)):6.2f} µs")
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger(Usage(Connection("redis://nowhere.invalid")), Path(directory))
        print(f"record it, journal included  {best_us(lambda: ledger.record(ACME, HELLO, 'ok', RECEIPT)):6.2f} µs")
    log = AccessLog("json", io.StringIO())
    log.start()

    def line() -> None:
        log.add(
            request_id="0123456789abcdef01234567", tenant=ACME, function=HELLO, status=200, outcome="ok", total_s=0.001,
            version=1, receipt=RECEIPT,
        )  # fmt: skip

    print(f"a line of the access log     {best_us(line):6.2f} µs")
    log.stop()


if __name__ == "__main__":
    main()

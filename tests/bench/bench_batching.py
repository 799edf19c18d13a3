"""What batching brings a matrix model, and what a tenant with few callers gets beside one with many.

    .venv/bin/python tests/bench/bench_batching.py [--quick]

One inference host with two threads and real sockets; one client process plays all sandboxes, each with one inference
under way at a time. The model: two dense layers, 29 MB. Ratios within one run, each figure the better of two rounds.

`gemm32_vs_unbatched`: 32 callers of two tenants, with batches of up to 32 rows against none.
`minority_share_of_fair`: a tenant with 4 callers beside one with 28, batches of up to 4 rows, so that few of those who
wait fit into one; its share of all answers, over the half that would be fair. First come first served would give 0.25.
"""

from __future__ import annotations

import argparse
import select
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.report import Result, heading, table, write_json
from inference import onnx_models
from inference.peers import Router, Sandbox
from wisp.wire import inferences as wire
from wisp.wire.inferences import Kind, Status
from wisp.wire.tensors import pack_tensors

COLUMNS, QUICK_COLUMNS = 1900, 256
CALLERS = 32
FEW = 4


class Crowd:
    """Callers that each ask again as soon as they are answered."""

    def __init__(self, router: Router, counts: dict[str, int], columns: int, batch: int) -> None:
        assert router.load("m", onnx_models.gemm(columns), batch=batch)["ok"]
        self.slots: list[tuple[Sandbox, str, bytes]] = []
        for handle, (tenant, count) in enumerate(counts.items(), 1):
            router.bind(handle, "m", tenant=tenant, max_time_ms=60_000)
            for _ in range(count):
                slot = router.slot(len(self.slots), 1 << 20)
                router.open(slot, 1, handle, deadline_s=600)
                refs, at = slot.lay([np.full((1, columns), 0.01, np.float32)])
                tail = pack_tensors(refs)
                self.slots.append((slot, tenant, tail))
                self._room = (at, slot.segment.size_bytes - at)

    def _ask(self, slot: Sandbox, tail: bytes) -> None:
        slot.sequence += 1
        slot.channel.send(Kind.COMPUTE, wire.COMPUTE_HEAD.pack(1, slot.sequence, 0, 1, *self._room) + tail)

    def run(self, seconds: float) -> Counter[str]:
        """Answers by tenant."""
        poll = select.epoll()
        by_fd = {slot.channel.fileno(): (slot, tenant, tail) for slot, tenant, tail in self.slots}
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN)
        for slot, _, tail in self.slots:
            self._ask(slot, tail)
        answered: Counter[str] = Counter()
        until = time.monotonic() + seconds
        waiting = len(self.slots)
        while waiting:
            for fd, _ in poll.poll(60):
                slot, tenant, tail = by_fd[fd]
                frame = slot.channel.receive()
                assert frame is not None
                assert wire.DONE_HEAD.unpack_from(frame.payload)[2] == Status.OK
                if time.monotonic() < until:
                    answered[tenant] += 1
                    self._ask(slot, tail)
                else:
                    waiting -= 1
        return answered


@contextmanager
def crowd(counts: dict[str, int], columns: int, batch: int) -> Iterator[Crowd]:
    with tempfile.TemporaryDirectory() as folder:
        router = Router(Path(folder), threads=2)
        try:
            yield Crowd(router, counts, columns, batch)
        finally:
            router.finish()


def gemm32_vs_unbatched(columns: int, seconds: float) -> list[Result]:
    counts = {"one": CALLERS // 2, "two": CALLERS // 2}
    rates: dict[int, float] = {0: 0.0, CALLERS: 0.0}
    for _ in range(2):
        for batch in rates:
            with crowd(counts, columns, batch) as callers:
                callers.run(seconds / 4)
                rates[batch] = max(rates[batch], callers.run(seconds).total() / seconds)
    ratio = rates[CALLERS] / rates[0]
    return [
        Result(name="gemm32_unbatched_rps", value=rates[0], unit="req/s", better="higher"),
        Result(name="gemm32_batched_rps", value=rates[CALLERS], unit="req/s", better="higher"),
        Result(name="gemm32_vs_unbatched", value=ratio, unit="x", goal=3.0, better="higher"),
    ]


def minority_share_of_fair(columns: int, seconds: float) -> list[Result]:
    best = 0.0
    for _ in range(2):
        with crowd({"many": CALLERS - FEW, "few": FEW}, columns, FEW) as callers:
            callers.run(seconds / 4)
            answered = callers.run(seconds)
            best = max(best, answered["few"] / (answered.total() / 2))
    return [Result(name="minority_share_of_fair", value=best, unit="x", goal=0.5, better="higher")]


def results(*, quick: bool = False) -> list[Result]:
    columns, seconds = (QUICK_COLUMNS, 1.0) if quick else (COLUMNS, 5.0)
    return [*gemm32_vs_unbatched(columns, seconds), *minority_share_of_fair(columns, seconds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model and short rounds: does it work?")
    options = parser.parse_args()
    found = results(quick=options.quick)
    rows = [
        (one.name, "-" if one.value is None else f"{one.value:.2f}", one.unit, str(one.goal or "-")) for one in found
    ]
    method = "one host, two threads, sockets and segments as in production"
    write_json("batching", method, found)
    sys.stdout.write(f"{heading(method)}\n\n{table(('figure', 'value', 'unit', 'goal'), rows)}\n")


if __name__ == "__main__":
    main()

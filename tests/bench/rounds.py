"""What every contestant shows in each round, told as tables and as ratios."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from bench.contestants import SERVERS, Alone, BareSession, Workload
from bench.load import Load, Request, measure
from bench.report import Result, table
from wisp.cores import usable_cores

CORES = usable_cores()
AT_ONCE = (1, 4, 16, 32)
PEERS = ("fastapi", "mlserver")
ALONE = [
    Alone(callers=callers, threads=threads, sessions=sessions, intra=intra, spinning=spinning, prepare=prepare)
    for sessions, intra, spinning in ((1, 1, False), (CORES, 1, False), (1, CORES, False), (1, CORES, True))
    # More threads than cores only wait for each other: the best of both stands for sixteen callers.
    for callers, threads in ((1, 1), (16, CORES), (16, 16))
    for prepare in (False, True)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """`seconds`: of one contestant's turn at one number of callers; `hosts`, `columns`: of the section on memory."""

    rounds: int
    seconds: float
    hosts: int
    columns: int
    callers: tuple[int, ...] = AT_ONCE


class Rounds:
    """What every contestant showed in each round."""

    def __init__(self, names: Sequence[str], at_once: Sequence[int]) -> None:
        self.names, self.at_once = list(names), at_once
        self.loads: dict[tuple[str, int], list[Load]] = defaultdict(list)
        self.alone: dict[Alone, list[Load]] = defaultdict(list)

    def served(self, name: str, callers: int) -> list[Load]:
        return self.loads[name, callers]

    def best_rates(self, prefix: str, callers: int) -> list[float] | None:
        """Of those whose names begin so, the one with the best median; None if there is none."""
        rates = [
            [load.rate for load in self.served(name, callers)] for name in self.names if name.split(".")[0] == prefix
        ]
        return max(rates, key=statistics.median, default=None)

    def best_alone(
        self, callers: int, *, prepare: bool, by: Callable[[list[Load]], float], most_threads: int = CORES
    ) -> list[Load]:
        """The rounds of the best setting with so many threads a session; `by`: what is greatest there."""
        return max(
            (
                loads
                for way, loads in self.alone.items()
                if (way.callers, way.prepare) == (callers, prepare) and way.intra <= most_threads
            ),
            key=by,
        )


def median_rate(loads: Sequence[Load]) -> float:
    return statistics.median(load.rate for load in loads)


def median_p50(loads: Sequence[Load]) -> float:
    return statistics.median(load.p50_ms for load in loads)


def run_rounds(work: Workload, requests: dict[str, Request], size: Size) -> Rounds:
    rounds = Rounds(list(requests), size.callers)
    with closing(BareSession(work)) as bare:
        for request in requests.values():
            measure(request, 4, size.seconds / 2)
        for way in ALONE:
            bare.measure(way, size.seconds / 10)
        for _ in range(size.rounds):
            for callers in size.callers:
                for way in ALONE:
                    if way.callers == callers:
                        rounds.alone[way].append(bare.measure(way, size.seconds / 2))
                for name, request in requests.items():
                    rounds.loads[name, callers].append(measure(request, callers, size.seconds))
    return rounds


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Of neighbours in time; their median."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def judge(work: Workload, rounds: Rounds) -> list[Result]:
    """The goals are classify's, and for the HTTP server that `wisp serve` starts with; the others are to be known."""
    results = []
    for server in SERVERS:
        wisp = f"wisp.{server}"
        suffix = "" if server == SERVERS[0] else f".{server}"
        goal = work.function == "classify" and not suffix
        ours = [load.p50_ms for load in rounds.served(wisp, 1)]
        # One caller alone on the machine is answered sooner by all cores together, which many callers pay for.
        for name, threads in (("bare", CORES), ("bare_one_thread", 1)):
            alone = rounds.best_alone(1, prepare=False, by=lambda loads: -median_p50(loads), most_threads=threads)
            floor = [a.p50_ms + b.p50_ms for a, b in zip(alone, rounds.served(f"bare.{server}", 1), strict=True)]
            results.append(
                Result(
                    name=f"{work.function}_p50_vs_{name}{suffix}",
                    value=ratio(ours, floor),
                    unit="ratio",
                    goal=1.15 if goal and name == "bare" else None,
                )
            )
        rates = [load.rate for load in rounds.served(wisp, 16)]
        for name, prepare in (("ort_best", False), ("ort_best_prepared", True)):
            best = rounds.best_alone(16, prepare=prepare, by=median_rate)
            results.append(
                Result(
                    name=f"{work.function}_rps16_vs_{name}{suffix}",
                    value=ratio(rates, [load.rate for load in best]),
                    unit="ratio",
                    goal=0.9 if goal and not prepare else None,
                    better="higher",
                )
            )
        for peer in PEERS:
            for callers in rounds.at_once:
                theirs = rounds.best_rates(peer, callers)
                results.append(
                    Result(
                        name=f"{work.function}_rps_vs_{peer}{suffix}.{callers}",
                        value=None
                        if theirs is None
                        else ratio([load.rate for load in rounds.served(wisp, callers)], theirs),
                        unit="ratio",
                        goal=1.0 if goal else None,
                        better="higher",
                    )
                )
    return results


def show(work: Workload, rounds: Rounds) -> None:
    cells = [
        (
            name,
            *(
                f"{median_rate(loads):.0f}  {median_p50(loads):.1f}  {statistics.median(x.p99_ms for x in loads):.1f}"
                for callers in rounds.at_once
                for loads in [rounds.served(name, callers)]
            ),
        )
        for name in rounds.names
    ]
    print(f"\n{work.function}: requests a second, p50 ms, p99 ms")
    print(table(("", *(f"{callers} callers" for callers in rounds.at_once)), cells))
    for (name, callers), loads in sorted(rounds.loads.items()):
        if refused := sum(load.refused for load in loads):
            print(f"{name} refused {refused} requests of {callers} callers for want of room (429 or 503)")
    ways = sorted(rounds.alone.items(), key=lambda item: (item[0].prepare, item[0].callers, -median_rate(item[1])))
    rows = [(str(way), f"{median_rate(loads):.0f}  {median_p50(loads):.1f}") for way, loads in ways]
    print(table(("onnxruntime alone", "runs a second, p50 ms"), rows), flush=True)

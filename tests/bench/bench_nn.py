"""Inference end to end, as ratios from one run: wisp against onnxruntime alone, FastAPI and MLServer; `make bench-nn`.

Sections (give their names to run some alone): functions, batching, memory. classify needs an ImageNet model and photos
that are not in the repository: in --data (../shared/data unless it is given) it looks for mobilenetv2/model.onnx,
mobilenetv2/imagenet_labels.txt and photos/cat.bmp, and is left out without them. MLServer wants an environment of its
own: WISP_MLSERVER=<a Python with mlserver 1.7, onnxruntime and pillow>. Writes build/bench/nn.json.

    .venv/bin/python tests/bench/bench_nn.py [--quick] [--data DIR] [SECTION ...]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from bench import bench_models  # noqa: E402
from bench.contestants import contestants, workloads  # noqa: E402
from bench.nnhost import BATCHED, CALLERS, SINGLE, gemm_host  # noqa: E402
from bench.report import Result, heading, table, write_json  # noqa: E402
from bench.rounds import AT_ONCE, PEERS, Size, judge, ratio, run_rounds, show  # noqa: E402

MINORITIES = ((CALLERS - 1, 1), (16, 2))
"""Callers of the majority, and of the minority."""
METHOD = (
    "all contestants, and one load generator whose callers ask again as soon as they are answered, share the machine;"
    " contestants take turns in each round and ratios are of one round, their median over the rounds; every answer's"
    " label is checked, refusals are counted apart; the same bytes for all: a BMP of 512x341 for classify, a PNG of 8x8"
    " for digits; FastAPI counts at the best of its settings for each number of callers, onnxruntime alone at the best"
    " of sessions, threads and callers; gemm and minority: the inference host alone, its slots played by the benchmark"
)


FULL = Size(rounds=5, seconds=2.0, hosts=10, columns=5000)
QUICK = Size(rounds=1, seconds=0.3, hosts=2, columns=2000, callers=(1, 16))


def measure_functions(size: Size, data: Path) -> list[Result]:
    results: list[Result] = []
    work = workloads(data)
    if len(work) == 1:
        print(f"classify: left out; {data} is not there (--data)")
    with tempfile.TemporaryDirectory() as directory, contestants(work, Path(directory)) as found:
        for one in work:
            # A small model's round shows as much in a shorter time.
            seconds = size.seconds if one.function == "classify" else size.seconds / 2
            rounds = run_rounds(one, found[one.function], replace(size, seconds=seconds))
            show(one, rounds)
            results += judge(one, rounds)
    return results


def measure_batching(size: Size, _: Path) -> list[Result]:
    """The fair share of one of two tenants is half of what it reaches alone, or half of all, if that is less."""
    rates: dict[str, list[list[float]]] = defaultdict(list)
    with gemm_host() as host:
        for _round in range(size.rounds):
            for model in (BATCHED, SINGLE):
                rates[model].append(host.rates(model, (CALLERS,), size.seconds))
            for majority, minority in MINORITIES:
                name = f"{majority}/{minority}"
                rates[name].append(host.rates(BATCHED, (majority, minority), size.seconds))
                rates[f"{name} alone"].append(host.rates(BATCHED, (0, minority), size.seconds))
    print(f"\ngemm, the inference host alone: inferences a second with {CALLERS} callers, or the majority's/minority's")
    print(
        table(
            ("", "rates"),
            [
                (name, "  ".join(f"{statistics.median(column):.0f}" for column in zip(*found, strict=True)))
                for name, found in rates.items()
            ],
        ),
        flush=True,
    )
    batched, single = ([found[0] for found in rates[model]] for model in (BATCHED, SINGLE))
    results = [
        Result(name="gemm32_vs_unbatched", value=ratio(batched, single), unit="ratio", goal=3.0, better="higher")
    ]
    for majority, minority in MINORITIES:
        name = f"{majority}/{minority}"
        fair = [min(sum(both), alone[1]) / 2 for both, alone in zip(rates[name], rates[f"{name} alone"], strict=True)]
        results.append(
            Result(
                name="minority_share_of_fair" + ("" if minority == 1 else f".{majority}_{minority}"),
                value=ratio([found[1] for found in rates[name]], fair),
                unit="ratio",
                goal=0.5,
                better="higher",
            )
        )
    return results


def measure_memory(size: Size, _: Path) -> list[Result]:
    """Of a model file that all hosts map; and of the upload itself, which each reads for itself."""
    print("\nmemory of inference hosts on one model", flush=True)
    found = bench_models.compare(size.hosts, size.columns)
    return [
        Result(name="rss_workers_vs_one", value=found["prepared"], unit="ratio", goal=1.5),
        Result(name="rss_workers_vs_one.uploaded", value=found["uploaded"], unit="ratio"),
    ]


SECTIONS: dict[str, Callable[[Size, Path], list[Result]]] = {
    "functions": measure_functions,
    "batching": measure_batching,
    "memory": measure_memory,
}
NAMED_ALWAYS = (
    Result(name="classify_p50_vs_bare", value=None, unit="ratio", goal=1.15),
    Result(name="classify_rps16_vs_ort_best", value=None, unit="ratio", goal=0.9, better="higher"),
    *(
        Result(name=f"classify_rps_vs_{peer}.{callers}", value=None, unit="ratio", goal=1.0, better="higher")
        for peer in PEERS
        for callers in AT_ONCE
    ),
)
"""Stand in the file without a value where classify was left out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="whether it works, in about a minute; no figures to keep")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data", help="models and photos")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    chosen = parser.parse_args()
    unknown = set(chosen.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    size = QUICK if chosen.quick else FULL
    print(heading(METHOD), flush=True)
    results: list[Result] = []
    for name in chosen.sections or SECTIONS:
        results += SECTIONS[name](size, chosen.data)
    print()
    print(table(("", "value", "goal"), [_row(result) for result in results]))
    if not chosen.sections:
        known = {result.name for result in results}
        results += [result for result in NAMED_ALWAYS if result.name not in known]
        name = "nn-quick" if chosen.quick else "nn"
        print(f"\nwritten: {write_json(name, METHOD, results)}")


def _row(result: Result) -> tuple[str, str, str]:
    value = "-" if result.value is None else f"{result.value:.3g}"
    sign = "<=" if result.better == "lower" else ">="
    mark = {True: " met", False: " NOT MET", None: ""}[result.met]
    return result.name, value, "" if result.goal is None else f"{sign} {result.goal:g}{mark}"


if __name__ == "__main__":
    main()

"""What every benchmark leaves behind: machine, versions, a table to read, and the same as JSON to compare.

`build/bench/<name>.json` is `{"machine", "versions", "method", "results": [...]}`, and each of its results
`{"name", "value", "unit", "goal", "better"}` with `better` either
"lower" or "higher"; `goal` and `value` are null where there is none.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

BUILD = Path(__file__).resolve().parents[2] / "build" / "bench"
PACKAGES = ("wasmtime", "onnxruntime", "hypercorn", "uvloop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One figure. `goal`: what it should not be worse than."""

    name: str
    value: float | None
    unit: str
    goal: float | None = None
    better: Literal["lower", "higher"] = "lower"

    @property
    def met(self) -> bool | None:
        """None where there is no goal, or no figure."""
        if self.goal is None or self.value is None:
            return None
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal


def machine() -> str:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{_processor()}, {cores} cores, {memory_gib:.0f} GiB, Linux {platform.release()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


class Cores:
    """Of the machine, from when this is made on: what share of their time somebody else had, of whom this machine knows
    only that (proc(5), /proc/stat, `steal`). A virtual machine that waits for its host shows it; nothing in it can be
    faster then."""

    def __init__(self) -> None:
        self._since = self._read()

    def _read(self) -> tuple[int, int]:
        """(stolen, all of it), in ticks."""
        line = Path("/proc/stat").read_text().partition("\n")[0]
        ticks = [int(word) for word in line.split()[1:9]]  # what guests have is in the first two already
        return ticks[7], sum(ticks)

    @property
    def stolen_percent(self) -> float:
        (stolen, whole), (before, whole_before) = self._read(), self._since
        return 100 * (stolen - before) / max(1, whole - whole_before)


RUN = Cores()
"""From the import of this module, which is nearly the start of a run."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank; not a number of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in enumerate(zipped))
        for zipped in (list(zip(line, widths, strict=True)) for line in lines)
    )


def heading(method: str) -> str:
    found = " ".join(f"{name} {number}" for name, number in versions().items())
    stolen = f"{RUN.stolen_percent:.1f} % of its time taken by the hypervisor during this run"
    return f"machine: {machine()}; {stolen}\nversions: {found}\nmethod: {method}"


def write_json(name: str, method: str, results: Sequence[Result]) -> Path:
    """`build/bench/<name>.json`."""
    BUILD.mkdir(parents=True, exist_ok=True)
    file = BUILD / f"{name}.json"
    document = {
        "machine": machine(),
        "versions": versions(),
        "method": method,
        "results": [asdict(result) for result in results],
    }
    file.write_text(json.dumps(document, indent=1) + "\n")
    return file

"""How long a function holds its sandbox, as measured: a moving mean and deviation, with the gains of RFC 6298 §2."""

from __future__ import annotations

from typing import Final

BRIEF_NS: Final = 50_000_000
"""A function whose runs hardly ever take longer is brief."""
OUTLIER: Final = 4
"""A run counts as at most so many times what the longest are known to take."""
CAPACITY: Final = 16_384
HEAVY_NS: Final = 20_000_000
"""A guest that has used more of a core goes on less urgently than everything else."""
OVERSTAY_NS: Final = 250_000_000
"""A run of a brief function that takes longer is none."""
ABUSE_NS: Final = 1_000_000_000
"""... and no busy machine makes one take so long."""


class RunTime:
    """Of one function. `low_ns` and `high_ns` are what a run takes at least and at most, as far as can be told."""

    __slots__ = ("brief", "cpu_ns", "deviation_ns", "high_ns", "low_ns", "mean_ns", "runs")

    def __init__(self) -> None:
        self.runs = 0
        self.cpu_ns = 0.0
        self.mean_ns = 0.0
        self.deviation_ns = 0.0
        self.low_ns = 0
        self.high_ns = 0
        self.brief = False
        """Of what is not known yet it is not assumed."""

    def note(self, took_ns: int) -> None:
        if self.runs == 0:
            self.mean_ns, self.deviation_ns = float(took_ns), took_ns / 2
        else:
            # A machine that stood still for a moment says nothing of the function.
            if took_ns > BRIEF_NS:
                took_ns = min(took_ns, max(BRIEF_NS, OUTLIER * self.high_ns))
            off_ns = took_ns - self.mean_ns
            self.deviation_ns += (abs(off_ns) - self.deviation_ns) / 4
            self.mean_ns += off_ns / 8
        self.runs += 1
        mean_ns, deviation_ns = self.mean_ns, self.deviation_ns
        self.low_ns = int(mean_ns - deviation_ns) if mean_ns > deviation_ns else 0
        self.high_ns = high_ns = int(mean_ns + 2 * deviation_ns)
        self.brief = high_ns <= BRIEF_NS

    def note_cpu(self, used_ns: int) -> None:
        self.cpu_ns += (used_ns - self.cpu_ns) / 4

    @property
    def heavy(self) -> bool:
        """Its runs use much of a core."""
        return self.cpu_ns > HEAVY_NS


class RunTimes:
    """By tenant and function, whatever the version."""

    def __init__(self) -> None:
        self._functions: dict[tuple[str, str], RunTime] = {}

    def of(self, tenant: str, function: str) -> RunTime:
        found = self._functions.get((tenant, function))
        if found is None:
            if len(self._functions) >= CAPACITY:
                del self._functions[next(iter(self._functions))]
            found = self._functions[tenant, function] = RunTime()
        return found

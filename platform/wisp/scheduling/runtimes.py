"""What a function's runs take, as measured: moving means and deviations, with the gains of RFC 6298 §2.

Two times are kept of each. How long it held its sandbox is what others wait for; on an overloaded machine it says
little of the function. What it used itself (`idleness`: its process' CPU, its inference, what it slept and waited for)
tells a function with brief runs from one without.
"""

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
"""A run of a brief function that takes longer, and has used more than a brief one does, is none."""
QUICK_NS: Final = 2_000_000
PROMPT_NS: Final = 5_000_000
KNOWN_RUNS: Final = 8
"""A function of which so many runs are known, and that hardly ever uses more, is quick, or prompt."""
ABUSE_NS: Final = 1_000_000_000
ABUSE_OWN_NS: Final = 2 * BRIEF_NS
"""... and none that has held its sandbox and used as much as this was ever meant to be."""


class Usual:
    """`low_ns` and `high_ns` are what it is at least and at most, as far as can be told."""

    __slots__ = ("deviation_ns", "high_ns", "low_ns", "mean_ns", "runs")

    def __init__(self) -> None:
        self.runs = 0
        self.mean_ns = 0.0
        self.deviation_ns = 0.0
        self.low_ns = 0
        self.high_ns = 0

    def add(self, took_ns: int) -> None:
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
        self.high_ns = int(mean_ns + 2 * deviation_ns)


class RunTime(Usual):
    """Of one function: how long it holds a sandbox, and beside it `own`, what it has used itself."""

    __slots__ = ("brief", "cpu_ns", "heavy", "own", "prompt", "quick", "spills")

    def __init__(self) -> None:
        super().__init__()
        self.own = Usual()
        self.cpu_ns = 0.0
        self.brief = False
        """Of what is not known yet it is not assumed."""
        self.quick = False
        """It hardly uses anything."""
        self.prompt = False
        """It uses little enough to go before everything that does not run in real time."""
        self.heavy = False
        """Its runs use much of a core."""
        self.spills = False
        """Its last answer was too large for a frame."""

    def note(self, took_ns: int, own_ns: int | None = None) -> None:
        """`own_ns`: None where nobody can tell; it is taken for all of it then."""
        self.add(took_ns)
        own = self.own
        own.add(took_ns if own_ns is None or own_ns > took_ns else own_ns)
        # One that is slowed down holds its sandbox for as long as others compute, whatever it uses itself.
        self.brief = own.high_ns <= BRIEF_NS and (not self.heavy or self.high_ns <= BRIEF_NS)
        known = self.runs >= KNOWN_RUNS
        self.quick = known and own.high_ns <= QUICK_NS
        self.prompt = known and own.high_ns <= PROMPT_NS and not self.heavy

    def note_cpu(self, used_ns: int) -> None:
        self.cpu_ns += (used_ns - self.cpu_ns) / 4
        self.heavy = self.cpu_ns > HEAVY_NS

    def note_cpu_at_least(self, used_ns: int) -> None:
        """Of one that was stopped before its end."""
        if used_ns > self.cpu_ns:
            self.note_cpu(used_ns)


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

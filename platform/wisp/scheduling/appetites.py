"""How much of the processor one process has used of late, and how its threads are made less urgent than others'.

A bucket: what the process uses fills it, its share empties it. Whoever keeps within the share is never over, whoever
does not is as soon as it has used `MOST_NS` beyond it, and has to keep below it for as long as it went over, and for
`CALM_NS` at least.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wisp.scheduling.slices import make_less_urgent

LONG_NICENESS: Final = 15
"""Of what uses much of a core; of everything else here it is 0, but for compilation and admission."""
MOST_NS: Final = 100_000_000
"""Beyond its share, in one go."""
DEBT_NS: Final = 2_000_000_000
"""The most that is remembered of what was used beyond."""
CALM_NS: Final = 20_000_000_000
"""From when one was last over, at least: the next burst is often not far."""
CPUCLOCK_SCHED: Final = 2
"""clock_getcpuclockid(3): a process's clock is the complement of its number, shifted over the kind."""


def processor_clock(pid: int) -> int:
    """The clock of what all threads of that process have used."""
    return (~pid << 3) | CPUCLOCK_SCHED


class Appetite:
    """Of one process. `share`: cores that it may use all the time."""

    def __init__(self, pid: int, share: float) -> None:
        self.pid = pid
        self._share = share
        self._clock = processor_clock(pid)
        self._used_ns = 0
        self._used_ns = self._clock_ns()
        self._at_ns = time.monotonic_ns()
        self._over_ns = 0.0
        self._calm_from_ns = self._at_ns

    def _clock_ns(self) -> int:
        try:
            return time.clock_gettime_ns(self._clock)
        except OSError:  # it has just ended
            return self._used_ns

    def look(self) -> None:
        """Counts what it has used since the last look, or since it is looked at."""
        used_ns, now_ns = self._clock_ns(), time.monotonic_ns()
        gone_ns = (now_ns - self._at_ns) * self._share
        self._over_ns = min(max(0.0, self._over_ns + used_ns - self._used_ns - gone_ns), DEBT_NS)
        self._used_ns, self._at_ns = used_ns, now_ns
        if self.over:
            self._calm_from_ns = now_ns + CALM_NS

    @property
    def over(self) -> bool:
        return self._over_ns > MOST_NS

    @property
    def calm(self) -> bool:
        """All that it used beyond its share is made up for, and has been for some time."""
        return self._over_ns == 0 and self._at_ns >= self._calm_from_ns


def slow_down(pid: int) -> None:
    """Every thread of that process, and whatever those start. One that is no more, or is not ours, is left alone."""
    for thread in threads_of(pid):
        make_less_urgent(thread, LONG_NICENESS)


def threads_of(pid: int) -> Iterator[int]:
    """For who changes each of them: every one comes twice, since one may start another before it is changed itself."""
    for _ in range(2):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                yield int(task.name)

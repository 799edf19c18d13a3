"""One run on several cores: what a request that is alone in its host gets, where its model gains by it.

A session has its threads for good, so a model that may run so has two: one of a single thread, for whatever runs beside
others, and one of several. Its threads spin for work between a run's operators, which a model of many small ones needs,
and rest as soon as the run is over. Where another process wants their core that would cost more than it gains: the
kernel is asked before each run how much wants to run just then.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import onnxruntime

MOST_WASTE = 1.5
"""Times the processor that one thread takes, at most, or the model is run on one: its tenant is charged for all."""
MOST_COUNTED = 2.5
"""Of one run, so that a single one that was held up does not decide."""
TRY_AGAIN = 4
TRY_AGAIN_MOST = 32
"""Runs alone after which a model that did not gain is tried again: soon, since often it was another's moment on the
core, and twice as many after each trial that fails too."""
SMOOTHING = 0.2
MOST_HELPERS = 8
"""Threads beside the workers, of all models in one host."""


@dataclass(slots=True, kw_only=True, eq=False)
class Wide:
    """A model's session of several threads. What is known of its runs may be read and written by any worker: each field
    is replaced as a whole, and a lost one is no loss."""

    session: onnxruntime.InferenceSession
    threads: int
    one_thread_ns: float = 0.0
    waste: float = 0.0
    """All threads' time over one thread's."""
    passed_over: int = 0
    pause: int = TRY_AGAIN
    """Runs to be passed over before the next trial."""

    def pays(self) -> bool:
        """As far as is known. Asked once for each run that could be wide."""
        if not self.one_thread_ns:
            return False
        if self.waste <= MOST_WASTE:
            return True
        self.passed_over += 1
        if self.passed_over < self.pause:
            return False
        self.passed_over, self.waste = 0, 0.0
        self.pause = min(2 * self.pause, TRY_AGAIN_MOST)
        return True

    def note(self, threads: int, took_ns: int) -> None:
        """How long a run took by the clock."""
        if threads == 1:
            self.one_thread_ns = _smoothed(self.one_thread_ns, took_ns)
        elif self.one_thread_ns:
            waste = took_ns * threads / self.one_thread_ns
            if waste <= MOST_WASTE:
                self.pause = max(self.pause // 2, TRY_AGAIN)
            self.waste = _smoothed(self.waste, min(MOST_COUNTED, waste))


def _smoothed(former: float, latest: float) -> float:
    return latest if not former else former + SMOOTHING * (latest - former)


class Cores:
    """Of the machine, which need not all be this process's: then `Wide.pays` has the last word. Made before the walls.
    See proc(5), /proc/loadavg: the fourth field begins with how many threads run or want to, this one among them."""

    def __init__(self, loadavg: str = "/proc/loadavg", count: int = os.cpu_count() or 1) -> None:
        """Raises `OSError` where the kernel does not say."""
        self._loadavg = os.open(loadavg, os.O_RDONLY | os.O_CLOEXEC)
        self._count = count

    def are_free(self, others: int) -> bool:
        """Whether so many more threads would find a core each."""
        running, slash, _ = b"".join(os.pread(self._loadavg, 64, 0).split()[3:4]).partition(b"/")
        return bool(slash) and int(running) + others <= self._count


class WideModels:
    """Which models may be run wide, by digest: those that were loaded last, while their threads are not too many."""

    def __init__(self, drop: Callable[[str], None]) -> None:
        self._drop = drop
        self._helpers: OrderedDict[str, int] = OrderedDict()

    def add(self, digest: str, wide: Wide) -> None:
        self._helpers[digest] = wide.threads - 1
        while sum(self._helpers.values()) > MOST_HELPERS and len(self._helpers) > 1:
            self._drop(self._helpers.popitem(last=False)[0])

    def forget(self, digest: str) -> None:
        self._helpers.pop(digest, None)

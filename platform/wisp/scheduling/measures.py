"""What the router itself measures of a guest: its process's CPU time and its inference, by the host's meter.

A sandbox is believed only in what nobody else can know, its guest's fuel and memory among them, and in that only up to
what the function may use. Reading both costs about 2 µs a request.
"""

from __future__ import annotations

import time

from wisp.wire.inferences import MOST_THREADS
from wisp.wire.invocations import FunctionLink
from wisp.wire.meters import NOTHING, Meter, Metered
from wisp.wire.outcome import Receipt, nn_fuel

CPUCLOCK_SCHED = 2
"""clock_getcpuclockid(3): a process's clock is the complement of its number, shifted over the kind."""


class Measure:
    """Of one slot, through its successive processes and meters."""

    def __init__(self) -> None:
        self._meters: dict[bool, Meter] = {}
        """By whether the line is to a tenant's own host."""
        self._clock = 0
        self._cpu_ns = 0
        self._ended_cpu_ns = 0
        self._began_ns = 0
        self._number = 0
        self._asked_ns = 0
        """Since when another machine infers for it; 0: none does."""
        self._metered: Metered = NOTHING
        """By meters that were replaced since the invocation began."""

    def follow(self, pid: int) -> None:
        """Another process fills the slot."""
        self._clock = (~pid << 3) | CPUCLOCK_SCHED

    def renew_meter(self, own: bool = False) -> Meter:
        """For a new line to an inference host."""
        self.drop_meter(own)
        meter = self._meters[own] = Meter.create()
        return meter

    def drop_meter(self, own: bool = False) -> None:
        """The line is given up; what was counted on it stays counted."""
        meter = self._meters.pop(own, None)
        if meter is not None:
            self._metered += meter.read(self._number)
            meter.close()

    def begin(self, number: int) -> None:
        self._number, self._metered, self._asked_ns = number, NOTHING, 0
        self._began_ns = time.monotonic_ns()
        self._cpu_ns = self._clock_ns()

    def go_on(self, number: int, since_ns: int) -> None:
        """The next begins where the last one ended. `since_ns`: when it was sent."""
        self._number, self._metered, self._asked_ns = number, NOTHING, 0
        self._began_ns, self._cpu_ns = since_ns, self._ended_cpu_ns

    def _clock_ns(self) -> int:
        try:
            return time.clock_gettime_ns(self._clock)
        except OSError:  # reaped: nobody can tell any more
            return self._cpu_ns

    def cpu_ns(self) -> int:
        """So far, of the invocation that began last."""
        return self._clock_ns() - self._cpu_ns

    def ask(self) -> None:
        """Another machine begins to infer."""
        self._asked_ns = time.monotonic_ns()

    def add(self, number: int, metered: Metered) -> None:
        """It has ended."""
        if number == self._number:
            self._asked_ns = 0
            self._metered += metered

    def end(self, claimed: Receipt, link: FunctionLink) -> Receipt:
        """The receipt of the invocation that began last, from what its sandbox claims."""
        wall_ns = time.monotonic_ns() - self._began_ns
        metered = self._metered
        for meter in self._meters.values():
            found = meter.read(self._number)
            if found is not NOTHING:
                metered = found if metered is NOTHING else metered + found
        if self._asked_ns:
            metered += Metered(nn_ns=time.monotonic_ns() - self._asked_ns, inferences=1)
            self._asked_ns = 0
        nn_ns = charged = 0
        if metered is not NOTHING:
            nn_ns = min(metered.nn_ns, wall_ns * MOST_THREADS)  # a slot infers one thing at a time
            charged = nn_fuel(nn_ns)
        self._ended_cpu_ns = self._clock_ns()
        fuel, store_ns, guest_ns = claimed.fuel, claimed.store_ns, claimed.guest_ns
        memory_peak_bytes = claimed.memory_peak_bytes
        return Receipt(
            (fuel if fuel < link.fuel else link.fuel) + charged,
            charged,
            memory_peak_bytes if memory_peak_bytes < link.memory_bytes else link.memory_bytes,
            self._ended_cpu_ns - self._cpu_ns,
            0,
            store_ns if store_ns < wall_ns else wall_ns,
            guest_ns if guest_ns < wall_ns else wall_ns,
            nn_ns,
            claimed.host_calls,
            metered.inferences,
            metered.tensor_bytes,
        )

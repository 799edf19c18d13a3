"""Who runs in real time, before everything that does not: what others wait for, for as long as it uses little.

Beside busy guests, whoever wakes waits for a core, often for a tick of 4 ms, whatever its niceness. In real time
(SCHED_RR, sched(7)) it does not wait at all, and keeps whatever else there is from running: so none of this is for
who uses much. First comes the router, on which every request waits. Behind it come the inference hosts, and the guests
of functions that are known to end within milliseconds; those only while the router comes before them, and while
together they leave the other half of the cores to the rest. Who begins to use more goes back among the others within a
second, a guest within two looks (`Sandboxes`).

Only where the platform may (CAP_SYS_NICE, or RLIMIT_RTPRIO), where the operator chose neither a policy nor a niceness
for it, and where no quota of CPU time could be used up by it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Final

from wisp.cores import quota_cores, usable_cores
from wisp.scheduling.appetites import processor_clock, threads_of
from wisp.scheduling.slices import enter_real_time, leave_real_time

log = logging.getLogger(__name__)

ROUTER_PRIORITY: Final = 2
BEHIND_PRIORITY: Final = 1
"""Both low: whatever else of the machine runs in real time is likely to come first."""
MOST_OF_ROUTER: Final = 0.9
"""Of a core. What needs all of one, under a flood, takes turns with those that it waits for."""
MOST_OF_ROUTER_ALONE: Final = 0.5
"""... where it is the only core."""
MOST_OF_A_HOST: Final = 0.5
MOST_BEHIND: Final = 0.5
"""Of all cores: hosts and guests together."""
SHARED: Final = 0.4
"""So much of each where there are more nodes on this machine: all would come first, and nobody be left to serve."""
REGAINED: Final = 0.92
"""Who has lost it has it again below so much of what it may use."""
WINDOW_NS: Final = 500_000_000
LOOK_EVERY_S: Final = 0.1


class Thrift:
    """Whether something uses little: cores, as a moving mean."""

    __slots__ = ("_mean", "_most", "kept")

    def __init__(self, most: float) -> None:
        self._most = most
        self._mean = 0.0
        self.kept = True

    def note(self, used_ns: int, gone_ns: int) -> None:
        self._mean += (used_ns / gone_ns - self._mean) * min(1.0, gone_ns / WINDOW_NS)
        self.kept = self._mean <= (self._most if self.kept else self._most * REGAINED)


class Process:
    """One that may go first, by what it uses. `only`: this thread of it alone, else all that it has."""

    def __init__(self, pid: int, priority: int, most: float, *, only: int | None = None) -> None:
        self.first = False
        self.thrift = Thrift(most)
        self._pid = pid
        self._priority = priority
        self._only = only
        self._clock = processor_clock(pid)
        self._used_ns = self._clock_ns()

    def _clock_ns(self) -> int:
        try:
            return time.clock_gettime_ns(self._clock)
        except OSError:  # it has just ended
            return self._used_ns

    def look(self, gone_ns: int) -> int:
        """What it has used since the last look, in ns."""
        before_ns, self._used_ns = self._used_ns, self._clock_ns()
        self.thrift.note(self._used_ns - before_ns, gone_ns)
        return self._used_ns - before_ns

    def put(self, *, first: bool) -> None:
        """Raises `PermissionError`. What a thread of it starts is as that thread is, but for `only`."""
        if first is self.first:
            return
        self.first = first
        for thread in self._threads():
            try:
                if first:
                    enter_real_time(thread, self._priority, heirs=self._only is None)
                else:
                    leave_real_time(thread)
            except ProcessLookupError:  # it has just ended
                continue

    def _threads(self) -> Iterable[int]:
        return threads_of(self._pid) if self._only is None else (self._only,)


class Precedence:
    """Of one node. `guests`: whether its prompt guests go first at present; nobody does until `run`."""

    def __init__(self, hosts: Callable[[], Iterable[int]] = tuple, *, alone: bool = True) -> None:
        """`hosts`: the processes that infer and use no more than their share. `alone`: no other node is here."""
        self.guests = False
        self.guests_ns = 0
        """What guests that went first have used, since the last look."""
        self._hosts = hosts
        self._part = 1.0 if alone else SHARED
        self._processes: dict[int, Process] = {}

    async def run(self) -> None:
        """For the thread that it is called on, which is the router's; until cancelled."""
        if why := _hindrance():
            log.info("nothing runs in real time: %s", why)
            return
        cores = usable_cores()
        router = Process(
            os.getpid(),
            ROUTER_PRIORITY,
            self._part * (MOST_OF_ROUTER if cores > 1 else MOST_OF_ROUTER_ALONE),
            only=os.getpid(),
        )
        behind = Thrift(self._part * MOST_BEHIND * cores)
        at_ns = time.monotonic_ns()
        try:
            router.put(first=True)
            log.info("what uses little of the processor runs in real time")
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                before_ns, at_ns = at_ns, time.monotonic_ns()
                self._look(router, behind, max(1, at_ns - before_ns))
        except PermissionError:
            log.info("nothing runs in real time: it is not permitted (CAP_SYS_NICE)")
        finally:
            self._end(router)

    def _look(self, router: Process, behind: Thrift, gone_ns: int) -> None:
        router.look(gone_ns)
        used_ns, self.guests_ns = self.guests_ns, 0
        pids = set(self._hosts())
        for pid in self._processes.keys() - pids:  # it is gone, or was made less urgent than all others
            del self._processes[pid]
        for pid in pids:
            process = self._processes.get(pid)
            if process is None:
                process = self._processes[pid] = Process(pid, BEHIND_PRIORITY, self._part * MOST_OF_A_HOST)
            used_ns += process.look(gone_ns)
        behind.note(used_ns, gone_ns)
        router.put(first=router.thrift.kept)
        self.guests = router.first and behind.kept
        for process in self._processes.values():
            process.put(first=self.guests and process.thrift.kept)

    def _end(self, router: Process) -> None:
        self.guests = False
        for process in (*self._processes.values(), router):
            process.put(first=False)
        self._processes.clear()


def _hindrance() -> str:
    """Why nothing of this platform should run in real time; empty where it may be tried."""
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        return "the operator chose a scheduling policy"
    if os.getpriority(os.PRIO_PROCESS, 0) > 0:
        return "the operator chose a niceness"
    if quota_cores() is not None:
        return "a quota of CPU time applies"
    return ""

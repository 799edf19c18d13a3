"""How long a guest's thread was idle: asleep, or waiting for what it asked for, as the kernel tells of it.

A run that takes long says little of its function while the machine is overloaded: its thread is ready, and others run.
That is none of its doing. A guest that sleeps, or waits for an answer from outside, chose to hold its sandbox. Both
leave the processor alone; what tells them apart is the time for which a thread stood ready without a core (run delay,
/proc/PID/task/TID/schedstat). The kernel adds it up when the thread gets one, so it is complete whenever the thread
sleeps. On a kernel that does not count it all such time is taken for idleness.
"""

from __future__ import annotations

import os
from typing import Final

STEP_NS: Final = 20_000_000
"""How often it is looked at. Whoever looks later than that was late himself, and knows nothing of the time between."""
ASLEEP: Final = (b"S", b"D")
"""proc(5), of /proc/PID/stat."""


class Idleness:
    """Of one run on one thread, from when it was first looked at. Times are ns; `cpu_ns` and `delay_ns` are what it has
    run, and stood ready without a core, since whenever."""

    __slots__ = ("_cpu_ns", "_delay_ns", "_late_ns", "_looked_ns", "_since_ns", "idle_ns", "thread")

    def __init__(self, thread: int, now_ns: int, cpu_ns: int, delay_ns: int, *, idle_ns: int = 0) -> None:
        self.thread = thread
        self.idle_ns = idle_ns
        self._looked_ns = self._since_ns = now_ns
        self._late_ns = 0
        self._cpu_ns = cpu_ns
        self._delay_ns = delay_ns

    def note(self, now_ns: int, cpu_ns: int, delay_ns: int, *, asleep: bool) -> None:
        self._late_ns += max(0, now_ns - self._looked_ns - STEP_NS)
        self._looked_ns = now_ns
        if asleep:
            gone_ns = now_ns - self._since_ns - self._late_ns
            self.idle_ns += max(0, gone_ns - (cpu_ns - self._cpu_ns) - (delay_ns - self._delay_ns))
            self._since_ns, self._late_ns, self._cpu_ns, self._delay_ns = now_ns, 0, cpu_ns, delay_ns


class Standing:
    """What the kernel tells of one thread. The files stay open: a guest is looked at fifty times a second, and at its
    end, and to open them anew would take most of that time."""

    __slots__ = ("_delay_fd", "_state_fd", "thread")

    def __init__(self, pid: int, thread: int) -> None:
        self.thread = thread
        self._delay_fd = _open(f"/proc/{pid}/task/{thread}/schedstat")
        self._state_fd = _open(f"/proc/{pid}/task/{thread}/stat")

    def delay_ns(self) -> int:
        """For how long it stood ready without a core; 0 where the kernel does not say."""
        try:
            return int(_read(self._delay_fd).split()[1])
        except (OSError, IndexError, ValueError):
            return 0

    def state(self) -> bytes:
        """One letter; none where it has ended."""
        try:
            return _read(self._state_fd).rpartition(b") ")[2][:1]
        except OSError:
            return b""

    def close(self) -> None:
        for fd in (self._delay_fd, self._state_fd):
            if fd >= 0:
                os.close(fd)
        self._delay_fd = self._state_fd = -1


def look(known: Idleness | None, standing: Standing, now_ns: int, cpu_ns: int) -> Idleness | None:
    """`known` with what has come to it, or a new one; `cpu_ns` is the process', since its guest was started."""
    delay_ns = standing.delay_ns()
    state = standing.state()
    if not state:  # it has ended, and another will take over
        return known
    if known is None or known.thread != standing.thread:
        idle_ns = 0 if known is None else known.idle_ns
        return Idleness(standing.thread, now_ns, cpu_ns, delay_ns, idle_ns=idle_ns)
    known.note(now_ns, cpu_ns, delay_ns, asleep=state in ASLEEP)
    return known


def _open(path: str) -> int:
    """-1 where there is none."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _read(fd: int) -> bytes:
    return os.pread(fd, 512, 0)

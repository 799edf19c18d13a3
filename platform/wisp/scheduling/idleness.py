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


def look(known: Idleness | None, pid: int, thread: int, now_ns: int, cpu_ns: int) -> Idleness | None:
    """`known` with what has come to it, or a new one; `cpu_ns` is the process', since its guest was started."""
    delay_ns = _delay_ns(pid, thread)
    state = _state(pid, thread)
    if not state:  # it has ended, and another will take over
        return known
    if known is None or known.thread != thread:
        return Idleness(thread, now_ns, cpu_ns, delay_ns, idle_ns=0 if known is None else known.idle_ns)
    known.note(now_ns, cpu_ns, delay_ns, asleep=state in ASLEEP)
    return known


def _delay_ns(pid: int, thread: int) -> int:
    try:
        return int(_read(f"/proc/{pid}/task/{thread}/schedstat").split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _state(pid: int, thread: int) -> bytes:
    try:
        return _read(f"/proc/{pid}/task/{thread}/stat").rpartition(b") ")[2][:1]
    except OSError:
        return b""


def _read(path: str) -> bytes:
    """In half the time that a file object takes."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 512)
    finally:
        os.close(file)

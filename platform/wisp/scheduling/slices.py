"""How long the kernel lets another task run on before one of this platform's that wakes has its core: not at all where
that one runs in real time.

Whoever is given a core keeps it for a slice, whatever its niceness, and after that until the next tick, unless one with
a shorter slice wakes. So the router asks for the shortest (Linux 6.12 and later), and all that it starts inherits it;
what is made less urgent has a long one from then on, or it would be as hard to interrupt as who waits for it.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from wisp.wire.kernel import set_slice

SLICE_NS: Final = 100_000
"""The shortest that there is."""
LONG_SLICE_NS: Final = 10_000_000


def ask_for_short_slices() -> bool:
    """For this thread and whatever it starts. False where that cannot be, or where the operator chose a policy."""
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    try:
        set_slice(SLICE_NS)
    except OSError:
        return False
    return True


def enter_real_time(thread: int, priority: int, *, heirs: bool) -> None:
    """SCHED_RR, see sched(7). `heirs`: and whatever it starts from here on. Raises `ProcessLookupError`,
    `PermissionError`."""
    os.sched_setscheduler(thread, os.SCHED_RR | (0 if heirs else os.SCHED_RESET_ON_FORK), os.sched_param(priority))


def leave_real_time(thread: int) -> None:
    """Nothing where it does not run there. Raises `ProcessLookupError`, `PermissionError`."""
    policy = os.sched_getscheduler(thread)
    alone = policy & os.SCHED_RESET_ON_FORK  # stays: to take it back would need a privilege
    if policy == os.SCHED_RR | alone:
        os.sched_setscheduler(thread, os.SCHED_OTHER | alone, os.sched_param(0))
        set_short_slice(thread)


def set_short_slice(thread: int) -> None:
    """Of that thread, which is ours: one that was started from real time inherits none. Nothing where it is no more."""
    with contextlib.suppress(OSError):  # unknown here, or forbidden: the kernel's own has to do
        set_slice(SLICE_NS, thread)


def make_less_urgent(thread: int, niceness: int) -> None:
    """That thread, or a process's first, and whatever it starts. One that is no more, or is not ours, is left alone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        leave_real_time(thread)
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
        with contextlib.suppress(OSError):  # unknown here, or forbidden: the niceness has to do
            set_slice(LONG_SLICE_NS, thread)

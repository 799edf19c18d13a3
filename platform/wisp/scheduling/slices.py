"""How long the kernel lets another task run on before one of this platform's that wakes has its core.

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


def make_less_urgent(thread: int, niceness: int) -> None:
    """That thread, or a process's first, and whatever it starts. One that is no more, or is not ours, is left alone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
        with contextlib.suppress(OSError):  # unknown here, or forbidden: the niceness has to do
            set_slice(LONG_SLICE_NS, thread)

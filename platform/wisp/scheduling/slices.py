"""How long the kernel lets another task run on before one of this platform's that wakes has its core.

Whoever is given a core keeps it for a slice, whatever its niceness, and after that until the next tick, unless one with
a shorter slice wakes. So the router asks for the shortest (Linux 6.12 and later), and all that it starts inherits it:
what was slowed down here gives way sooner, and so does what else runs on the machine.
"""

from __future__ import annotations

import os
from typing import Final

from wisp.wire.kernel import set_slice

SLICE_NS: Final = 100_000
"""The shortest that there is."""


def ask_for_short_slices() -> bool:
    """For this thread and whatever it starts. False where that cannot be, or where the operator chose a policy."""
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    try:
        set_slice(SLICE_NS)
    except OSError:
        return False
    return True

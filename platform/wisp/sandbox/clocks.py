"""What a guest's clocks show: as its grant says, and nothing of the host's own."""

from __future__ import annotations

import time
from typing import Final

from wisp.sandbox.invocation import Invocation

COARSE_NS: Final = 1_000_000
REALTIME, MONOTONIC, PROCESS_CPUTIME, THREAD_CPUTIME = range(4)


def now_ns(call: Invocation, clock: int) -> int:
    """Other than wall time counts from the invocation's start: the host's own is not the guest's to know. A frozen
    clock shows the start for ever; a coarse one moves in steps."""
    elapsed = 0 if call.link.clock == "frozen" else time.monotonic_ns() - call.started_ns
    value = call.started_real_ns + elapsed if clock == REALTIME else elapsed
    return value - value % COARSE_NS if call.link.clock == "coarse" else value

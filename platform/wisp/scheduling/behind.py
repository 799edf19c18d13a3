"""Which run goes behind which, in a sandbox where one of its tenant's still runs: see `ahead`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from wisp.errors import ChildLost
from wisp.scheduling.ahead import WAKING_NS
from wisp.scheduling.queue import FairQueue
from wisp.scheduling.runs import Run
from wisp.scheduling.slots import Sandbox


def may_go_ahead(run: Run) -> bool:
    """One that waited: its function may have turned out to be less quick meanwhile."""
    return run.goes_ahead and run.runtime.quick and not run.runtime.spills


class Behind:
    """The pool's. `idle` are those of its slots that are free at the moment; `put_back` is called for a run that could
    not be sent."""

    def __init__(
        self,
        slots: Sequence[Sandbox],
        idle: Sequence[Sandbox],
        queue: FairQueue[Run],
        numbers: Iterator[int],
        *,
        put_back: Callable[[Run], None],
    ) -> None:
        self._slots = slots
        self._idle = idle
        self._queue = queue
        self._numbers = numbers
        self._put_back = put_back

    def with_room(self, run: Run) -> Sandbox | None:
        """Where it goes behind another of its tenant's, if it does; as few as can be before it."""
        run.since_ns = now_ns = time.monotonic_ns()
        if self._queue.length or not run.goes_ahead or (self._idle and run.runtime.cpu_ns > WAKING_NS):
            return None
        found: Sandbox | None = None
        for sandbox in self._slots:
            turn = sandbox.turn
            if turn is not None and turn.tenant == run.tenant and sandbox.takes_ahead(now_ns):
                if not sandbox.ahead.runs:
                    return sandbox
                found = found or sandbox
        return found

    def send(self, run: Run, sandbox: Sandbox) -> bool:
        run.sandbox, run.number, run.ahead = sandbox, next(self._numbers), True
        run.sent_ns = time.monotonic_ns()
        try:
            sandbox.send_ahead(run)
        except ChildLost:
            self._put_back(run)
            return False
        except Exception as error:  # noqa: BLE001 - this request's own, as in `_begin`
            run.ahead = False
            sandbox.kill("a request could not be given to it whole")
            run.fail(error)
            return False
        return True

    def fill(self, sandbox: Sandbox) -> None:
        """What waits, and comes next, goes behind what runs there, where it may."""
        turn = sandbox.turn
        while turn is not None and self._queue.length and sandbox.takes_ahead(turn.granted_ns):
            run = self._queue.next_of(turn.tenant, may_go_ahead)
            if run is None:
                return
            run.leave_queue(run.since_ns)
            if not self.send(run, sandbox):
                return

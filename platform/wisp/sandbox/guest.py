"""One request, from a fresh store to its ending. The store is closed on every path before anything is answered."""

from __future__ import annotations

import threading
import time
from typing import Final

from wisp.policy.choices import Abi
from wisp.sandbox import command, handler
from wisp.sandbox.arena import Arena
from wisp.sandbox.clocks import REALTIME, now_ns
from wisp.sandbox.engine import Engine, Linker
from wisp.sandbox.filesystem import FileTree
from wisp.sandbox.habits import Habit
from wisp.sandbox.handler import EMPTY
from wisp.sandbox.hosting import Current, link
from wisp.sandbox.hostline import HostLine
from wisp.sandbox.invocation import Invocation
from wisp.sandbox.outbound import OutboundLine
from wisp.sandbox.pagemap import PageMap
from wisp.sandbox.store import Store
from wisp.sandbox.timer import EPOCH_TICKS, DeadlineTimer
from wisp.sandbox.traps import EngineError, TrapCode, Trapped
from wisp.wire.invocations import FunctionLink
from wisp.wire.outcome import Ending, Outcome, Receipt

COMMAND: Final = Abi.COMMAND
OK: Final = Outcome.OK
MAX_FUEL: Final = 2**63 - 1
"""ctypes would let a larger number wrap."""


class GuestRunner:
    """Owns the engine, its one memory, its timer and its linker. Runs one guest at a time, on one thread."""

    def __init__(self, pagemap_fd: int = -1) -> None:
        """Takes the descriptor over, see `open_pagemap`."""
        self.pages = PageMap(pagemap_fd)
        self.arena = Arena(self.pages)
        self.engine = Engine(self.arena.creator)
        self.timer = DeadlineTimer(self.engine.pointer)
        self.current = Current()
        self.ending = threading.Lock()
        """Held while an invocation ends, and while one is stopped."""
        self._unwanted = 0
        """What was to be stopped last. Its frame may lie in the socket still, or be read just now."""
        self.linker: Linker = link(self.engine, self.current)

    def run(
        self,
        *,
        number: int,
        function: FunctionLink,
        prepared: int,
        deadline_ns: int,
        head: bytes,
        body: bytes | memoryview,
        line: HostLine | None,
        answer: memoryview,
        probe: bool = False,
        files: FileTree | None = None,
        request_id: bytes = b"",
        outbound: OutboundLine | None = None,
        own_line: HostLine | None = None,
        habit: Habit | None = None,
    ) -> tuple[Ending, int]:
        """(the ending, bytes of its response lying in the answer segment). With `probe` it instantiates the module and
        looks at its exports, initialises a handler, but runs no program and handles nothing."""
        call = Invocation(
            number=number,
            link=function,
            deadline_ns=deadline_ns,
            arena=self.arena,
            lines=(line, own_line),
            files=files,
            outbound=outbound,
        )
        if files is not None:
            files.begin(now_ns(call, REALTIME))
        program = function.abi == COMMAND
        response, in_segment = EMPTY
        trap: Trapped | None = None
        fuel = function.fuel if function.fuel < MAX_FUEL else MAX_FUEL
        used = ready_ns = guest_ns = 0
        arena = self.arena
        arena.begin(function.memory_bytes, Habit() if habit is None else habit)
        store = Store(self.engine.pointer, fuel=fuel, epoch_ticks=EPOCH_TICKS)
        self.current.invocation, call.fuel = call, store
        if self._unwanted == number:  # `stop` sets it before it looks at what runs, so one of the two sees the other
            self._expire()
        try:
            self.timer.arm(deadline_ns)
            try:
                store.instantiate(prepared)
                ready_ns = time.monotonic_ns()
                if program and probe:
                    command.check_exports(store, function)
                elif program:
                    response, in_segment = command.run(store, call, head, body, request_id, answer)
                elif probe:
                    handler.check_exports(store)
                    handler.initialize(store)
                else:
                    response, in_segment = handler.handle(store, call, head, body, answer)
            except Trapped as caught:
                trap = caught
            except EngineError as refused:
                trap = Trapped(None, str(refused))
            finally:
                self.timer.disarm()
                guest_ns = time.monotonic_ns() - ready_ns if ready_ns else 0
                used = max(0, fuel - store.fuel_left() - call.nn_fuel)
        finally:
            with self.ending:
                self.current.invocation = call.fuel = None
            store.close()
        outcome, detail = OK, ""
        if trap is not None or call.stopped is not None:
            outcome, detail = classify(call, trap)
        denials = call.refusals
        if denials:
            detail = "; ".join(part for part in (detail, *map(str, denials)) if part)
        if call.denial is not None:
            denials += (call.denial,)
        if outcome is not OK:
            response, in_segment = EMPTY
        logs, lines = call.take_logs()
        graphs = call.inferred
        nn_ns, inferences, tensor_bytes = (
            (0, 0, 0) if graphs is None else (graphs.time_ns, graphs.count, graphs.tensor_bytes)
        )
        store_ns = time.monotonic_ns() - call.started_ns - guest_ns
        receipt = Receipt(
            used, 0, arena.peak_bytes, 0, 0, store_ns, guest_ns, nn_ns, call.host_calls, inferences, tensor_bytes
        )
        return Ending(outcome, receipt, response, logs, detail, lines, denials), in_segment

    def stop(self, number: int) -> None:
        """Ends this invocation as its deadline would, if it is the one that runs, or as soon as it begins; for another
        thread to call. A host call that waits goes on waiting until its own bound."""
        self._unwanted = number
        with self.ending:
            running = self.current.invocation
            if running is not None and running.number == number:
                self._expire()

    def _expire(self) -> None:
        for _ in range(EPOCH_TICKS):
            self.engine.increment_epoch()

    def close(self) -> None:
        self.timer.close()
        self.linker.close()
        self.engine.close()
        self.pages.close()


def classify(call: Invocation, trap: Trapped | None) -> tuple[Outcome, str]:
    """What to call the ending, and a line for the tenant's log. What the platform decided comes before what the engine
    saw, and both before what the guest's own trap suggests."""
    if call.stopped is not None:
        return call.stopped, call.detail
    if trap is None:
        return Outcome.OK, ""
    if trap.code == TrapCode.OUT_OF_FUEL:
        return Outcome.FUEL_EXHAUSTED, f"the fuel limit of {call.link.fuel} was reached"
    if trap.code == TrapCode.INTERRUPT:
        return Outcome.DEADLINE_EXCEEDED, "the deadline passed while the guest ran"
    if call.arena.failure:
        return Outcome.CHILD_LOST, f"the sandbox has no memory to give: {call.arena.failure}"
    first_line = trap.message.partition("\\n")[0]
    if call.arena.refused:
        limit = call.link.memory_bytes
        return Outcome.MEMORY_EXCEEDED, f"the memory limit of {limit} bytes was reached, then: {first_line}"
    return Outcome.GUEST_TRAP, trap.message

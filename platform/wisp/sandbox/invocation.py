"""One request's state inside the sandbox: what it may do, what it has used, and why it was stopped.

Host functions receive it; nothing of it outlives the request.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

from wisp.sandbox.arena import Arena
from wisp.sandbox.descriptors import Descriptors
from wisp.sandbox.filesystem import FileTree
from wisp.sandbox.graphs import Graphs
from wisp.sandbox.hostline import HostLine
from wisp.sandbox.logs import LogBuffer
from wisp.sandbox.outbound import OutboundLine, Responses
from wisp.wire.invocations import FunctionLink
from wisp.wire.outcome import Denial, Outcome, nn_fuel


class Fuel(Protocol):
    """The guest's own store, as far as it is charged for."""

    def fuel_left(self) -> int: ...

    def set_fuel(self, fuel: int) -> None: ...


class Stop:
    """What a host function returns instead of an errno to end the guest; the cause is on the invocation."""


STOP = Stop()
ARGUMENTS: Final = [b"function\0"]
MAX_REFUSALS = 4
"""Refusals of one invocation that are told, where they do not end it."""


class Invocation:
    """Created before the guest starts. `stopped` is the outcome that the platform decided, if it did.

    What most guests never use is made when first asked for.
    """

    __slots__ = (
        "_descriptors",
        "_files",
        "_graphs",
        "_lines",
        "_logs",
        "_outbound",
        "_responses",
        "arena",
        "arguments",
        "deadline_ns",
        "denial",
        "detail",
        "environment",
        "exit_code",
        "fuel",
        "host_calls",
        "link",
        "nn_fuel",
        "number",
        "random_draws",
        "refusals",
        "started_ns",
        "started_real_ns",
        "stopped",
    )

    def __init__(
        self,
        *,
        number: int,
        link: FunctionLink,
        deadline_ns: int,
        arena: Arena,
        lines: tuple[HostLine | None, HostLine | None] = (None, None),
        files: FileTree | None = None,
        outbound: OutboundLine | None = None,
    ) -> None:
        """`lines`: to the shared inference host, and to the tenant's own. Without `files` there is the empty root."""
        self.number = number
        self.link = link
        self.deadline_ns = deadline_ns
        self.arena = arena
        self._lines = lines
        self._graphs: Graphs | None = None
        self._logs: LogBuffer | None = None
        self._files = files
        self._descriptors: Descriptors | None = None
        self.arguments = ARGUMENTS
        """NUL-terminated: the program's name, and no more."""
        self.environment: list[bytes] | None = None
        """NUL-terminated; None is the policy's own."""
        self._outbound = outbound
        self._responses: Responses | None = None
        self.refusals: tuple[Denial, ...] = ()
        """Those that did not end it."""
        self.denial: Denial | None = None
        """The one that did."""
        self.started_ns = time.monotonic_ns()
        self.started_real_ns = time.time_ns()
        self.random_draws = 0
        self.host_calls = 0
        self.fuel: Fuel | None = None
        """There once the store is."""
        self.nn_fuel = 0
        """Taken out of the store for inference."""
        self.stopped: Outcome | None = None
        self.exit_code: int | None = None
        self.detail = ""

    @property
    def inferences(self) -> Graphs:
        """The guest's handles into wasi-nn."""
        if self._graphs is None:
            self._graphs = Graphs(*self._lines)
        return self._graphs

    @property
    def inferred(self) -> Graphs | None:
        """The same, if it has asked for them."""
        return self._graphs

    @property
    def logs(self) -> LogBuffer:
        if self._logs is None:
            self._logs = LogBuffer(self.link.log_bytes)
        return self._logs

    def take_logs(self) -> tuple[bytes, bytes]:
        """See `LogBuffer.take`."""
        return (b"", b"") if self._logs is None else self._logs.take()

    @property
    def responses(self) -> Responses:
        if self._responses is None:
            self._responses = Responses(self._outbound)
        return self._responses

    @property
    def descriptors(self) -> Descriptors:
        if self._descriptors is None:
            self._descriptors = Descriptors(self._files or FileTree(), self.logs)
        return self._descriptors

    def stop(self, outcome: Outcome, detail: str) -> Stop:
        """Ends the guest with this outcome; the first cause stays."""
        if self.stopped is None:
            self.stopped = outcome
            self.detail = detail
        return STOP

    def charge(self, nn_ns: int) -> None:
        """Takes what an inference costs out of the guest's fuel; ends the guest if that was not left."""
        assert self.fuel is not None
        left, cost = self.fuel.fuel_left(), nn_fuel(nn_ns)
        taken = min(left, cost)
        self.nn_fuel += taken
        self.fuel.set_fuel(left - taken)
        if taken < cost:
            spent = f"an inference of {nn_ns / 1e6:.3f} ms costs {cost}, {left} were left"
            self.stop(Outcome.FUEL_EXHAUSTED, f"the fuel limit of {self.link.fuel} was reached: {spent}")

    def exit(self, code: int) -> Stop:
        self.exit_code = code
        return self.stop(Outcome.GUEST_EXIT, f"the guest exited with code {code}")

    def forgive_clean_exit(self) -> bool:
        """Whether the guest ended by itself with code 0, which for a program is an ending like any other."""
        if self.stopped is not Outcome.GUEST_EXIT or self.exit_code != 0:
            return False
        self.stopped, self.detail = None, ""
        return True

    def deny(self, what: str, allow: str) -> Stop:
        """A refused capability; `allow` is the policy line that would grant it."""
        denial = Denial(what=what, allow=allow)
        if self.stopped is None:
            self.denial = denial
        return self.stop(Outcome.CAPABILITY_DENIED, str(denial))

    def refuse(self, what: str, allow: str) -> Stop | None:
        """The same where the policy says `trap`; else the guest gets an errno, and the refusal is noted."""
        if self.link.trap_on_violation:
            return self.deny(what, allow)
        if len(self.refusals) < MAX_REFUSALS:
            denial = Denial(what=what, allow=allow)
            if denial not in self.refusals:
                self.refusals += (denial,)
        return None

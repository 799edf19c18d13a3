"""One request's state inside the sandbox: what it may do, what it has used, and why it was stopped.

Host functions receive it; nothing of it outlives the request.
"""

from __future__ import annotations

import time
from typing import Protocol

from wisp.sandbox.arena import Arena
from wisp.sandbox.logs import LogBuffer
from wisp.wire.invocations import FunctionLink
from wisp.wire.outcome import Outcome


class Inferences(Protocol):
    """The guest's handles into wasi-nn; see `sandbox.graphs`."""

    count: int
    time_ns: int
    tensor_bytes: int


class Stop:
    """What a host function returns instead of an errno to end the guest; the cause is on the invocation."""


STOP = Stop()


class Invocation:
    """Created before the guest starts. `stopped` is the outcome that the platform decided, if it did."""

    __slots__ = (
        "arena",
        "deadline_ns",
        "detail",
        "exit_code",
        "host_calls",
        "inferences",
        "link",
        "logs",
        "number",
        "random_draws",
        "started_ns",
        "started_real_ns",
        "stopped",
    )

    def __init__(
        self, *, number: int, link: FunctionLink, deadline_ns: int, arena: Arena, inferences: Inferences
    ) -> None:
        self.number = number
        self.link = link
        self.deadline_ns = deadline_ns
        self.arena = arena
        self.inferences = inferences
        self.logs = LogBuffer(link.log_bytes)
        self.started_ns = time.monotonic_ns()
        self.started_real_ns = time.time_ns()
        self.random_draws = 0
        self.host_calls = 0
        self.stopped: Outcome | None = None
        self.exit_code: int | None = None
        self.detail = ""

    def stop(self, outcome: Outcome, detail: str) -> Stop:
        """Ends the guest with this outcome; the first cause stays."""
        if self.stopped is None:
            self.stopped = outcome
            self.detail = detail
        return STOP

    def exit(self, code: int) -> Stop:
        self.exit_code = code
        return self.stop(Outcome.GUEST_EXIT, f"the guest exited with code {code}")

    def deny(self, what: str, allow: str) -> Stop:
        """A refused capability; `allow` is the policy line that would grant it."""
        return self.stop(Outcome.CAPABILITY_DENIED, f"denied: {what}; the policy line that would allow it: {allow}")

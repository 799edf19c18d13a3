"""How an invocation ended, and what it used. What a guest does is always one of these values, never an exception."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Self

NN_FUEL_PER_MS = 1_000_000
"""Fuel that a millisecond of inference is charged. At this rate the defaults agree with one another (1G of fuel, a
second), and so do a class's fuel and seconds of inference a day; a tight loop burns 6 to 30 times as much."""


def nn_fuel(nn_ns: int) -> int:
    return nn_ns * NN_FUEL_PER_MS // 1_000_000


class Outcome(StrEnum):
    """A closed set; the order is part of the frame between sandbox and router (`CODES`)."""

    OK = "ok"
    GUEST_TRAP = "guest_trap"
    GUEST_EXIT = "guest_exit"
    FUEL_EXHAUSTED = "fuel_exhausted"
    MEMORY_EXCEEDED = "memory_exceeded"
    CAPABILITY_DENIED = "capability_denied"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INFERENCE_TIMEOUT = "inference_timeout"
    INVALID_GUEST_RESPONSE = "invalid_guest_response"
    RESPONSE_TOO_LARGE = "response_too_large"
    CHILD_LOST = "child_lost"
    """The process died, or could not load the module, through no fault of the guest's."""


CODES: tuple[Outcome, ...] = tuple(Outcome)
NUMBERS: dict[Outcome, int] = {outcome: number for number, outcome in enumerate(CODES)}


class Receipt(NamedTuple):
    """What one invocation used. Times are nanoseconds, sizes bytes; `fuel` is wasmtime's unit (about one per operator).

    `fuel` is the guest's as the engine reports it (0 after a trap by signal, which is why `cpu_ns` is measured beside
    it) and, with it, `nn_fuel`: what its inference was charged. A sandbox reports the former alone, and no `cpu_ns`:
    the router adds both, the one from the inference host's meter, and measures itself whatever it can. A tuple, as
    `Ending` is: a request makes three of them, and a frozen dataclass takes four times as long to make.
    """

    fuel: int = 0
    nn_fuel: int = 0
    memory_peak_bytes: int = 0
    cpu_ns: int = 0
    queue_ns: int = 0
    store_ns: int = 0
    guest_ns: int = 0
    nn_ns: int = 0
    host_calls: int = 0
    inferences: int = 0
    tensor_bytes: int = 0
    bytes_in: int = 0
    """Of the request's body."""
    bytes_out: int = 0
    """Of the body that the guest answered with."""

    def answered(self, *, queue_ns: int, bytes_in: int, bytes_out: int) -> Self:
        """With what the guest's process knows nothing of."""
        return self.__class__(
            self.fuel, self.nn_fuel, self.memory_peak_bytes, self.cpu_ns, queue_ns, self.store_ns, self.guest_ns,
            self.nn_ns, self.host_calls, self.inferences, self.tensor_bytes, bytes_in, bytes_out,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A capability that a guest tried to use and that was refused; `allow` is the policy line that would grant it."""

    what: str
    allow: str

    def __str__(self) -> str:
        return f"denied: {self.what}; the policy line that would allow it: {self.allow}"


class Ending(NamedTuple):
    """Everything that a sandbox tells of one invocation.

    `response` is an encoded exchange response (empty unless the outcome is ok), `logs` what the guest wrote to its
    standard error, `lines` what it wrote to log mounts, `detail` one line for the tenant's log (never for the caller).
    `denials`: what was refused, whether it ended the guest or gave it an errno; `detail` has them as text too.
    """

    outcome: Outcome
    receipt: Receipt
    response: bytes | memoryview
    logs: bytes
    detail: str
    lines: bytes = b""
    denials: tuple[Denial, ...] = ()

    def measured(self, receipt: Receipt) -> Self:
        """With what was measured from outside."""
        return self.__class__(self.outcome, receipt, self.response, self.logs, self.detail, self.lines, self.denials)


def one_line(text: str) -> str:
    """With what a log or a terminal would obey written as escapes. Needs no codec, which would be loaded from disk."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)

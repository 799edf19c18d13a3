"""Outbound HTTP as a guest calls it: the import module `wisp`, an exchange message out and another one back.

    http_send(request, length, handle out)       waits for the answer, or the deadline
    http_response_size(handle, size out)
    http_response_read(handle, buffer, room)     copies it whole and lets go of the handle

Each answers an `Errno`. Two steps, so that the host never calls into a guest that is calling it. Whether a request may
be made is the router's to judge, who makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from wisp.sandbox import memory
from wisp.sandbox.handler import ENVELOPE_BYTES
from wisp.sandbox.invocation import Invocation, Stop
from wisp.wire.outbound import Status
from wisp.wire.outcome import Outcome


class Errno(IntEnum):
    """The numbers are `wire.outbound.Status`'s; a bad pointer and an unknown handle are INVALID."""

    SUCCESS = 0
    INVALID = 1
    DENIED = 2
    TOO_LARGE = 3
    UNREACHABLE = 4
    PROTOCOL = 5
    EXHAUSTED = 6


FAULT = Errno.INVALID


def http_send(call: Invocation, pointer: int, length: int, out: int) -> int | Stop:
    responses = call.responses
    memory.check(call.arena, memory.aligned(out, 4), 4)
    request = memory.view(call.arena, pointer, length)
    if responses.line is None:
        return Errno.UNREACHABLE
    answer = responses.line.ask(call.number, request, call.deadline_ns)
    if answer.status is Status.DEADLINE:
        return call.stop(Outcome.DEADLINE_EXCEEDED, "the deadline passed inside an outbound request")
    if answer.status is Status.DENIED:
        return call.refuse(answer.denial.what, answer.denial.allow) or Errno.DENIED
    if answer.status is not Status.OK:
        call.logs.write(b"[outbound request: %b]\n" % (answer.content or answer.status.name.lower().encode()))
        return Errno(answer.status)
    if responses.held_bytes + len(answer.content) > call.link.response_bytes + ENVELOPE_BYTES:
        return Errno.TOO_LARGE
    memory.write_u32(call.arena, out, responses.add(answer.content))
    return Errno.SUCCESS


def http_response_size(call: Invocation, handle: int, out: int) -> int:
    content = call.responses.waiting.get(handle)
    if content is None:
        return Errno.INVALID
    memory.write_u32(call.arena, memory.aligned(out, 4), len(content))
    return Errno.SUCCESS


def http_response_read(call: Invocation, handle: int, buffer: int, room: int) -> int:
    content = call.responses.waiting.get(handle)
    if content is None:
        return Errno.INVALID
    memory.check(call.arena, buffer, room)
    if len(content) > room:
        return Errno.TOO_LARGE
    memory.write(call.arena, buffer, content)
    call.responses.drop(handle)
    return Errno.SUCCESS


FUNCTIONS: dict[str, Callable[..., int | Stop]] = {
    "http_send": http_send,
    "http_response_size": http_response_size,
    "http_response_read": http_response_read,
}

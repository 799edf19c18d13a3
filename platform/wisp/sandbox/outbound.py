"""The sandbox's side of outbound requests: asked of the router on its own channel, while the guest waits.

The router may send other frames meanwhile (an UNLINK, say): they are kept, in order, for the main loop.
"""

from __future__ import annotations

import select
import struct
import time
from collections import deque

from wisp.errors import InvalidFrame
from wisp.wire.channel import Channel, Frame
from wisp.wire.invocations import Kind
from wisp.wire.outbound import INBOUND_HEAD, OUTBOUND_HEAD, Inbound, Status, place, take
from wisp.wire.segments import Segment

GRACE_NS = 50_000_000
"""How long past the deadline the router may take to say that it passed."""


class OutboundLine:
    """One for the process. `deferred` frames belong to the main loop."""

    def __init__(self, channel: Channel, segment: Segment) -> None:
        self.channel = channel
        self.segment = segment
        self.deferred: deque[Frame] = deque()
        self._sequence = 0
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)

    def ask(self, invocation: int, request: memoryview, deadline_ns: int, kind: Kind = Kind.OUTBOUND) -> Inbound:
        """Waits for the deadline and a little longer, then answers DEADLINE by itself. Raises `InvalidFrame` when the
        router breaks the protocol, `EOFError` when it is gone."""
        try:
            in_segment, inline = place(request, self.segment.view)
        except ValueError:
            return Inbound(status=Status.TOO_LARGE)
        self._sequence += 1
        head = OUTBOUND_HEAD.pack(invocation, self._sequence, in_segment, len(request))
        self.channel.send(kind, b"".join((head, inline)))
        while True:
            left_ms = (deadline_ns + GRACE_NS - time.monotonic_ns()) // 1_000_000
            if left_ms <= 0 or not self._poll.poll(left_ms):
                return Inbound(status=Status.DEADLINE)
            frame = self.channel.receive()
            if frame is None:
                raise EOFError("the router is gone")
            if frame.kind != Kind.INBOUND:
                self.deferred.append(frame)
            elif (answer := self._answer(frame, invocation)) is not None:
                return answer

    def _answer(self, frame: Frame, invocation: int) -> Inbound | None:
        """None for the late answer to an earlier question."""
        try:
            number, sequence, status, in_segment, length = INBOUND_HEAD.unpack_from(frame.payload)
            if (number, sequence) != (invocation, self._sequence):
                return None
            content = take(in_segment, length, frame.payload[INBOUND_HEAD.size :], self.segment.view)
            return Inbound(status=Status(status), content=content)
        except (struct.error, ValueError) as error:
            raise InvalidFrame("an inbound frame that is none") from error


class Responses:
    """What one invocation has asked for and not read yet. `held_bytes` is bounded by its caller."""

    __slots__ = ("_next", "held_bytes", "line", "waiting")

    def __init__(self, line: OutboundLine | None) -> None:
        self.line = line
        self.waiting: dict[int, bytes] = {}
        self.held_bytes = 0
        self._next = 1

    def add(self, content: bytes) -> int:
        """Its handle, which is never used again."""
        handle = self._next
        self._next += 1
        self.waiting[handle] = content
        self.held_bytes += len(content)
        return handle

    def drop(self, handle: int) -> None:
        self.held_bytes -= len(self.waiting.pop(handle))

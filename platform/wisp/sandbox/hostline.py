"""The sandbox's line to an inference host: one socket, one tensor segment, one question at a time.

The first half of the segment, up to `input_room`, is for inputs, the second for outputs; the router created it, both
ends map it.
"""

from __future__ import annotations

import mmap
import select
import struct
import time

from wisp.errors import InvalidFrame
from wisp.wire.channel import Channel, Frame
from wisp.wire.inferences import COMPUTE_HEAD, DONE_HEAD, Kind, Status
from wisp.wire.segments import Segment
from wisp.wire.tensors import TensorRef, pack_tensors, unpack_tensors

GRACE_NS = 50_000_000
"""How long past the deadline the host may take to say that it stopped."""


class HostLost(Exception):
    """The host is gone or broke the protocol; the router starts another and attaches it."""


class HostLine:
    """Owns the socket and the mapping."""

    def __init__(self, channel: Channel, segment: Segment) -> None:
        self.channel = channel
        self.segment = segment
        self.input_room = segment.size_bytes // 2
        self._sequence = 0
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)

    def infer(
        self, invocation: int, model: int, inputs: list[TensorRef], room: tuple[int, int], deadline_ns: int
    ) -> tuple[Status, list[TensorRef], int]:
        """(status, outputs lying in the segment, ns spent). `room`: the offset and length in which they are to lie.
        Raises `HostLost`.

        Waits for the deadline and a little longer, then answers DEADLINE by itself.
        """
        self._sequence += 1
        head = COMPUTE_HEAD.pack(invocation, self._sequence, model, len(inputs), *room)
        try:
            self.channel.send(Kind.COMPUTE, head + pack_tensors(inputs))
            while True:
                frame = self._receive(deadline_ns + GRACE_NS)
                if frame is None:
                    return Status.DEADLINE, [], 0
                answer = self._answer(frame)
                if answer is not None:
                    return answer
        except (OSError, InvalidFrame, struct.error, ValueError) as error:
            raise HostLost(str(error)) from error

    def _receive(self, until_ns: int) -> Frame | None:
        left_ms = (until_ns - time.monotonic_ns()) // 1_000_000
        if left_ms <= 0 or not self._poll.poll(left_ms):
            return None
        frame = self.channel.receive()
        if frame is None:
            raise HostLost("end of file")
        frame.close_fds()  # it has no reason to send any
        return frame

    def _answer(self, frame: Frame) -> tuple[Status, list[TensorRef], int] | None:
        """None for the late answer to an earlier question."""
        _, sequence, status, count, spent_ns = DONE_HEAD.unpack_from(frame.payload)
        if sequence != self._sequence:
            return None
        outputs = unpack_tensors(frame.payload, DONE_HEAD.size, count, self.segment.size_bytes)
        return Status(status), outputs, spent_ns

    def give_back(self) -> None:
        """All tensors: the segment reads as zero from now on, and takes no memory."""
        self.segment.map.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        self.channel.close()
        self.segment.close()

"""What a sandbox asks for, read from a frame that may be anything."""

from __future__ import annotations

from typing import NamedTuple

from wisp.errors import InvalidFrame
from wisp.wire.channel import Frame
from wisp.wire.inferences import COMPUTE_HEAD, Kind
from wisp.wire.tensors import HEAD, TensorRef, unpack_tensors


class Request(NamedTuple):
    """One inference. `inputs`, as `described`, and the room for outputs lie inside the segment; nothing else is checked
    yet."""

    invocation: int
    sequence: int
    model: int
    described: bytes
    inputs: list[TensorRef]
    room_offset: int
    room_bytes: int

    @classmethod
    def decode(cls, frame: Frame, segment_bytes: int, former: Request | None = None) -> Request:
        """`former`: of the same slot, whose `inputs` are these where they are described alike, as they mostly are.

        Raises `InvalidFrame` for what no honest sandbox sends, and closes the descriptors that came with it."""
        if frame.kind != Kind.COMPUTE or frame.fds or len(frame.payload) < COMPUTE_HEAD.size:
            frame.close_fds()
            raise InvalidFrame(f"a frame of kind {frame.kind} that is no inference")
        invocation, sequence, model, count, room_offset, room_bytes = COMPUTE_HEAD.unpack_from(frame.payload)
        described = frame.payload[COMPUTE_HEAD.size :]
        if former is not None and described == former.described and count == len(former.inputs):
            inputs = former.inputs
        else:
            inputs = unpack_tensors(described, 0, count, segment_bytes)
            if sum(HEAD.size + 4 * len(ref.dims) for ref in inputs) != len(described):
                raise InvalidFrame("an inference with something behind it")
        if room_offset + room_bytes > segment_bytes:
            raise InvalidFrame("an inference whose room does not lie inside its segment")
        return cls(invocation, sequence, model, described, inputs, room_offset, room_bytes)

"""A guest's outbound request on its way to the router and back: one question at a time, between INVOKE and RESULT.

    sandbox → router   OUTBOUND  `OUTBOUND_HEAD`, exchange request (or it lies at the start of the outbound segment)
    sandbox → router   GRAPH     `OUTBOUND_HEAD`, the bytes of a model that the guest brought (likewise)
    router → sandbox   INBOUND   `INBOUND_HEAD`, exchange response or `encode_model` (likewise), or words about what
                                 went wrong

The request's path is an absolute URL and its query empty. The segment is the slot's own, made and sealed by the router.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from wisp.errors import InvalidFrame
from wisp.wire.invocations import INLINE_BYTES
from wisp.wire.outcome import Denial

OUTBOUND_HEAD = struct.Struct("<QIB3xI")
"""invocation, sequence, in segment, request bytes."""
INBOUND_HEAD = struct.Struct("<QIBB2xI")
"""invocation, sequence, status, in segment, content bytes."""
_BETWEEN = b"\x1f"


class Status(IntEnum):
    OK = 0
    INVALID = 1
    """The message, the URL, the method or a header is none."""
    DENIED = 2
    TOO_LARGE = 3
    UNREACHABLE = 4
    """No such host, no connection, no trust in the certificate."""
    PROTOCOL = 5
    """The host answered with something else than HTTP, or too large a head."""
    EXHAUSTED = 6
    """More requests than one invocation may make."""
    DEADLINE = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """`content`: an exchange response if the status is OK, two texts (`denied`) if DENIED, else words or nothing."""

    status: Status
    content: bytes = b""

    @classmethod
    def denied(cls, denial: Denial) -> Inbound:
        return cls(status=Status.DENIED, content=_BETWEEN.join((denial.what.encode(), denial.allow.encode())))

    @property
    def denial(self) -> Denial:
        what, _, allow = self.content.partition(_BETWEEN)
        return Denial(what=what.decode("utf-8", "replace"), allow=allow.decode("utf-8", "replace"))


def place(content: bytes | memoryview, segment: memoryview) -> tuple[bool, bytes | memoryview]:
    """(whether it lies in the segment now, what travels in the frame). Raises `ValueError` if it fits neither."""
    if len(content) <= INLINE_BYTES:
        return False, content
    if len(content) > len(segment):
        raise ValueError(f"{len(content)} bytes, at most {len(segment)}")
    segment[: len(content)] = content
    return True, b""


def take(in_segment: int, length: int, inline: bytes, segment: memoryview) -> bytes:
    """A copy: the peer may go on writing to the segment. Raises `InvalidFrame` for a length that is not there."""
    if in_segment:
        if length > len(segment):
            raise InvalidFrame("an outbound message passes the end of its segment")
        return bytes(segment[:length])
    if length != len(inline):
        raise InvalidFrame("an outbound message of another length than it says")
    return inline

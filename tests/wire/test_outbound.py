from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.errors import InvalidFrame
from wisp.wire.channel import MAX_FRAME_BYTES
from wisp.wire.invocations import INLINE_BYTES
from wisp.wire.outbound import INBOUND_HEAD, OUTBOUND_HEAD, Inbound, Status, place, take
from wisp.wire.outcome import Denial


@pytest.mark.parametrize("length", [0, 1, INLINE_BYTES, INLINE_BYTES + 1, 200_000])
def test_a_message_travels_in_the_frame_or_in_the_segment(length: int) -> None:
    segment, content = memoryview(bytearray(200_000)), bytes(range(251)) * 800
    message = content[:length]
    in_segment, inline = place(message, segment)
    assert in_segment == (length > INLINE_BYTES)
    assert len(inline) + max(INBOUND_HEAD.size, OUTBOUND_HEAD.size) < MAX_FRAME_BYTES - 1
    received = take(in_segment, length, bytes(inline), segment)
    segment[:] = bytes(len(segment))
    assert received == message


def test_one_that_fits_neither_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 100000"):
        place(bytes(100_001), memoryview(bytearray(100_000)))


@pytest.mark.parametrize(("in_segment", "length"), [(1, 101), (1, 2**32 - 1), (0, 3), (0, 5)])
def test_a_length_that_is_not_there_breaks_the_protocol(in_segment: int, length: int) -> None:
    with pytest.raises(InvalidFrame):
        take(in_segment, length, b"four", memoryview(bytearray(100)))


words = st.text(st.characters(exclude_categories=["C"]))


@given(words, words)
def test_a_denial_survives_the_way(what: str, allow: str) -> None:
    inbound = Inbound.denied(Denial(what=what, allow=allow))
    assert (inbound.status, inbound.denial) == (Status.DENIED, Denial(what=what, allow=allow))

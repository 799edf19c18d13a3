"""A body ends where it ends, however its bytes were cut; what is behind it is left as it is."""

from __future__ import annotations

from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wisp.http1.bodies import TURN_BYTES, Chunks, Counted
from wisp.http1.heads import Refused

AHEAD = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def taken(chunks: Chunks, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """The body, and what is behind it."""
    body, rest = b"", b""
    for piece in pieces:
        at = 0
        while at < len(piece) and not chunks.complete:
            part, at = chunks.feed(piece, at)
            body += part
        rest += piece[at:]
    return body, rest


def cut(said: bytes, at: list[int]) -> list[bytes]:
    marks = [0, *sorted({mark % (len(said) + 1) for mark in at}), len(said)]
    return [said[begin:end] for begin, end in pairwise(marks)]


def test_what_is_counted() -> None:
    body = Counted(5)
    assert body.feed(b"abc", 0) == (b"abc", 3)
    assert not body.complete
    assert body.feed(b"_de" + AHEAD, 1) == (b"de", 3)
    assert body.complete
    assert Counted(0).complete


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([b"a", b"\r\n", b"\r\n\r\n", b"\n\r\n", b"0\r\n\r\n", b"abc\r"]), max_size=8),
    st.sampled_from([b"", b"X: y\r\n", b"X: y\r\nZ:\r\n"]),
    st.sampled_from([b"", AHEAD, b"\r\n\r\n", b"x"]),
    st.lists(st.integers(0, 400), max_size=12),
)
def test_chunks_end_where_they_end(parts: list[bytes], trailers: bytes, behind: bytes, at: list[int]) -> None:
    said = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailers + b"\r\n" + behind
    chunks = Chunks(1000)
    assert taken(chunks, cut(said, at)) == (b"".join(parts), behind)
    assert chunks.complete


def test_a_large_piece_takes_several_turns() -> None:
    said = b"1\r\nx\r\n" * TURN_BYTES
    chunks, ends, at = Chunks(1000), list[int](), 0
    while at < len(said):
        part, at = chunks.feed(said, at)
        ends.append(at)
        assert len(part) <= TURN_BYTES // 6 + 1
    assert ends == [TURN_BYTES * turn for turn in range(1, 7)]
    assert not chunks.complete


REFUSED = {
    "no size": b"\r\n",
    "no number": b"no size\r\n",
    "a sign": b"+1\r\nx\r\n",
    "a prefix": b"0x1\r\nx\r\n",
    "a space before it": b" 1\r\nx\r\n",
    "a size past 64 bits": b"10000000000000001\r\nx\r\n",
    "a bare LF behind a size": b"1\nx\r\n",
    "a bare CR behind a size": b"1\rx\r\n",
    "a chunk that goes on": b"1\r\nxy\r\n",
    "a bare LF behind a chunk": b"1\r\nx\n0\r\n\r\n",
    "no line behind a chunk": b"1\r\nx0\r\n\r\n",
    "a bare LF in an extension": b"1;a\nx\r\n",
    "a control in an extension": b"1;a\0\r\nx\r\n",
    "a trailer without a name": b"0\r\n: b\r\n\r\n",
    "a bare LF in a trailer": b"0\r\nA: b\n\r\n\r\n",
    "a folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "a size behind the end": b"0\r\n1\r\n\r\n",
}


@pytest.mark.parametrize("said", REFUSED.values(), ids=REFUSED)
def test_what_is_refused(said: bytes) -> None:
    with pytest.raises(Refused) as refused:
        taken(Chunks(1000), [said])
    assert refused.value.status == 400
    with pytest.raises(Refused):
        taken(Chunks(1000), [said[at : at + 1] for at in range(len(said))])


@pytest.mark.parametrize("endless", [b"1;" + b"a" * 2000, b"0\r\nA: " + b"b" * 2000, b"0" * 2000])
def test_framing_without_end_is_refused(endless: bytes) -> None:
    with pytest.raises(Refused):
        taken(Chunks(1000), [endless[at : at + 50] for at in range(0, len(endless), 50)])


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from([b"3\r\nabc\r\n", b"1;a=b\r\nx\r\n", b"A\r\n0123456789\r\n"]), max_size=3),
    st.lists(
        st.tuples(
            st.integers(0, 100),
            st.integers(0, 2),
            st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b"0", b"1", b";", b"x", b"\0", b"-", b"\r\n\r\n"]),
        ),
        max_size=3,
    ),
)
def test_nothing_is_read_otherwise_than_h11_reads_it(parts: list[bytes], changes: list[tuple[int, int, bytes]]) -> None:
    said = b"".join(parts) + b"0\r\n\r\n"
    for at, dropped, put in changes:
        at %= len(said)
        said = said[:at] + put + said[at + dropped :]
    said += AHEAD
    chunks = Chunks(1000)
    try:
        body, rest = taken(chunks, [said])
    except Refused:
        return
    if not chunks.complete:
        return
    other = h11.Connection(h11.SERVER)
    other.receive_data(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + said)
    events = []
    while not isinstance(event := other.next_event(), h11.EndOfMessage):
        assert event is not h11.NEED_DATA
        events.append(event)
    assert b"".join(bytes(event.data) for event in events if isinstance(event, h11.Data)) == body
    assert other.trailing_data[0] == rest

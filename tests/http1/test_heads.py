"""What is no request, or could be read in two ways, is refused; what is read is read as h11 reads it."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wisp.http1.heads import HEAD_END, Refused, RequestHead, read_head, refuse_hopeless

GET = b"GET / HTTP/1.1\r\n"
POST = b"POST / HTTP/1.1\r\n"
HOST = b"Host: h\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
UPGRADE = b"Connection: upgrade\r\nUpgrade: websocket\r\n"

REFUSED: dict[str, tuple[int, bytes]] = {
    "length and chunks": (400, POST + HOST + b"Content-Length: 3\r\n" + CHUNKED),
    "chunks and length": (400, POST + HOST + CHUNKED + b"Content-Length: 3\r\n"),
    "two lengths": (400, POST + HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n"),
    "one length twice": (400, POST + HOST + b"Content-Length: 3\r\nContent-Length: 3\r\n"),
    "lengths in a list": (400, POST + HOST + b"Content-Length: 3, 3\r\n"),
    "a length with a sign": (400, POST + HOST + b"Content-Length: +3\r\n"),
    "a length in hexadecimal": (400, POST + HOST + b"Content-Length: 0x3\r\n"),
    "a length with a space": (400, POST + HOST + b"Content-Length: 3 4\r\n"),
    "no length": (400, POST + HOST + b"Content-Length:\r\n"),
    "a length past 64 bits": (400, POST + HOST + b"Content-Length: 18446744073709551616\r\n"),
    "a folded length": (400, POST + HOST + b"Content-Length:\r\n 5\r\n"),
    "chunks within another coding": (501, POST + HOST + b"Transfer-Encoding: gzip, chunked\r\n"),
    "another coding": (501, POST + HOST + b"Transfer-Encoding: gzip\r\n"),
    "no coding that is known": (501, POST + HOST + b"Transfer-Encoding: xchunked\r\n"),
    "a coding with a parameter": (501, POST + HOST + b"Transfer-Encoding: chunked;q=1\r\n"),
    "chunks, then another coding": (400, POST + HOST + b"Transfer-Encoding: chunked, identity\r\n"),
    "chunks twice": (400, POST + HOST + CHUNKED + CHUNKED),
    "a coding behind a control": (400, POST + HOST + b"Transfer-Encoding: \x0bchunked\r\n"),
    "a folded coding": (400, POST + HOST + b"Transfer-Encoding:\r\n chunked\r\n"),
    "a space before the colon": (400, POST + HOST + b"Transfer-Encoding : chunked\r\n"),
    "chunks in HTTP/1.0": (400, b"POST / HTTP/1.0\r\n" + HOST + CHUNKED),
    "a coding beside an upgrade": (501, POST + HOST + UPGRADE + b"Transfer-Encoding: gzip\r\n"),
    "a bare CR": (400, GET + HOST + b"A: b\rc\r\n"),
    "a CR at the end": (400, GET + HOST + b"A: b\r\r\n"),
    "a bare LF": (400, GET + HOST + b"A: b\nC: d\r\n"),
    "a bare LF behind the request line": (400, b"GET / HTTP/1.1\n" + HOST),
    "a line folded by a space": (400, GET + HOST + b"A: b\r\n c\r\n"),
    "a line folded by a tab": (400, GET + HOST + b"A: b\r\n\tc\r\n"),
    "a space before the first field": (400, GET + b" " + HOST),
    "no colon": (400, GET + HOST + b"ABC\r\n"),
    "no name": (400, GET + HOST + b": b\r\n"),
    "a space in a name": (400, GET + HOST + b"A b: c\r\n"),
    "a quote in a name": (400, GET + HOST + b'"A": b\r\n'),
    "a name past ASCII": (400, GET + HOST + b"\xe9: b\r\n"),
    "a zero in a name": (400, GET + HOST + b"A\0: b\r\n"),
    "a zero in a value": (400, GET + HOST + b"A: b\0c\r\n"),
    "a control in a value": (400, GET + HOST + b"A: b\x01c\r\n"),
    "DEL in a value": (400, GET + HOST + b"A: b\x7fc\r\n"),
    "no host": (400, GET + b"A: b\r\n"),
    "two hosts": (400, GET + HOST + b"Host: i\r\n"),
    "two hosts in HTTP/1.0": (400, b"GET / HTTP/1.0\r\n" + HOST + b"Host: i\r\n"),
    "two spaces before the target": (400, b"GET  / HTTP/1.1\r\n" + HOST),
    "two spaces behind the target": (400, b"GET /  HTTP/1.1\r\n" + HOST),
    "a space behind the version": (400, b"GET / HTTP/1.1 \r\n" + HOST),
    "tabs": (400, b"GET\t/\tHTTP/1.1\r\n" + HOST),
    "a space before the method": (400, b" " + GET + HOST),
    "an empty line before it": (400, b"\r\n" + GET + HOST),
    "a CR before it": (400, b"\r" + GET + HOST),
    "an LF before it": (400, b"\n" + GET + HOST),
    "no version": (400, b"GET /\r\n" + HOST),
    "a version in small letters": (400, b"GET / http/1.1\r\n" + HOST),
    "a version with another digit": (400, b"GET / HTTP/1.10\r\n" + HOST),
    "another protocol": (400, b"SOURCE / ICE/1.0\r\n" + HOST),
    "a target past ASCII": (400, b"GET /\xe9 HTTP/1.1\r\n" + HOST),
    "a control in a target": (400, b"GET /\x01 HTTP/1.1\r\n" + HOST),
    "a zero in a target": (400, b"GET /\0 HTTP/1.1\r\n" + HOST),
    "a target without a slash": (400, b"GET a HTTP/1.1\r\n" + HOST),
    "an unknown method": (501, b"FOO / HTTP/1.1\r\n" + HOST),
    "a method in small letters": (501, b"get / HTTP/1.1\r\n" + HOST),
    "CONNECT to a host": (501, b"CONNECT h:80 HTTP/1.1\r\n" + HOST),
    "CONNECT to a path": (501, b"CONNECT / HTTP/1.1\r\n" + HOST),
}  # fmt: skip


@pytest.mark.parametrize(("status", "head"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(status: int, head: bytes) -> None:
    with pytest.raises(Refused) as refused:
        read_head(head + b"\r\n")
    assert refused.value.status == status


def test_what_is_read() -> None:
    head = read_head(
        b"POST /a%20b?c#d HTTP/1.1\r\nHost: h \r\nX-A:\t1 \xe9 2 \t\r\nx-a:\r\nExpect: 100-Continue\r\n"
        b"Connection: keep-alive, Close\r\nContent-Length:  007 \r\n\r\n"
    )
    assert head == RequestHead(
        method="POST",
        target=b"/a%20b?c#d",
        version="1.1",
        headers=[
            (b"host", b"h"),
            (b"x-a", b"1 \xe9 2"),
            (b"x-a", b""),
            (b"expect", b"100-Continue"),
            (b"connection", b"keep-alive, Close"),
            (b"content-length", b"007"),
        ],
        length=7,
        chunked=False,
        expects=True,
        closing=True,
    )
    assert read_head(POST + HOST + b"Transfer-Encoding: CHUNKED\r\n\r\n").chunked
    old = read_head(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n")
    assert (old.closing, old.expects) == (True, False)


def test_an_upgrade_is_a_request_with_its_body() -> None:
    assert read_head(POST + HOST + UPGRADE + b"Content-Length: 3\r\n\r\n").length == 3
    assert read_head(POST + HOST + UPGRADE + CHUNKED + b"\r\n").chunked


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "3.0"])
def test_another_version_is_for_the_application_to_refuse(version: str) -> None:
    head = read_head(b"GET / HTTP/%b\r\nContent-Length: 3\r\n\r\n" % version.encode())
    assert (head.version, head.headers, head.closing) == (version, [], True)


def test_what_cannot_become_a_head_is_refused_at_once() -> None:
    for begun in (b"\x16\x03\x01", b"\r\n", b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nHost: h\n"):
        with pytest.raises(Refused):
            refuse_hopeless(begun, 0)
    with pytest.raises(Refused):
        refuse_hopeless(b"GET / HTTP/1.1\n", 14)
    refuse_hopeless(b"GET / HTTP/1.1\r\nHost: h\r", 0)
    refuse_hopeless(b"GET / HTTP/1.1\r\nHost: h\r\n", 24)


BYTES = [b" ", b"\t", b"\r", b"\n", b"\r\n", b":", b",", b"\0", b"\x0b", b"\x7f", b"\xe9", b"x", b"3", b"Host: i\r\n"]
FIELDS = [
    b"Content-Length: 3\r\n", b"Content-Length: 4\r\n", CHUNKED, b"Transfer-Encoding: identity\r\n", b"A: b\r\n",
    UPGRADE, b"Connection: close\r\n", b"Expect: 100-continue\r\n",
]  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from([GET, POST, b"GET /a?b HTTP/1.0\r\n", b"POST http://x/y HTTP/1.1\r\n"]),
    st.lists(st.sampled_from(FIELDS), max_size=3),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2), st.sampled_from(BYTES)), max_size=3),
)
def test_nothing_is_read_otherwise_than_h11_reads_it(
    line: bytes, fields: list[bytes], changes: list[tuple[int, int, bytes]]
) -> None:
    """Heads that differ from honest ones in a few places: refused, or the same request to two parsers."""
    said = line + HOST + b"".join(fields) + b"\r\n"
    for at, dropped, put in changes:
        at %= len(said)
        said = said[:at] + put + said[at + dropped :]
    said = (said + HEAD_END)[: said.find(HEAD_END) + 4] if HEAD_END in said else said + HEAD_END
    try:
        head = read_head(said)
    except Refused:
        return
    other = h11.Connection(h11.SERVER)
    other.receive_data(said)
    event = other.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method.decode(), event.target, event.http_version.decode()) == (
        head.method,
        head.target,
        head.version,
    )
    if head.version in ("1.0", "1.1"):
        assert [(name, value.lower()) for name, value in event.headers] == [
            (name, value.lower()) for name, value in head.headers
        ]
        assert (b"transfer-encoding", b"chunked") in event.headers or not head.chunked
        assert other.they_are_waiting_for_100_continue == head.expects

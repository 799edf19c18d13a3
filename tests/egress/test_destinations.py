from __future__ import annotations

import pytest

from wisp.egress.destinations import InvalidDestination, incoming, outgoing, parse_destination, parse_method


@pytest.mark.parametrize(
    ("url", "shown", "target", "authority"),
    [
        (b"https://api.example.com", "https://api.example.com:443", b"/", "api.example.com"),
        (
            b"HTTP://API.example.com:8080/a%20b?c=d",
            "http://api.example.com:8080",
            b"/a%20b?c=d",
            "api.example.com:8080",
        ),
        (b"http://a.org?x", "http://a.org:80", b"/?x", "a.org"),
        (b"http://[::1]:80/", "http://[::1]:80", b"/", "[::1]"),
        (b"https://[2001:DB8:0::1]/", "https://[2001:db8::1]:443", b"/", "[2001:db8::1]"),
    ],
)
def test_an_absolute_url_is_a_destination(url: bytes, shown: str, target: bytes, authority: str) -> None:
    destination = parse_destination(url)
    assert (str(destination), destination.target, destination.authority) == (shown, target, authority)


@pytest.mark.parametrize(
    "url",
    [
        b"", b"/", b"//a.org/", b"a.org", b"ftp://a.org/", b"http://", b"http:///", b"http://a b/", b"http://a.org/ b",
        b"http://user@a.org/", b"http://user:p@a.org/", b"http://a.org\\@b.org/", b"http://a.org#f", b"http://a.org/#f",
        b"http://*/", b"http://*.a.org/", b"http://a.org:0/", b"http://a.org:65536/", b"http://a.org:/", b"http://a..b/",
        b"http://0177.0.0.1/", b"http://0x7f.1/", b"http://2130706433/", b"http://127.1/", b"http://[::1/", b"http://[]/",
        b"http://[fe80::1%25eth0]/", "http://münchen.de/".encode(), b"http://a.org/\r\nx: y", b"http://a.org/\x00",
        b"http://a.org./", b"http://a_b.org/", b"http://a.org/" + b"x" * 9000,
    ],
)  # fmt: skip
def test_what_parsers_might_read_differently_is_none(url: bytes) -> None:
    with pytest.raises(InvalidDestination):
        parse_destination(url)


def test_methods_are_a_closed_set() -> None:
    assert parse_method(b"PATCH") == "PATCH"
    for method in (b"CONNECT", b"TRACE", b"get", b"", b"GET /", b"\xff"):
        with pytest.raises(InvalidDestination):
            parse_method(method)


def test_what_belongs_to_the_connection_goes_neither_way() -> None:
    sent = (
        (b"accept", b" a/b "), (b"host", b"evil"), (b"content-length", b"9"), (b"transfer-encoding", b"chunked"),
        (b"connection", b"close, X-Mine"), (b"x-mine", b"1"), (b"expect", b"100-continue"), (b"x", b"1"), (b"x", b"2"),
    )  # fmt: skip
    assert outgoing(sent) == [(b"accept", b"a/b"), (b"x", b"1"), (b"x", b"2")]
    came = [(b"Set-Cookie", b"a"), (b"Connection", b"x-hop"), (b"X-Hop", b"1"), (b"Transfer-Encoding", b"chunked")]
    assert incoming([*came, (b"x", b"\xe9")]) == ((b"set-cookie", b"a"), (b"x", "é".encode()))
    for headers in (((b"a b", b""),), ((b"a", b"b\r\nc: d"),), ((b"A", b""),), ((b"a", b"\0"),)):
        with pytest.raises(InvalidDestination):
            outgoing(headers)
    with pytest.raises(ValueError, match="too large"):
        incoming([(b"a", b"b" * 40_000)])

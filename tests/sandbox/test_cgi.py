"""CGI/1.1 both ways: what a program is told, and what of its output is an answer."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.guests import link
from wisp.sandbox.cgi import MAX_HEAD_BYTES, MalformedHead, parse_head, variables
from wisp.wire.exchange import (
    HEADER_VALUE,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    Headers,
    Request,
    decode_response,
    encode_response,
)


def told(
    headers: Headers = (), *, body_bytes: int = 0, query: bytes = b"", environment: tuple[tuple[str, str], ...] = ()
) -> dict[bytes, bytes]:
    request = Request(method=b"POST", path=b"/a%20b", query=query, headers=headers, body=b"")
    return variables(request, body_bytes, link(tenant="acme", function="fn", environment=environment), b"r-1")


class TestVariables:
    def test_the_request_is_told_by_its_variables(self) -> None:
        assert told() == {
            b"GATEWAY_INTERFACE": b"CGI/1.1", b"SERVER_PROTOCOL": b"HTTP/1.1", b"REQUEST_METHOD": b"POST",
            b"SCRIPT_NAME": b"/t/acme/fn", b"PATH_INFO": b"/a%20b", b"QUERY_STRING": b"",
            b"WISP_TENANT": b"acme", b"WISP_FUNCTION": b"fn", b"WISP_REQUEST_ID": b"r-1",
        }  # fmt: skip

    def test_headers_become_variables_and_repeated_ones_one(self) -> None:
        headers = (
            (b"content-type", b"text/plain"), (b"content-length", b"3"), (b"x-name", b"a"), (b"x-name", b"b"),
            (b"cookie", b"one=1"), (b"cookie", b"two=2"),
        )  # fmt: skip
        found = told(headers, body_bytes=3, query=b"x=1&y")
        assert found[b"CONTENT_TYPE"] == b"text/plain"
        assert found[b"CONTENT_LENGTH"] == b"3"
        assert found[b"QUERY_STRING"] == b"x=1&y"
        assert found[b"HTTP_X_NAME"] == b"a, b"
        assert found[b"HTTP_COOKIE"] == b"one=1; two=2"
        assert b"HTTP_CONTENT_TYPE" not in found

    def test_a_body_of_unknown_length_has_its_own(self) -> None:
        assert told(body_bytes=7)[b"CONTENT_LENGTH"] == b"7"
        assert b"CONTENT_LENGTH" not in told()
        assert told(((b"content-length", b"0"),))[b"CONTENT_LENGTH"] == b"0"

    @pytest.mark.parametrize("name", [b"x_name", b"x.name", b"proxy", b"x~y", b"content_length", b"*"])
    def test_a_header_that_could_be_taken_for_another_is_left_out(self, name: bytes) -> None:
        assert told(((name, b"evil"), (b"x-name", b"good"))).keys() - told().keys() == {b"HTTP_X_NAME"}

    def test_the_platforms_own_stand_before_the_policys(self) -> None:
        found = told(environment=(("LOG_LEVEL", "info"), ("PATH_INFO", "forged"), ("WISP_TENANT", "globex")))
        assert found[b"LOG_LEVEL"] == b"info"
        assert (found[b"PATH_INFO"], found[b"WISP_TENANT"]) == (b"/a%20b", b"acme")

    def test_no_value_holds_a_nul(self) -> None:
        found = told(((b"x-name", b"a\0b"),), query=b"\0", environment=(("A", "x\0y"),))
        assert all(b"\0" not in value for value in found.values())


LINES = [b"Status: 200 OK", b"status:404", b"Content-Type: text/plain", b"Location: /x", b"A: b", b"", b"\r", b"junk"]
HEAD = st.sampled_from([*LINES, b" fold", b"X : y"])


class TestHead:
    @pytest.mark.parametrize(
        ("output", "status", "headers", "body"),
        [
            (b"Content-Type: text/plain\n\nhi", 200, ((b"content-type", b"text/plain"),), b"hi"),
            (b"Content-Type: text/plain\r\n\r\nhi", 200, ((b"content-type", b"text/plain"),), b"hi"),
            (b"Status: 404 Not Found\r\nX: y\n\n", 404, ((b"x", b"y"),), b""),
            (b"STATUS:204\n\n", 204, (), b""),
            (b"Status: 599 \t\n\n\n\n", 599, (), b"\n\n"),
            (b"Location: https://example.com/\n\n", 302, ((b"location", b"https://example.com/"),), b""),
            (b"Location: /x\nStatus: 307\n\n", 307, ((b"location", b"/x"),), b""),
            (b"Set-Cookie: a\nSet-Cookie: b\n\n", 200, ((b"set-cookie", b"a"), (b"set-cookie", b"b")), b""),
            (b"A:\nB:  \t c \n\nStatus: 500\n\n", 200, ((b"a", b""), (b"b", b"c")), b"Status: 500\n\n"),
            ("A: wörth\n\n\0\xff".encode(), 200, ((b"a", "wörth".encode()),), "\0\xff".encode()),
        ],
    )
    def test_a_head_is_read_as_it_stands(self, output: bytes, status: int, headers: Headers, body: bytes) -> None:
        found_status, found, at = parse_head(output)
        assert (found_status, found, output[at:]) == (status, headers, body)

    @pytest.mark.parametrize(
        ("output", "said"),
        [
            (b"", "nothing on standard output"),
            (b"no head here", "line 1"),
            (b"\nbody", "line 1 of the head is empty"),
            (b"\r\nbody", "line 1 of the head is empty"),
            (b"A: b", "line 1 of the head"),
            (b"A: b\n", "line 2 of the head: no empty line ends it"),
            (b"A: b\nHello, world\n\n", "line 2 of the head is no `Name: value`: 'Hello, world'"),
            (b"HTTP/1.1 200 OK\nA: b\n\n", "line 1"),
            (b"A: b\n folded\n\n", "line 2"),
            (b"A : b\n\n", "line 1"),
            (b": b\n\n", "line 1"),
            (b"A\xc3\xa9: b\n\n", "line 1"),
            (b"A: b\rB: c\n\n", "control character"),
            (b"A: b\0\n\n", "control character"),
            (b"A: b\x7f\n\n", "control character"),
            (b"A: \xff\n\n", "not UTF-8"),
            (b"Status: 200\nStatus: 200\n\n", "line 2 of the head: a second Status"),
            (b"Status:\n\n", "a Status is 200 to 599"),
            (b"Status: 99\n\n", "line 1"),
            (b"Status: 100 Continue\n\n", "line 1"),
            (b"Status: 600\n\n", "line 1"),
            (b"Status: 2000\n\n", "line 1"),
            (b"Status: +20\n\n", "line 1"),
            (b"Status: OK\n\n", "line 1"),
            (b"A: b\n" * (MAX_HEADERS + 1) + b"\n", f"line {MAX_HEADERS + 1}"),
            (b"A: " + b"b" * MAX_HEADER_BYTES + b"\n\n", "line 1"),
            (b"A: " + b"b" * MAX_HEAD_BYTES, f"within {MAX_HEAD_BYTES} bytes"),
        ],
    )  # fmt: skip
    def test_anything_else_is_refused_with_its_line(self, output: bytes, said: str) -> None:
        with pytest.raises(MalformedHead) as refused:
            parse_head(output)
        assert said in str(refused.value)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 400

    @given(st.lists(HEAD, max_size=6).map(b"\n".join) | st.binary(max_size=200), st.binary(max_size=20))
    @example(b"A: b\r\n\r\nSet-Cookie: injected\r\n\r\n", b"")
    def test_whatever_is_read_is_a_response_that_the_router_takes(self, head: bytes, rest: bytes) -> None:
        """No header holds a line end, so nothing of the body becomes one."""
        output = head + rest
        try:
            status, headers, at = parse_head(output)
        except MalformedHead:
            return
        assert all(HEADER_VALUE.fullmatch(value) for _, value in headers)
        decoded = decode_response(memoryview(encode_response(status, headers, output[at:])))
        assert (decoded.status, decoded.headers, bytes(decoded.body)) == (status, headers, output[at:])
        assert 0 < at <= len(output)

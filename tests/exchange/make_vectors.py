"""Writes requests.json and responses.json: the exchange messages that every codec must read, write and refuse alike.

The codec here is deliberately naive (it only packs), so that the vectors depend on no implementation that they test.
Run `python tests/exchange/make_vectors.py` after a change; README.md beside it describes the format.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Headers = list[tuple[str, str]]


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return u32(len(raw)) + raw


def header_block(headers: Sequence[tuple[str | bytes, str | bytes]]) -> bytes:
    return u32(len(headers)) + b"".join(text(name) + text(value) for name, value in headers)


def request(name: str, method: str, path: str, query: str, headers: Headers, body: bytes) -> dict[str, Any]:
    message = u32(1) + text(method) + text(path) + text(query) + header_block(headers) + body
    return {
        "name": name,
        "hex": message.hex(),
        "method": method,
        "path": path,
        "query": query,
        "headers": headers,
        "body_hex": body.hex(),
    }


def response(name: str, status: int, headers: Headers, body: bytes) -> dict[str, Any]:
    message = u32(1) + u32(status) + header_block(headers) + body
    return {"name": name, "hex": message.hex(), "status": status, "headers": headers, "body_hex": body.hex()}


def malformed(name: str, fault: str, message: bytes) -> dict[str, Any]:
    return {"name": name, "fault": fault, "hex": message.hex()}


def cut_everywhere(whole: bytes, body: bytes) -> list[dict[str, Any]]:
    """Every proper prefix of a message without a body is truncated: the body is the only part that may be short."""
    assert not body
    return [malformed(f"cut after {end} of {len(whole)} bytes", "truncated", whole[:end]) for end in range(len(whole))]


def requests() -> dict[str, Any]:
    start = u32(1) + text("GET") + text("/") + text("")
    valid = [
        request("the smallest", "GET", "/", "", [], b""),
        request("empty strings everywhere", "", "", "", [], b""),
        request("query and headers", "GET", "/a/b", "name=ada&x=%2F", [("accept", "*/*"), ("host", "edge:8080")], b""),
        request(
            "a repeated header stays repeated, in order",
            "GET",
            "/",
            "",
            [("x-a", "1"), ("x-b", "2"), ("x-a", "3")],
            b"",
        ),
        request("an empty header value", "GET", "/", "", [("x-empty", "")], b""),
        request("a binary body", "POST", "/", "", [("content-type", "image/png")], bytes(range(256))),
        request("a body that looks like a message", "POST", "/", "", [], start + u32(0)),
        request(
            "beyond ASCII",
            "POST",
            "/caf\u00e9",
            "q=\u65e5\u672c",
            [("x-name", "Zo\u00eb \U0001f980")],
            "\u00fc".encode(),
        ),
        request("an undecoded path", "GET", "/a%2Fb/%E2%82%AC", "", [], b""),
    ]
    cut = u32(1) + text("GET") + text("/a") + text("b=c") + header_block([("x-a", "1")])
    bad = [
        malformed("version 0", "version", u32(0) + start[4:] + u32(0)),
        malformed("version 2", "version", u32(2) + start[4:] + u32(0)),
        malformed("version in big endian", "version", struct.pack(">I", 1) + start[4:] + u32(0)),
        malformed("a method longer than the message", "truncated", u32(1) + u32(1000) + b"GET"),
        malformed("a length of 2**32 - 1", "truncated", u32(1) + u32(0xFFFFFFFF) + b"GET"),
        malformed("a length that wraps a 32-bit end", "truncated", u32(1) + u32(0xFFFFFFF8) + b"GET"),
        malformed("a length with the sign bit", "truncated", u32(1) + u32(0x80000000) + b"GET"),
        malformed("two headers counted, one there", "truncated", start + u32(2) + text("x-a") + text("1")),
        malformed("2**32 - 1 headers counted", "truncated", start + u32(0xFFFFFFFF) + text("x-a") + text("1")),
        malformed("2**29 headers counted, none there", "truncated", start + u32(0x20000000)),
        malformed("a header without a value", "truncated", start + u32(1) + text("x-a")),
        malformed("a header value past the end", "truncated", start + u32(1) + text("x-a") + u32(9) + b"1"),
        malformed("a method that is not UTF-8", "not_utf8", u32(1) + text(b"\xff") + text("/") + text("") + u32(0)),
        malformed(
            "a path cut inside a character", "not_utf8", u32(1) + text("GET") + text(b"/\xe2\x82") + text("") + u32(0)
        ),
        malformed(
            "a query with a surrogate", "not_utf8", u32(1) + text("GET") + text("/") + text(b"\xed\xa0\x80") + u32(0)
        ),
        malformed("a header name that is not UTF-8", "not_utf8", start + header_block([(b"x-\xff", "1")])),
        malformed("a header value that is not UTF-8", "not_utf8", start + header_block([("x-a", b"\xc0\xaf")])),
        *cut_everywhere(cut, b""),
    ]
    return {"valid": valid, "malformed": bad}


def responses() -> dict[str, Any]:
    ok = u32(1) + u32(200)
    valid = [
        response("the smallest", 200, [], b""),
        response("text", 200, [("content-type", "text/plain; charset=utf-8")], b"hello, world\n"),
        response("no content", 204, [], b""),
        response("a guest's own 429", 429, [("retry-after", "1")], b"slow down"),
        response("the highest status", 599, [], b""),
        response("repeated cookies", 200, [("set-cookie", "a=1"), ("vary", "accept"), ("set-cookie", "b=2")], b""),
        response("an empty header value", 200, [("x-empty", "")], b""),
        response("a tab inside a value", 200, [("x-tab", "a\tb")], b""),
        response("every token character in a name", 200, [("!#$%&'*+-.^_`|~09az", "1")], b""),
        response("a binary body", 200, [("content-type", "application/octet-stream")], bytes(range(256))),
    ]
    cut = ok + header_block([("x-a", "1")])
    bad = [
        malformed("version 0", "version", u32(0) + u32(200) + u32(0)),
        malformed("version 2", "version", u32(2) + u32(200) + u32(0)),
        malformed("status 0", "status", u32(1) + u32(0) + u32(0)),
        malformed("status 99", "status", u32(1) + u32(99) + u32(0)),
        malformed("an informational status is no answer", "status", u32(1) + u32(101) + u32(0)),
        malformed("status 600", "status", u32(1) + u32(600) + u32(0)),
        malformed("status 65736 (200 in its low 16 bits)", "status", u32(1) + u32(65736) + u32(0)),
        malformed("status 2**32 - 1", "status", u32(1) + u32(0xFFFFFFFF) + u32(0)),
        malformed("two headers counted, one there", "truncated", ok + u32(2) + text("x-a") + text("1")),
        malformed("2**32 - 1 headers counted", "truncated", ok + u32(0xFFFFFFFF) + text("x-a") + text("1")),
        malformed("a name of 2**32 - 1 bytes", "truncated", ok + u32(1) + u32(0xFFFFFFFF) + b"x-a"),
        malformed("a header name that is not UTF-8", "not_utf8", ok + header_block([(b"x-\xff", "1")])),
        malformed("a header value that is not UTF-8", "not_utf8", ok + header_block([("x-a", b"\xff\xfe")])),
        malformed("an empty header name", "header_name", ok + header_block([("", "1")])),
        malformed("an upper-case header name", "header_name", ok + header_block([("X-A", "1")])),
        malformed("a header name with a space", "header_name", ok + header_block([("x a", "1")])),
        malformed("a header name with a colon", "header_name", ok + header_block([("x-a:", "1")])),
        malformed("a header name with a line break", "header_name", ok + header_block([("x\r\ny", "1")])),
        malformed("a header name beyond ASCII", "header_name", ok + header_block([("x-\u00e9", "1")])),
        malformed("a second header smuggled in a value", "header_value", ok + header_block([("x-a", "1\r\nx-b: 2")])),
        malformed("a lone line feed in a value", "header_value", ok + header_block([("x-a", "1\n2")])),
        malformed("a NUL in a value", "header_value", ok + header_block([("x-a", "1\x002")])),
        malformed("an escape in a value", "header_value", ok + header_block([("x-a", "\x1b[31m")])),
        malformed("a DEL in a value", "header_value", ok + header_block([("x-a", "\x7f")])),
        *cut_everywhere(cut, b""),
    ]
    return {"valid": valid, "malformed": bad}


def write(path: Path, description: str, cases: dict[str, Any]) -> None:
    path.write_text(json.dumps({"description": description, **cases}, indent=1, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    write(
        HERE / "requests.json",
        "Exchange requests. valid: hex decodes to the fields and they encode to hex. malformed: decoding hex is "
        "refused for the fault named. See README.md.",
        requests(),
    )
    write(
        HERE / "responses.json",
        "Exchange responses. valid: hex decodes to the fields and they encode to hex. malformed: decoding hex is "
        "refused for the fault named. See README.md.",
        responses(),
    )

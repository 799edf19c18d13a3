"""A request's head: read by llhttp, and judged beyond that where the two sides of a proxy could read it differently.

A head is given whole, to a parser of its own: nothing of one request is left for the next. Upgrades are ignored (RFC
9110 §7.8 allows it): what follows one is the body that was announced, and no other protocol.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

HEAD_END: Final = b"\r\n\r\n"
REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])\r\n")
"""RFC 9112 §3, to the letter: llhttp lets several spaces through, empty lines before it, and none of a version."""
BARE_LF: Final = re.compile(rb"(?<!\r)\n")
OWS: Final = b" \t"
JUDGED: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"})
VERSIONS: Final = frozenset({b"1.1", b"1.0"})


class Refused(Exception):
    """What the caller says is not HTTP as it is spoken here; `status` says in which way."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class RequestHead(NamedTuple):
    """`length`: bytes of the body, 0 where there is none or it is `chunked`. `closing`: no request may follow."""

    method: str
    target: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    length: int
    chunked: bool
    expects: bool
    closing: bool


class _Fields:
    """What the parser calls while it reads."""

    __slots__ = ("all", "complete", "judged")

    def __init__(self) -> None:
        self.all: list[tuple[bytes, bytes]] = []
        self.judged: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        field = (name.lower(), value.rstrip(OWS))
        self.all.append(field)
        if field[0] in JUDGED:
            self.judged.append(field)

    def on_headers_complete(self) -> None:
        self.complete = True


def read_head(head: bytes) -> RequestHead:
    """`head` ends with the first empty line that it has. Raises `Refused`."""
    line = REQUEST_LINE.match(head)
    if line is None:
        raise Refused(400)
    method, target, version = line.groups()
    if version not in VERSIONS:  # the application says so; nothing else of it is looked at
        return RequestHead(method.decode("ascii"), target, version.decode("ascii"), [], 0, False, False, True)
    fields = _Fields()
    try:
        HttpRequestParser(fields).feed_data(head)
    except HttpParserUpgrade:
        pass
    except HttpParserInvalidMethodError:
        raise Refused(501) from None  # RFC 9110 §9.1
    except HttpParserError:
        if not fields.complete:
            raise Refused(400) from None
        _judged(fields.judged, version)
        raise Refused(400) from None
    if not fields.complete:
        raise Refused(400)
    if method == b"CONNECT":
        raise Refused(501)
    length, chunked, expects, closing = _judged(fields.judged, version)
    return RequestHead(
        method.decode("ascii"), target, version.decode("ascii"), fields.all, length, chunked, expects, closing
    )


def _judged(fields: list[tuple[bytes, bytes]], version: bytes) -> tuple[int, bool, bool, bool]:
    """Length, chunked, expects, closing. Raises `Refused`."""
    hosts, length, codings = 0, -1, list[bytes]()
    expects, closing = False, version == b"1.0"
    for name, value in fields:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            if length >= 0 or not value.isdigit():
                raise Refused(400)
            length = int(value)
        elif name == b"transfer-encoding":
            codings.append(value.lower())
        elif name == b"connection":
            closing = closing or b"close" in _tokens(value)
        else:
            expects = expects or b"100-continue" in _tokens(value)
    if hosts != 1 and (hosts or version == b"1.1"):  # RFC 9112 §3.2
        raise Refused(400)
    if codings:
        if codings != [b"chunked"]:
            raise Refused(501)  # RFC 9112 §6.1: no other coding is understood here
        if length >= 0 or version == b"1.0":
            raise Refused(400)
    return max(length, 0), bool(codings), expects and version == b"1.1", closing


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip(OWS) for token in value.lower().split(b",")]


def refuse_hopeless(begun: bytes, looked: int) -> None:
    """Raises `Refused` where no head can come of what has come so far: nobody should wait until its time is over.
    `looked`: bytes of it that were looked at before."""
    if begun[0] <= 0x20 or BARE_LF.search(begun, looked) is not None:
        raise Refused(400)

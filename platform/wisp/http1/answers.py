"""An answer on the wire: its head, checked, and its body, framed by a length, by chunks, or by the connection's end."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection"})
FIELDS: Final = re.compile(rb"(?:[a-z0-9!#$%&'*+.^_`|~-]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")
"""RFC 9110 §5.5 and §5.6.2, names in lower case as ASGI has them."""
BODILESS: Final = frozenset({204, 304})
PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINES: Final = {
    status: f"HTTP/1.1 {status} {PHRASES.get(status, '')}\r\n".encode() for status in range(200, 1000)
}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE: Final = b"connection: close\r\n"


class Dates:
    """The `date` header, made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._line = b""

    def line(self) -> bytes:
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self._line = b"date: %b\r\n" % formatdate(now, usegmt=True).encode()
        return self._line


DATES: Final = Dates()


class Answer:
    """What is sent for one request, in the order of its parts. `closing`: the connection ends with it."""

    __slots__ = ("_chunked", "_empty", "_head", "_left", "closing", "complete", "sent")

    def __init__(self, method: str, version: str, *, closing: bool) -> None:
        self.closing = closing
        self.sent = False
        """Its head has been."""
        self.complete = False
        self._head: bytes | None = None
        self._empty = method == "HEAD"
        self._chunked = version == "1.1"
        """Where no length is told: RFC 9112 §6.3."""
        self._left = -1

    @property
    def begun(self) -> bool:
        return self._head is not None

    def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]], known: bytes = b"") -> None:
        """`known`: lines that need no look. Raises `ValueError` for headers that are none, or a length that is none."""
        framing, lines = parted(headers)
        length = -1
        for name, value in framing:
            if name == b"content-length":
                if length >= 0 or not value.isdigit():
                    raise ValueError("no Content-Length, or two")
                length = int(value)
                lines += b"content-length: %b\r\n" % value
            elif name == b"connection" and b"close" in value.lower():
                self.closing = True
        if status in BODILESS:
            self._empty = True
        if length >= 0 or self._empty:
            self._chunked = False
            self._left = length
        elif self._chunked:
            lines += b"transfer-encoding: chunked\r\n"
        else:
            self.closing = True
        self._head = b"%b%b%b" % (STATUS_LINES[status], known, lines)

    def parts(self, content: bytes, *, more: bool) -> list[bytes]:
        """What goes out for so much of the body. Raises `RuntimeError` for more of it or less than was announced."""
        parts = []
        if not self.sent:
            assert self._head is not None
            parts.append(b"%b%b%b\r\n" % (self._head, DATES.line(), CLOSE if self.closing else b""))
        if self._empty:
            pass
        elif self._chunked:
            if content:
                parts += (b"%x\r\n" % len(content), content, b"\r\n")
            if not more:
                parts.append(b"0\r\n\r\n")
        else:
            if self._left >= 0:
                self._left -= len(content)
                if self._left < 0 or (self._left and not more):
                    raise RuntimeError("a body of another length than its Content-Length")
            if content:
                parts.append(content)
        self.sent = True
        self.complete = not more
        return parts


def parted(headers: Iterable[tuple[bytes, bytes]]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The headers that frame a message, and the lines of all others. Raises `ValueError` where HTTP has no such."""
    framing, lines = [], []
    for name, value in headers:
        if name in FRAMING:
            framing.append((name, value))
        else:
            lines.append(b"%b: %b\r\n" % (name, value))
    others = b"".join(lines)
    if FIELDS.fullmatch(others) is None or others.count(b"\n") != len(lines):
        raise ValueError("a header whose name or value HTTP does not allow")
    return framing, others


def refusal(status: int) -> bytes:
    return b"%bcontent-length: 0\r\n%b%b\r\n" % (STATUS_LINES[status], DATES.line(), CLOSE)

"""A request's body as it comes: counted where its length was told, else in chunks.

What is counted passes no parser, and is not copied. llhttp finds the chunks, in a parser that knows nothing of the
head. A parser does not tell where a message ends in what it is given; a chunked one ends with an empty line, so it is
given no more than up to the next of those.
"""

from __future__ import annotations

from typing import Final

from httptools import HttpParserError, HttpRequestParser

from wisp.http1.heads import HEAD_END, Refused

TURN_BYTES: Final = 64 * 1024
"""Of a chunked body, what is parsed in one turn: a millisecond where its chunks are of one byte."""
CHUNKED: Final = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


class Counted:
    """`left`: bytes that are still to come."""

    __slots__ = ("left",)

    def __init__(self, length: int) -> None:
        self.left = length

    @property
    def complete(self) -> bool:
        return not self.left

    def feed(self, piece: bytes, at: int) -> tuple[bytes, int]:
        """What of the body is in it from there on, and where that ends."""
        end = min(len(piece), at + self.left)
        self.left -= end - at
        return piece[at:end], end


class Chunks:
    """`most_bytes`: of sizes, extensions and trailers in a row, without a byte of the body between them."""

    __slots__ = ("_framing_bytes", "_most_bytes", "_parser", "_parts", "_tail", "complete")

    def __init__(self, most_bytes: int) -> None:
        self.complete = False
        self._most_bytes = most_bytes
        self._framing_bytes = 0
        self._parts: list[bytes] = []
        self._tail = b""
        self._parser = HttpRequestParser(self)
        self._parser.feed_data(CHUNKED)

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("a body that has ended goes on")

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        self.complete = True

    def feed(self, piece: bytes, at: int) -> tuple[bytes, int]:
        """What of the body is in `TURN_BYTES` of it from there on, and where nothing was looked at yet. Raises
        `Refused`."""
        begin, end = at, min(len(piece), at + TURN_BYTES)
        view = memoryview(piece)
        try:
            while at < end and not self.complete:
                until = self._empty_line(piece, at, end)
                self._parser.feed_data(view[at:until])
                self._tail = (self._tail + piece[max(at, until - 3) : until])[-3:]
                at = until
        except HttpParserError:
            raise Refused(400) from None
        part = b"".join(self._parts)
        self._parts.clear()
        self._framing_bytes = 0 if part else self._framing_bytes + at - begin
        if self._framing_bytes > self._most_bytes:
            raise Refused(431)
        return part, at

    def _empty_line(self, piece: bytes, at: int, end: int) -> int:
        """Where the next one ends, `end` if none does; it may have begun in what was fed before."""
        found = (self._tail + piece[at : min(at + 3, end)]).find(HEAD_END)
        if found >= 0:
            return at + found + len(HEAD_END) - len(self._tail)
        found = piece.find(HEAD_END, at, end)
        return end if found < 0 else found + len(HEAD_END)

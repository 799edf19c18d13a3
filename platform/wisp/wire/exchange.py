"""The exchange: one request and one response as a guest of the `handler` ABI sees them.

Integers are little-endian u32; `str` is a length and that many bytes of UTF-8, header values included.

    request  = version(1) method:str path:str query:str n (name:str value:str)*n body…
    response = version(1) status            n (name:str value:str)*n body…

Header names are lower-case, a repeated header stays repeated, the body runs to the end of the message. Test vectors in
`tests/exchange/` are shared with `sdk-rust`. What a guest answers is hostile: `decode_response` bounds everything.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import NamedTuple

VERSION = 1
MAX_HEADERS = 128
MAX_HEADER_BYTES = 32 * 1024
"""All response header names and values together."""

KNOWN_BYTES = 1024
"""Of a response's head that is remembered."""

U32 = struct.Struct("<I")
U32X2 = struct.Struct("<II")
U32X3 = struct.Struct("<III")
LENGTHS = tuple(U32.pack(length) for length in range(1024))
"""Of most names and values, as they are written."""
# RFC 9110 §5.6.2 (token, lower-case here) and §5.5 (no control characters but the tab).
HEADER_NAME = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
HEADER_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

Headers = tuple[tuple[bytes, bytes], ...]


class MalformedExchange(ValueError):
    """The bytes are no exchange message. Says which field."""


class Response(NamedTuple):
    """`body` is a view into the message that it was decoded from."""

    status: int
    headers: Headers
    body: memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: bytes
    path: bytes
    query: bytes
    headers: Headers
    body: bytes


def encode_request_head(method: bytes, path: bytes, query: bytes, headers: Headers) -> bytes:
    """The message up to where the body begins; the body is appended to it as it is."""
    pack = U32.pack
    parts = [
        U32X2.pack(VERSION, len(method)), method, pack(len(path)), path, pack(len(query)), query, pack(len(headers)),
    ]  # fmt: skip
    try:
        for name, value in headers:
            parts += (LENGTHS[len(name)], name, LENGTHS[len(value)], value)
    except IndexError:
        del parts[7:]
        for name, value in headers:
            parts += (pack(len(name)), name, pack(len(value)), value)
    return b"".join(parts)


def encode_response(status: int, headers: Headers, body: bytes) -> bytes:
    parts = [U32X3.pack(VERSION, status, len(headers))]
    for name, value in headers:
        parts += (U32.pack(len(name)), name, U32.pack(len(value)), value)
    parts.append(body)
    return b"".join(parts)


class _Cursor:
    """Reads lengths and strings from the front of a message without ever passing its end."""

    __slots__ = ("at", "end", "message")

    def __init__(self, message: memoryview) -> None:
        self.message = message
        self.end = len(message)
        self.at = 0

    def u32(self, field: str) -> int:
        end = self.at + 4
        if end > self.end:
            raise MalformedExchange(f"{field}: the message ends inside it")
        value: int = U32.unpack_from(self.message, self.at)[0]
        self.at = end
        return value

    def text(self, field: str) -> bytes:
        length = self.u32(field)
        end = self.at + length
        if end > self.end:
            raise MalformedExchange(f"{field}: {length} bytes announced, {self.end - self.at} left")
        value = self.message[self.at : end].tobytes()
        try:
            value.decode()
        except UnicodeDecodeError:
            raise MalformedExchange(f"{field}: not UTF-8") from None
        self.at = end
        return value

    def headers(self, *, strict: bool) -> Headers:
        """With `strict` the names and values must be what HTTP allows; a request's have passed as HTTP already."""
        count = self.u32("header count")
        if count > MAX_HEADERS:
            raise MalformedExchange(f"header count: {count}, at most {MAX_HEADERS} are allowed")
        message, at, end, read = self.message, self.at, self.end, U32.unpack_from
        texts: list[bytes] = []
        budget = MAX_HEADER_BYTES
        for place in range(2 * count):
            start = at + 4
            if start > end:
                raise MalformedExchange(f"{_field(place)}: the message ends inside it")
            length = read(message, at)[0]
            at = start + length
            if at > end:
                raise MalformedExchange(f"{_field(place)}: {length} bytes announced, {end - start} left")
            budget -= length
            if budget < 0:
                raise MalformedExchange(f"headers: more than {MAX_HEADER_BYTES} bytes")
            texts.append(message[start:at].tobytes())
        self.at = at
        if not b"".join(texts).isascii():
            for place, text in enumerate(texts):
                _check_utf8(text, place)
        headers = tuple(zip(texts[::2], texts[1::2], strict=True))
        if strict:
            for index, (name, value) in enumerate(headers):
                if HEADER_NAME.fullmatch(name) is None:
                    raise MalformedExchange(f"header {index} name: not a lower-case token")
                if HEADER_VALUE.fullmatch(value) is None:
                    raise MalformedExchange(f"header {index} value: a control character")
        return headers


def _field(place: int) -> str:
    """Which of the headers' texts, in their order in the message."""
    return f"header {place // 2} {'value' if place % 2 else 'name'}"


def _check_utf8(text: bytes, place: int) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise MalformedExchange(f"{_field(place)}: not UTF-8") from None


def decode_response(message: memoryview) -> Response:
    """Raises `MalformedExchange`, naming the field, for anything that is not exactly a response."""
    cursor = _Cursor(message)
    version = cursor.u32("version")
    if version != VERSION:
        raise MalformedExchange(f"version: {version}, not {VERSION}")
    status = cursor.u32("status")
    if not 200 <= status <= 599:
        raise MalformedExchange(f"status: {status} is not within 200 to 599")
    headers = cursor.headers(strict=True)
    return Response(status, headers, message[cursor.at :])


class ResponseDecoder:
    """Of one function. Most answer with the same head each time, and one that is byte for byte the last is not read
    again: it would be read the same."""

    __slots__ = ("_head", "_headers")

    def __init__(self) -> None:
        self._head = b""
        """From the number of headers to where the body begins."""
        self._headers: Headers = ()

    def decode(self, message: bytes | memoryview) -> Response:
        """As `decode_response`. Of a view nothing is copied, and nothing remembered."""
        if isinstance(message, memoryview):
            return decode_response(message)
        if self._head and message.startswith(self._head, U32X2.size):
            version, status = U32X2.unpack_from(message)
            if version == VERSION and 200 <= status <= 599:
                return Response(status, self._headers, memoryview(message)[U32X2.size + len(self._head) :])
        response = decode_response(memoryview(message))
        end = len(message) - len(response.body)
        if end <= KNOWN_BYTES:
            self._head, self._headers = message[U32X2.size : end], response.headers
        return response


def decode_request(message: memoryview) -> Request:
    """The inverse of `encode_request_head`, for guests written in Python and for tests."""
    cursor = _Cursor(message)
    version = cursor.u32("version")
    if version != VERSION:
        raise MalformedExchange(f"version: {version}, not {VERSION}")
    method, path, query = cursor.text("method"), cursor.text("path"), cursor.text("query")
    headers = cursor.headers(strict=False)
    return Request(method=method, path=path, query=query, headers=headers, body=message[cursor.at :].tobytes())


def decode_request_head(head: bytes) -> Request:
    """What `encode_request_head` made, for a sandbox: bounded by its frame and believed, as its router wrote it.

    Raises `MalformedExchange` only where it ends too early.
    """
    read, texts, at = U32.unpack_from, [], U32.size
    try:
        for _ in range(3):
            start = at + 4
            at = start + read(head, at)[0]
            texts.append(head[start:at])
        (count,) = read(head, at)
        at += 4
        for _ in range(2 * count):
            start = at + 4
            at = start + read(head, at)[0]
            texts.append(head[start:at])
    except struct.error as error:
        raise MalformedExchange("a request's head ends too early") from error
    if at > len(head):
        raise MalformedExchange("a request's head ends too early")
    headers = tuple(zip(texts[3::2], texts[4::2], strict=True))
    return Request(method=texts[0], path=texts[1], query=texts[2], headers=headers, body=b"")

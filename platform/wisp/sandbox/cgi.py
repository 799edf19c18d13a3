"""CGI/1.1 (RFC 3875) as a `command` guest speaks it: a request as environment variables, an answer's head from stdout.

The answer follows the WAGI convention: header lines, an empty line, the body. Lines end with LF or CRLF. `Status` gives
the status, `Location` without it means 302, and every other field is passed on as it stands, repeated ones repeated.
Nothing is guessed: output without a head, or with a bad line in it, is `MalformedHead`, which names the line.
"""

from __future__ import annotations

import re
from typing import Final

from wisp.wire.exchange import HEADER_NAME, HEADER_VALUE, MAX_HEADER_BYTES, MAX_HEADERS, Headers, Request
from wisp.wire.invocations import FunctionLink

MAX_HEAD_BYTES: Final = MAX_HEADER_BYTES + 8 * MAX_HEADERS
"""Of an answer, line ends and separators included."""
SHOWN_BYTES: Final = 60
OK, FOUND = 200, 302

_VARIABLE = re.compile(rb"[a-z0-9-]+")
_PLAIN = re.compile(rb"([A-Za-z0-9!#$%&'*+.^_`|~-]+):([\t\x20-\x7e]*)\r?\n")
"""A line as nearly all are; of others it is said what is wrong with them, if anything."""
_STATUS = re.compile(rb"([2-5][0-9][0-9])(?:[ \t][\t\x20-\x7e\x80-\xff]*)?")
# Own variables (RFC 3875 §4.1.2, §4.1.3); and what would become HTTP_PROXY, which clients take for a setting.
_NOT_PASSED = frozenset({b"content-type", b"content-length", b"proxy"})


class MalformedHead(ValueError):
    """Not the head of an answer; says which line, and why."""


def variables(request: Request, body_bytes: int, link: FunctionLink, request_id: bytes) -> dict[bytes, bytes]:
    """The policy's environment and, before it, the platform's own variables. No value holds a NUL.

    A header whose name cannot be a variable's (an underscore in it would pass for a hyphen) is left out, a repeated one
    is joined, with `; ` for cookies.
    """
    fields: dict[bytes, bytes] = {}
    for name, value in request.headers:
        if name in fields:
            if name != b"content-type":  # the first one's counts
                fields[name] += (b"; " if name == b"cookie" else b", ") + value
        elif name in _KNOWN or _VARIABLE.fullmatch(name):
            fields[name] = value
    told = {name.encode(): value.encode() for name, value in link.environment}
    for name, value in fields.items():
        if name not in _NOT_PASSED:
            told[_KNOWN.get(name) or _passed(name)] = value
    if b"content-type" in fields:
        told[b"CONTENT_TYPE"] = fields[b"content-type"]
    if body_bytes or b"content-length" in fields:
        told[b"CONTENT_LENGTH"] = b"%d" % body_bytes
    tenant, function = link.tenant.encode(), link.function.encode()
    told |= {
        b"GATEWAY_INTERFACE": b"CGI/1.1",
        b"SERVER_PROTOCOL": b"HTTP/1.1",
        b"REQUEST_METHOD": request.method,
        b"SCRIPT_NAME": b"/t/%b/%b" % (tenant, function),
        b"PATH_INFO": request.path,
        b"QUERY_STRING": request.query,
        b"WISP_TENANT": tenant,
        b"WISP_FUNCTION": function,
        b"WISP_REQUEST_ID": request_id,
    }
    if b"\0" in b"".join(told.values()):
        return {name: value.replace(b"\0", b"%00") for name, value in told.items()}
    return told


def _passed(name: bytes) -> bytes:
    """The variable of a header."""
    return b"HTTP_" + name.upper().replace(b"-", b"_")


_KNOWN: Final = {
    name: _passed(name)
    for name in (
        b"accept", b"accept-encoding", b"accept-language", b"authorization", b"cache-control", b"connection", b"cookie",
        b"forwarded", b"host", b"origin", b"referer", b"traceparent", b"user-agent", b"x-forwarded-for",
        b"x-forwarded-proto", b"x-real-ip", b"x-request-id",
    )
}  # fmt: skip
"""What most requests bring."""


def parse_head(output: bytes | bytearray) -> tuple[int, Headers, int]:
    """(status, headers with lower-case names, where the body begins). Raises `MalformedHead`."""
    if not output:
        raise MalformedHead("nothing on standard output, where a head and a body belong")
    headers: list[tuple[bytes, bytes]] = []
    status: int | None = None
    size = at = number = 0
    while True:
        number += 1
        plain = _PLAIN.match(output, at, MAX_HEAD_BYTES)
        if plain is not None:
            at = plain.end()
            name, value = plain[1].lower(), plain[2].strip(b" \t")
        else:
            end = output.find(b"\n", at, MAX_HEAD_BYTES)
            if end < 0:
                raise MalformedHead(f"line {number} of the head: {_unended(output, at)}")
            line = bytes(output[at:end]).removesuffix(b"\r")
            at = end + 1
            if not line:
                break
            name, value = _field(number, line)
        size += len(name) + len(value)
        if name == b"status":
            if status is not None:
                raise MalformedHead(f"line {number} of the head: a second Status")
            status = _status(number, value)
            continue
        if len(headers) == MAX_HEADERS or size > MAX_HEADER_BYTES:
            most = f"{MAX_HEADERS} fields and {MAX_HEADER_BYTES} bytes"
            raise MalformedHead(f"line {number} of the head: more than {most} are not taken")
        headers.append((name, value))
    if number == 1:
        raise MalformedHead("line 1 of the head is empty: at least Status, Content-Type or Location belongs there")
    if status is None:
        status = FOUND if any(name == b"location" for name, _ in headers) else OK
    return status, tuple(headers), at


def _field(number: int, line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or HEADER_NAME.fullmatch(name.lower()) is None:
        raise MalformedHead(f"line {number} of the head is no `Name: value`: {_shown(line)}")
    value = value.strip(b" \t")
    if HEADER_VALUE.fullmatch(value) is None:
        raise MalformedHead(f"line {number} of the head has a control character in its value: {_shown(line)}")
    try:
        value.decode()
    except UnicodeDecodeError:
        raise MalformedHead(f"line {number} of the head is not UTF-8: {_shown(line)}") from None
    return name.lower(), value


def _status(number: int, value: bytes) -> int:
    match = _STATUS.fullmatch(value)
    if match is None:
        raise MalformedHead(f"line {number} of the head: a Status is 200 to 599 and a reason, not {_shown(value)}")
    return int(match[1])


def _unended(output: bytes | bytearray, at: int) -> str:
    if len(output) >= MAX_HEAD_BYTES:
        return f"no empty line ends it within {MAX_HEAD_BYTES} bytes"
    if at == len(output):
        return "no empty line ends it"
    return f"it does not end, and no empty line follows: {_shown(bytes(output[at : at + SHOWN_BYTES + 1]))}"


def _shown(line: bytes) -> str:
    """Printable, one line, bounded."""
    text = ascii(line[:SHOWN_BYTES])[1:]
    return text if len(line) <= SHOWN_BYTES else f"{text}..."

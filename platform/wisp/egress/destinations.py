"""The URL, method and headers of an outbound request, read strictly: hostile bytes from a guest, before any look-up."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from wisp.egress.addresses import Address
from wisp.policy.choices import Method
from wisp.policy.hosts import HostPattern, parse_host_pattern
from wisp.wire.exchange import HEADER_NAME, HEADER_VALUE, MAX_HEADER_BYTES, MAX_HEADERS, Headers

MAX_URL_BYTES = 8192

_URL = re.compile(rb"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?((?:[/?][\x21-\x22\x24-\x7e]*)?)", re.I)
_DEFAULT_PORTS = {"http": 80, "https": 443}
# RFC 9110 §7.6.1 and what belongs to the connection or is the client's own to say.
_HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te"),
        *(b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
_CLIENTS_OWN = frozenset({b"host", b"content-length", b"expect"})


class InvalidDestination(ValueError):
    """Says which part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """`host`: lower-case, IPv6 in brackets; `target`: path and query as the guest wrote them."""

    scheme: str
    host: str
    port: int
    target: bytes

    @property
    def pattern(self) -> HostPattern:
        return HostPattern(scheme=self.scheme, host=self.host, port=self.port)

    @property
    def address(self) -> Address | None:
        """The host, where it is an address already."""
        try:
            return ipaddress.ip_address(self.host.strip("[]"))
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """As the Host header has it."""
        return self.host if self.port == _DEFAULT_PORTS[self.scheme] else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        """Without the target, which may carry what is nobody's to log."""
        return f"{self.scheme}://{self.host}:{self.port}"


def parse_destination(url: bytes) -> Destination:
    """No user, no fragment, and a host that every other parser reads alike. Raises `InvalidDestination`."""
    match = _URL.fullmatch(url) if len(url) <= MAX_URL_BYTES else None
    if match is None:
        raise InvalidDestination("the path is not an absolute http or https URL")
    scheme, host = match[1].decode().lower(), match[2].decode().lower()
    port = _DEFAULT_PORTS[scheme] if match[3] is None else int(match[3])
    try:
        pattern = parse_host_pattern(f"{scheme}://{host}:{port}")
    except ValueError as error:
        raise InvalidDestination(f"the URL's host: {error}") from error
    target = match[4] if match[4].startswith(b"/") else b"/" + match[4]
    return Destination(scheme=scheme, host=pattern.host, port=port, target=target)


def parse_method(method: bytes) -> Method:
    """Raises `InvalidDestination` for what no policy can grant."""
    try:
        return Method(method.decode("ascii", "replace"))
    except ValueError:
        raise InvalidDestination(f"the method is none of {', '.join(sorted(Method))}") from None


def outgoing(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Without what belongs to the connection. Raises `InvalidDestination` for what HTTP does not allow."""
    for name, value in headers:
        if HEADER_NAME.fullmatch(name) is None or HEADER_VALUE.fullmatch(value) is None:
            raise InvalidDestination("a header that HTTP does not allow")
    dropped = _HOP_BY_HOP | _CLIENTS_OWN | _named_by_connection(headers)
    return [(name, value.strip(b" \t")) for name, value in headers if name not in dropped]


def incoming(headers: list[tuple[bytes, bytes]]) -> Headers:
    """As the exchange promises them: lower-case, UTF-8. Raises ValueError for more than an exchange holds."""
    lowered = tuple((name.lower(), value) for name, value in headers)
    dropped = _HOP_BY_HOP | _named_by_connection(lowered)
    kept = tuple((name, _utf8(value)) for name, value in lowered if name not in dropped)
    size = sum(len(name) + len(value) for name, value in kept)
    if len(kept) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        raise ValueError("the answer's head is too large")
    for name, value in kept:
        if HEADER_NAME.fullmatch(name) is None or HEADER_VALUE.fullmatch(value) is None:
            raise ValueError("the answer has a header that HTTP does not allow")
    return kept


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    values = b",".join(value for name, value in headers if name == b"connection")
    return frozenset(token.strip().lower() for token in values.split(b","))


def _utf8(value: bytes) -> bytes:
    try:
        value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1").encode()
    return value

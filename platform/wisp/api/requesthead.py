"""What the platform reads of a request to `/t/` before its body: the path's names, and the headers in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from wisp.api.authentication import bearer
from wisp.api.bodies import content_length
from wisp.errors import FunctionNotFound, InvalidName
from wisp.names import FunctionName, RequestId, TenantName, parse_function, parse_tenant, request_id

PREFIX: Final = b"/t/"
HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
"""RFC 9110 §7.6.1, and what older clients send."""
NOT_FOR_GUESTS: Final = HOP_BY_HOP | {b"authorization"}
ORDINARY: Final = frozenset(
    {
        b"accept", b"accept-encoding", b"accept-language", b"cache-control", b"content-type", b"cookie", b"forwarded",
        b"host", b"origin", b"referer", b"traceparent", b"tracestate", b"user-agent", b"x-forwarded-for",
        b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip",
    }
)  # fmt: skip
"""What most requests carry, and only the guest reads."""
SPECIAL: Final = NOT_FOR_GUESTS | {b"content-length", b"x-request-id"}
"""What the platform looks at, beside its own."""
OWN: Final = b"wisp-"
PIN: Final = b"wisp-version"
MEMORABLE_BYTES: Final = 128
"""Of a path that is remembered with what it names ..."""
MEMORABLE_PATHS: Final = 16_384
"""... which may be as many as the functions that are remembered (`registry.snapshot`)."""


class Head(NamedTuple):
    """What the platform reads of a request's headers, and what is left of them for the guest."""

    headers: tuple[tuple[bytes, bytes], ...]
    secret: str | None
    length: int | None
    bodiless: bool
    """Neither a length nor a transfer coding: RFC 9112 §6.3 has no body follow."""
    request_id: RequestId
    pin: int | None


def read_head(raw: Sequence[tuple[bytes, bytes]]) -> Head:
    """One pass over the headers; names are lower-case already, as ASGI has them."""
    kept: list[tuple[bytes, bytes]] = []
    authorizations: list[bytes] = []
    lengths: list[bytes] = []
    offered: str | None = None
    nominated: set[bytes] | None = None
    coded = False
    pins: list[bytes] = []
    for pair in raw:
        name, value = pair
        if name in ORDINARY or (name not in SPECIAL and not name.startswith(OWN)):
            kept.append(pair)
        elif name == b"authorization":
            authorizations.append(value)
        elif name == b"content-length":
            kept.append(pair)
            lengths.append(value)
        elif name == b"x-request-id":
            kept.append(pair)
            offered = value.decode("latin-1")
        elif name == b"connection":
            nominated = (nominated or set()) | {token.strip().lower() for token in value.split(b",")}
        elif name == b"transfer-encoding":
            coded = True
        elif name == PIN:
            pins.append(value)
    if nominated:
        kept = [pair for pair in kept if pair[0] not in nominated or pair[0] == b"content-length"]
    return Head(
        tuple(kept),
        bearer(authorizations) if authorizations else None,
        content_length(lengths) if lengths else None,
        not lengths and not coded,
        request_id(offered),
        _pinned(pins) if pins else None,
    )


def _pinned(values: list[bytes]) -> int:
    """The version that the caller asks for; 0, which no version has, where the header is no number."""
    value = values[0]
    return int(value) if len(values) == 1 and value.isdigit() and len(value) < 16 else 0


def split_path(raw_path: bytes) -> tuple[TenantName, FunctionName, bytes]:
    """Tenant, function, and the path below it as it came. Raises `FunctionNotFound` for what is out of grammar."""
    return _split_known(raw_path) if len(raw_path) <= MEMORABLE_BYTES else _split(raw_path)


def _split(raw_path: bytes) -> tuple[TenantName, FunctionName, bytes]:
    tenant, _, rest = raw_path[len(PREFIX) :].partition(b"/")
    function, slash, below = rest.partition(b"/")
    try:
        return parse_tenant(decoded(tenant)), parse_function(decoded(function)), slash + below or b"/"
    except InvalidName:
        raise FunctionNotFound("there is no such function") from None


_split_known = lru_cache(maxsize=MEMORABLE_PATHS)(_split)


def decoded(segment: bytes) -> str:
    return (unquote_to_bytes(segment) if b"%" in segment else segment).decode("latin-1")

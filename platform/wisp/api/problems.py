"""Every refusal and failure as RFC 9457 `application/problem+json`; the one place that knows statuses.

The error tree is mapped by MRO, so that a new subclass is covered by its parent; outcomes one by one. `source` tells a
guest's own doing (a trap, its fuel) from the platform's, since a guest may answer 429 or 500 itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from wisp import errors as e
from wisp.policy.grants import Grants
from wisp.wire.outcome import Outcome, Receipt

MEDIA_TYPE: Final = "application/problem+json"
MAX_ERRORS: Final = 100
MAX_DETAIL: Final = 1000
NS_PER_MS: Final = 1_000_000
MAX_INTEGER: Final = 999_999_999_999_999
"""Of a structured field."""

PLATFORM: Final = "platform"
GUEST: Final = "guest"

STATUSES: Final[dict[type[e.WispError], int]] = {
    e.WispError: 500,
    e.InvalidRequest: 400,
    e.Rejected: 422,
    e.Unauthorized: 401,
    e.Forbidden: 403,
    e.NotFound: 404,
    e.Conflict: 409,
    e.PreconditionFailed: 412,
    e.RequestTooLarge: 413,
    e.RequestTimeout: 408,
    e.Exhausted: 429,
    e.Unavailable: 503,
    e.RemoteFailed: 502,
    e.InferenceTimeout: 504,
}

OUTCOMES: Final[dict[Outcome, tuple[int, str, str]]] = {
    Outcome.GUEST_TRAP: (500, GUEST, "the function trapped; its log has the reason"),
    Outcome.GUEST_EXIT: (500, GUEST, "the function ended with an exit code other than 0"),
    Outcome.FUEL_EXHAUSTED: (500, GUEST, "the function used all the fuel that limits.fuel allows"),
    Outcome.MEMORY_EXCEEDED: (500, GUEST, "the function needed more memory than limits.memory allows"),
    Outcome.CAPABILITY_DENIED: (500, GUEST, "the function tried what its policy does not allow; its log has the line"),
    Outcome.DEADLINE_EXCEEDED: (504, GUEST, "the function ran longer than limits.timeout allows"),
    Outcome.INFERENCE_TIMEOUT: (504, GUEST, "limits.timeout passed inside an inference"),
    Outcome.INVALID_GUEST_RESPONSE: (502, GUEST, "what the function answered is no response; its log has the reason"),
    Outcome.RESPONSE_TOO_LARGE: (502, GUEST, "the function answered more than limits.response_body allows"),
    Outcome.CHILD_LOST: (503, PLATFORM, "the process that ran the function was lost; try again"),
}
"""Every outcome but ok: status, source, detail."""

METHOD_NOT_ALLOWED: Final = "method_not_allowed"
INTERNAL_ERROR: Final = e.WispError.code
VERSION_NOT_SUPPORTED: Final = "http_version_not_supported"

TITLES: Final[dict[int, str]] = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}

RawHeaders = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`limit` and `used` are in the unit of what ran out: requests, fuel, bytes, or milliseconds.

    It does not hold the error that it was made of, which leads to the frames that it passed through: one of them holds
    this problem, others the request's bytes, and all would stay until the next garbage collection.
    """

    status: int
    code: str
    detail: str
    source: str = PLATFORM
    limit: int | None = None
    used: int | None = None
    retry_after_s: int | None = None
    faults: tuple[e.Fault, ...] = ()
    allow: str | None = None
    rate_limit: tuple[tuple[bytes, bytes], ...] = ()
    """Header fields."""

    def body(self, request_id: str) -> bytes:
        document: dict[str, object] = {
            "type": "about:blank",
            "title": TITLES[self.status],
            "status": self.status,
            "code": self.code,
            "detail": self.detail[:MAX_DETAIL],
            "request_id": request_id,
        }
        if self.limit is not None:
            document["limit"] = self.limit
        if self.used is not None:
            document["used"] = self.used
        if self.faults:
            document["errors"] = [fault.as_json() for fault in self.faults[:MAX_ERRORS]]
        return json.dumps(document).encode()

    def headers(self, request_id: str) -> RawHeaders:
        """Everything but the length."""
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"cache-control", b"no-store"),
            (b"wisp-request-id", request_id.encode()),
            (b"wisp-error", f"{self.code}; source={self.source}".encode()),
        ]
        if self.status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="wisp"'))
        if self.allow is not None:
            headers.append((b"allow", self.allow.encode()))
        if self.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after_s))
        return [*headers, *self.rate_limit]


def problem_of(error: e.WispError) -> Problem:
    return Problem(
        status=status_of(type(error)),
        code=error.code,
        detail=error.message,
        limit=error.limit,
        used=error.used,
        retry_after_s=error.retry_after_s if isinstance(error, e.Exhausted | e.Unavailable) else None,
        faults=error.faults if isinstance(error, e.Rejected) else (),
        rate_limit=_rate_limit(error) if isinstance(error, e.Exhausted) else (),
    )


def status_of(error: type[e.WispError]) -> int:
    """By MRO. What only happens inside (settings, frames) is an internal error to a caller."""
    return next(STATUSES[parent] for parent in error.__mro__ if parent in STATUSES)


def problem_of_outcome(outcome: Outcome, receipt: Receipt, grants: Grants) -> Problem:
    """For every outcome but ok."""
    status, source, detail = OUTCOMES[outcome]
    limit, used = _limit_and_use(outcome, receipt, grants)
    return Problem(
        status=status,
        code=outcome.value,
        detail=detail,
        source=source,
        limit=limit,
        used=used,
        retry_after_s=1 if status == 503 else None,
    )


def internal_error() -> Problem:
    """Says nothing: the platform's log has the cause, under the request's id."""
    return Problem(status=500, code=INTERNAL_ERROR, detail="the platform failed; its operator can find the request id")


def not_found() -> Problem:
    return Problem(status=404, code=e.NotFound.code, detail="there is nothing at this path")


def method_not_allowed(methods: tuple[str, ...]) -> Problem:
    allow = ", ".join(methods)
    return Problem(status=405, code=METHOD_NOT_ALLOWED, detail=f"this path answers to {allow}", allow=allow)


def version_not_supported() -> Problem:
    return Problem(status=505, code=VERSION_NOT_SUPPORTED, detail="speak HTTP/1.1")


def _limit_and_use(outcome: Outcome, receipt: Receipt, grants: Grants) -> tuple[int | None, int | None]:
    match outcome:
        case Outcome.FUEL_EXHAUSTED:
            return grants.fuel, receipt.fuel
        case Outcome.MEMORY_EXCEEDED:
            return grants.memory_bytes, receipt.memory_peak_bytes
        case Outcome.DEADLINE_EXCEEDED | Outcome.INFERENCE_TIMEOUT:
            return grants.timeout_ns // NS_PER_MS, receipt.guest_ns // NS_PER_MS
        case Outcome.RESPONSE_TOO_LARGE:
            return grants.response_body_bytes, None
        case _:
            return None, None


def _rate_limit(share: e.Exhausted) -> tuple[tuple[bytes, bytes], ...]:
    """draft-ietf-httpapi-ratelimit-headers-10: the quota by its name, per window; what is left of it, and when there
    will be more. Both are lists of strings with parameters (RFC 9651), whose integers have fifteen digits at most."""
    limit = share.limit
    if limit is None:
        return ()
    left = max(0, limit - (limit if share.used is None else share.used))
    window = "" if share.window_s is None else f";w={share.window_s}"
    unit = "" if share.unit is None else f';qu="{share.unit}"'
    return (
        (b"ratelimit-policy", f'"{share.policy}";q={min(limit, MAX_INTEGER)}{unit}{window}'.encode()),
        (b"ratelimit", f'"{share.policy}";r={min(left, MAX_INTEGER)};t={share.retry_after_s}'.encode()),
    )

"""Every way wisp refuses or fails, as one tree. What a *guest* does is never an exception: see `wire.outcome`.

    WispError
    ├── InvalidRequest          the message itself is malformed (JSON, headers, query)
    ├── Rejected                well-formed, but what it carries will never do; lists every fault
    │   ├── InvalidName · InvalidModule · InvalidPolicy · InvalidModel · InvalidTraffic · ExceedsCeiling
    ├── Unauthorized · Forbidden ── Suspended
    ├── NotFound ── FunctionNotFound
    ├── Conflict ── InUse · PolicyFromFile
    ├── PreconditionFailed
    ├── RequestTooLarge · RequestTimeout
    ├── Exhausted               one tenant has used up its share; try again later
    │   ├── RateLimited · TooManyInflight · QuotaExceeded · StorageQuota
    ├── Unavailable             the platform cannot do it now; try again
    │   ├── Overloaded · QueueTimeout · ModelLoading · ChildLost · RemoteUnavailable
    │   ├── RegistryUnavailable ── BlobUnavailable ── BlobMissing · BlobDamaged
    ├── InferenceFailed         a model that was asked without a guest failed, and would again
    │   ├── RemoteFailed        the machine that serves it did, or gave no answer that is one
    ├── InferenceTimeout        the deadline passed inside one
    │   ├── RemoteTimeout       on the machine that serves it
    ├── InvalidSettings         refused before the port opens
    └── InvalidFrame            a peer process broke the protocol; it is killed

No class knows HTTP: `api.problems` maps the tree to statuses by MRO, so a new subclass is covered by its parent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong with an upload: which field, where, and what was asked and allowed."""

    field: str
    message: str
    line: int | None = None
    column: int | None = None
    asked: str | None = None
    allowed: str | None = None

    def as_json(self) -> dict[str, object]:
        """Without what is not known."""
        found = {name: getattr(self, name) for name in ("field", "line", "column", "message", "asked", "allowed")}
        return {name: value for name, value in found.items() if value is not None}


class WispError(Exception):
    """The root. `message` says what was refused, where, and what would allow it; it is safe to show to the caller."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, limit: int | None = None, used: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.limit = limit
        self.used = used


class InvalidRequest(WispError):
    code = "invalid_request"


class Rejected(WispError):
    """Carries every fault found, not only the first."""

    code = "invalid_request"

    def __init__(self, message: str, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


class InvalidName(Rejected):
    code = "invalid_name"


class InvalidModule(Rejected):
    code = "invalid_module"


class InvalidPolicy(Rejected):
    code = "invalid_policy"


class InvalidModel(Rejected):
    code = "invalid_model"


class InvalidTraffic(Rejected):
    code = "invalid_traffic"


class ExceedsCeiling(Rejected):
    code = "exceeds_ceiling"


class Unauthorized(WispError):
    code = "unauthorized"


class Forbidden(WispError):
    code = "forbidden"


class Suspended(Forbidden):
    code = "suspended"


class NotFound(WispError):
    code = "not_found"


class FunctionNotFound(NotFound):
    code = "function_not_found"


class Conflict(WispError):
    code = "conflict"


class InUse(Conflict):
    code = "in_use"


class PolicyFromFile(Conflict):
    code = "policy_from_file"


class PreconditionFailed(WispError):
    code = "precondition_failed"


class RequestTooLarge(WispError):
    code = "request_too_large"


class RequestTimeout(WispError):
    code = "request_timeout"


class Exhausted(WispError):
    """`retry_after_s`: whole seconds after which a retry makes sense. `policy`: the quota's name to clients (None: its
    code is), `window_s` what its limit is per (None: not per time), `unit` what it counts (None: see the name)."""

    code = "quota_exceeded"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: int = 1,
        limit: int | None = None,
        used: int | None = None,
        policy: str | None = None,
        window_s: int | None = None,
        unit: str | None = None,
    ) -> None:
        super().__init__(message, limit=limit, used=used)
        self.retry_after_s = retry_after_s
        self.policy = self.code if policy is None else policy
        self.window_s = window_s
        self.unit = unit


class RateLimited(Exhausted):
    code = "rate_limited"


class TooManyInflight(Exhausted):
    code = "too_many_inflight"


class QuotaExceeded(Exhausted):
    code = "quota_exceeded"


class StorageQuota(Exhausted):
    code = "storage_quota"


class Unavailable(WispError):
    """`retry_after_s`: whole seconds after which a retry makes sense."""

    code = "overloaded"

    def __init__(
        self, message: str, *, retry_after_s: int = 1, limit: int | None = None, used: int | None = None
    ) -> None:
        super().__init__(message, limit=limit, used=used)
        self.retry_after_s = retry_after_s


class Overloaded(Unavailable):
    code = "overloaded"


class QueueTimeout(Unavailable):
    code = "queue_timeout"


class ModelLoading(Unavailable):
    code = "model_loading"


class ChildLost(Unavailable):
    code = "child_lost"


class RemoteUnavailable(Unavailable):
    code = "remote_unavailable"


class RegistryUnavailable(Unavailable):
    code = "registry_unavailable"


class BlobUnavailable(RegistryUnavailable):
    """A module, bundle file or model cannot be had from where it is kept, or not be put there."""

    code = "blob_unavailable"


class BlobMissing(BlobUnavailable): ...


class BlobDamaged(BlobUnavailable): ...


class InferenceFailed(WispError):
    code = "inference_failed"


class RemoteFailed(InferenceFailed):
    code = "remote_failed"


class InferenceTimeout(WispError):
    code = "inference_timeout"


class RemoteTimeout(InferenceTimeout):
    code = "remote_timeout"


class InvalidSettings(WispError):
    code = "invalid_settings"


class InvalidFrame(WispError):
    code = "invalid_frame"

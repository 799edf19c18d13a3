"""Why a script changed nothing, as the exception that says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wisp.errors import (
    Conflict,
    InUse,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    RegistryUnavailable,
    StorageQuota,
    WispError,
)

RETRY_S = 60
"""Room comes when somebody makes it."""


def accepted(answer: Sequence[Any], subject: str) -> list[Any]:
    """What follows `ok`; anything else is raised. `subject` names what was to change: `acme/classify`."""
    code, *results = answer
    if code == b"ok":
        return results
    raise refusal(code.decode(), subject, results[0].decode() if results else "")


def refusal(code: str, subject: str, detail: str) -> WispError:
    match code:
        case "no_tenant":
            return NotFound(f"{subject}: there is no such tenant")
        case "no_key":
            return NotFound(f"{subject}: there is no such key")
        case "no_function":
            return NotFound(f"{subject}: there is no such function")
        case "no_version":
            return NotFound(f"{subject}: there is no such version")
        case "no_model" if detail:
            return NotFound(f"{subject}: there is no model {detail}: it was deleted meanwhile, or never uploaded")
        case "no_model":
            return NotFound(f"{subject}: there is no such model")
        case "exists":
            return Conflict(f"{subject}: it exists already")
        case "in_use":
            return InUse(f"{subject}: {detail} pins it; delete that first")
        case "answers":
            return InUse(f"{subject}: it is active or has a part of the traffic; activate another first")
        case "only":
            return InUse(f"{subject}: it is the function's only version; delete the function")
        case "stale":
            return PreconditionFailed(f"{subject}: it has changed since; read it again")
        case "too_many":
            limit, used = (int(word) for word in detail.split())
            message = f"{subject}: the tenant has {used} of the {limit} that its class allows; delete one first"
            return QuotaExceeded(message, retry_after_s=RETRY_S, limit=limit, used=used)
        case "no_storage":
            limit, used, more = (int(word) for word in detail.split())
            message = f"{subject}: {more} bytes more than the {used} stored are above the class's storage of {limit}"
            return StorageQuota(message, retry_after_s=RETRY_S, limit=limit, used=used)
        case _:  # "damaged", or a script of a newer wisp
            return RegistryUnavailable(f"the registry's record of {subject} is damaged: restore it from a backup")

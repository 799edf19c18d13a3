"""What became of a function: each change of it, who made it, when and why; the newest, latest first."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from wisp.registry.traffic import Traffic


class Action(StrEnum):
    UPLOAD = "upload"
    ACTIVATE = "activate"
    TRAFFIC = "traffic"
    ROLLBACK = "rollback"
    """A guard's: back to the stable version."""
    SUSPEND = "suspend"
    RESUME = "resume"
    DELETE = "delete"
    """Of one version."""
    PRUNE = "prune"
    """Of the oldest version, by the platform, because there were too many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`number` counts the function's changes from 1. `version`: the one that it was about, where it was about one;
    `active` and `traffic`: as they were after it; `at`: Unix seconds of the registry's clock."""

    number: int
    revision: int
    action: Action
    version: int | None
    active: int | None
    traffic: Traffic | None
    author: str
    message: str
    at: int

"""Moments as the API writes them: RFC 3339, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(seconds: float) -> str:
    """Unix seconds -> `2026-01-31T12:00:00Z`, with milliseconds where there are any."""
    when = datetime.fromtimestamp(seconds, UTC)
    text = when.isoformat(timespec="milliseconds" if when.microsecond else "seconds")
    return text.replace("+00:00", "Z")

"""What a writer says that a record still is, so that it does not undo a change which it has not seen."""

from __future__ import annotations

from typing import Final, TypeAlias

ANY: Final = "*"

Expected: TypeAlias = tuple[str, ...] | None
"""The revisions or digests of which the record must have one, or `ANY` alone; None where it is no matter."""


def listed(expected: Expected) -> str:
    """As scripts take it; no record has the revision `none`."""
    return "" if expected is None else " ".join(expected) or "none"

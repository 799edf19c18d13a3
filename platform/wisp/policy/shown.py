"""What others wrote, made fit for a message: printable ASCII, one line, bounded."""

from __future__ import annotations

SHOWN = 64
"""Characters shown of any one text."""


def shown_text(text: str) -> str:
    """`text` with everything unprintable escaped; what is cut off shows as dots."""
    escaped = text[:SHOWN].encode("unicode_escape").decode("ascii")
    return escaped if len(escaped) <= SHOWN and len(text) <= SHOWN else f"{escaped[:SHOWN]}..."


def shown(value: object) -> str:
    """A plain value as its YAML would look, texts in quotes, what has parts by its kind."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{shown_text(value)}'"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, tuple):
        return "a list"
    return shown_text(str(value))

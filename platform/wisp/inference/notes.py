"""What this process tells its operator: lines on standard error, which the router reads."""

from __future__ import annotations

import contextlib
import sys

from wisp.inference.reasons import plain


def note(text: str) -> None:
    """One line; losing it is no reason to fail."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"inference host: {plain(text)}\n")
        sys.stderr.flush()

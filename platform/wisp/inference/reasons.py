"""Texts that native libraries raise, made fit to pass on: short, printable ASCII, without this machine's paths."""

from __future__ import annotations

import re

from wisp.wire.admissions import MAX_REASON_CHARS

# onnxruntime's own preface, the path that a model was opened by, and the source line that raised.
NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : "
    r"|(Load model from )?/proc/self/fd/\d+( failed)?:?\s*"
    r"|/onnxruntime_src/\S+\s*"
)
MAX_QUOTE_CHARS = 80


def plain(text: str, max_chars: int = MAX_REASON_CHARS) -> str:
    """One line of at most `max_chars` characters; whatever is not printable ASCII is written as its escape."""
    # Bounded before the pattern too: such texts carry the model's own names and can be megabytes.
    kept = " ".join(NOISE.sub("", text[: 4 * max_chars]).split())
    escaped = kept.encode("ascii", "backslashreplace").decode()
    shown = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in escaped)
    return shown if len(shown) <= max_chars else shown[: max_chars - 3] + "..."


def quote(name: str) -> str:
    """A name out of a model, in quotation marks."""
    return f'"{plain(name, MAX_QUOTE_CHARS)}"'

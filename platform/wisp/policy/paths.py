"""The spelling of mount points, operators' directories and bundle globs: one spelling each, and no way upwards."""

from __future__ import annotations

import re

MAX_PATH = 256

MOUNT_RULE = "an absolute path such as /models, of at most 256 characters, without '.', '..', '//' or a final '/'"
GLOB_RULE = "a relative pattern such as *.txt or words/**, of at most 256 characters, without '.', '..' or '//'"

# Letters of any language are fine; separators, wildcards and what cannot be seen are not.
_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[^/\\*?\[\]{}:\"'<>|\x00-\x20\x7f-\xa0\u2028\u2029\ufeff\ud800-\udfff]+")
_GLOB_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[^/\\\[\]{}:\"'<>|\x00-\x20\x7f-\xa0\u2028\u2029\ufeff\ud800-\udfff]+")


def parse_mount_point(text: str) -> str:
    """Raises ValueError with the rule. `/` itself is not a mount point: it is the root that carries them."""
    if not text.startswith("/") or len(text) > MAX_PATH or not _every(_SEGMENT, text[1:]):
        raise ValueError(f"expected {MOUNT_RULE}")
    return text


def parse_glob(text: str) -> str:
    """`*` and `?` match within a name, `**` (alone between slashes) any number of names. Raises ValueError."""
    if (
        len(text) > MAX_PATH
        or not _every(_GLOB_SEGMENT, text)
        or any("**" in part and part != "**" for part in text.split("/"))
    ):
        raise ValueError(f"expected {GLOB_RULE}")
    return text


def is_within(path: str, directory: str) -> bool:
    """Whether an absolute `path` is `directory` or lies below it; both already in their one spelling."""
    return path == directory or path.startswith(directory + "/")


def _every(segment: re.Pattern[str], text: str) -> bool:
    return all(segment.fullmatch(part) for part in text.split("/"))

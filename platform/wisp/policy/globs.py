"""What the globs of a mount let through: `*` and `?` match within a name, `**` any number of names.

A trailing `**` is everything below, so it needs one name at least. Patterns become regular expressions whose parts are
tried once each (atomic groups): however a tenant writes a glob, matching costs no more than pattern times path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

WILDCARDS = frozenset("*?")


class Globs:
    """An allow-list in the spelling of `policy.paths.parse_glob`; empty, it lets nothing through."""

    __slots__ = ("_globs", "_literal", "_names", "_patterns")

    def __init__(self, globs: Iterable[str]) -> None:
        self._globs = tuple(dict.fromkeys(globs))
        self._literal = frozenset(glob for glob in self._globs if WILDCARDS.isdisjoint(glob))
        self._patterns = [
            re.compile(_path_pattern(glob), re.DOTALL) for glob in self._globs if glob not in self._literal
        ]
        self._names: list[list[re.Pattern[str] | None]] | None = None

    def allow(self, path: str) -> bool:
        """Whether a file at this relative path may be seen."""
        return path in self._literal or any(pattern.fullmatch(path) for pattern in self._patterns)

    def lead_below(self, directory: str) -> bool:
        """Whether something below this relative path might be allowed: then it may be looked into."""
        names = directory.split("/") if directory else []
        if self._names is None:  # many are never asked for, and each takes its time
            self._names = [[_name_matcher(name) for name in glob.split("/")] for glob in self._globs]
        return any(_leads_below(glob, names) for glob in self._names)


def _leads_below(glob: list[re.Pattern[str] | None], names: list[str]) -> bool:
    for position, name in enumerate(names):
        if position == len(glob):
            return False
        pattern = glob[position]
        if pattern is None:
            return True
        if not pattern.fullmatch(name):
            return False
    return len(glob) > len(names)


def _name_matcher(name: str) -> re.Pattern[str] | None:
    """None stands for `**`."""
    return None if name == "**" else re.compile(_name_pattern(name))


def _path_pattern(glob: str) -> str:
    """Each run of names between two `**` is tried at its first place only, which is as good as any later one."""
    runs: list[list[str]] = [[]]
    for name in glob.split("/"):
        if name == "**":
            runs.append([])
        else:
            runs[-1].append(_name_pattern(name))
    if len(runs) == 1:
        return "/".join(runs[0])
    first, *middle, last = ["/".join(run) for run in runs]
    head = f"{first}/" if first else ""
    between = "".join(f"(?>(?:[^/]+/)*?{run}/)" for run in middle if run)
    return f"{head}{between}" + (f"(?:[^/]+/)*{last}" if last else ".+")


def _name_pattern(name: str) -> str:
    """Likewise each piece between two `*`; the last piece stands at the name's end."""
    pieces = [re.escape(piece).replace(r"\?", "[^/]") for piece in name.split("*")]
    if len(pieces) == 1:
        return pieces[0]
    first, *middle, last = pieces
    between = "".join(f"(?>[^/]*?{piece})" for piece in middle if piece)
    return f"{first}{between}[^/]*" + (f"{last}(?![^/])" if last else "")

"""The policy line that would allow a refused path, as its author would write it."""

from __future__ import annotations

import re

from wisp.policy.paths import parse_glob, parse_mount_point

SHOWN_CHARS = 200
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+", re.ASCII)
DEFAULT_MOUNT = "/data"


def shown_path(names: list[str]) -> str:
    """Absolute, printable, bounded."""
    path = "/" + "/".join(names)
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in path)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."


def policy_line(names: list[str], *, write: bool, mount: str | None = None, source: str = "bundle") -> str:
    """For the absolute path of these names. `mount` stands already, shows this source and lacks the glob; without it
    the parent directory becomes a mount, or, below the root, the name itself if it looks like a directory's."""
    if not names:
        return f"files: [{{mount: {DEFAULT_MOUNT}, from: {'scratch' if write else 'bundle'}}}]"
    try:
        if mount is not None:
            line = _bundle(mount, "/".join(names[mount.count("/") :]))
            return line if source == "bundle" else line.replace("from: bundle", f"from: {source}") + " with its path"
        parent, name = "/" + "/".join(names[:-1]), names[-1]
        if parent == "/":
            if "." in name:
                line = _scratch(DEFAULT_MOUNT) if write else _bundle(DEFAULT_MOUNT, name)
                return f"{line}, and the path {DEFAULT_MOUNT}/{name}"
            return _scratch(f"/{name}") if write else _bundle(f"/{name}", "**")
        return _scratch(parent) if write else _bundle(parent, name)
    except ValueError:
        return f'files: [{{mount: {mount or DEFAULT_MOUNT}, from: bundle, allow: ["**"]}}], with a shorter, plain name'


def _bundle(mount: str, glob: str) -> str:
    _require_printable(glob)
    return f'files: [{{mount: {_spelled(mount)}, from: bundle, allow: ["{parse_glob(glob)}"]}}]'


def _scratch(mount: str) -> str:
    return f"files: [{{mount: {_spelled(mount)}, from: scratch}}]"


def _spelled(mount: str) -> str:
    _require_printable(parse_mount_point(mount))
    return mount if _PLAIN.fullmatch(mount) else f'"{mount}"'


def _require_printable(text: str) -> None:
    if not text.isprintable():
        raise ValueError("what cannot be printed cannot be copied into a policy")

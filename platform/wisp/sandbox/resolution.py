"""How a path finds a node: component by component from a directory, never above it.

Symbolic links exist in scratch mounts alone and lead to places in the same mount alone. What is not there is judged:
inside a mount that grants the path it is missing, else it is `Refused`, with the policy line that would allow it.
"""

from __future__ import annotations

from dataclasses import dataclass

from wisp.policy.choices import MountSource
from wisp.sandbox.hints import policy_line, shown_path
from wisp.sandbox.nodes import Directory, Failed, Mount, Node, Symlink
from wisp.sandbox.preview1 import Errno

MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255
MAX_DEPTH = 64
MAX_LINKS = 40
"""Symbolic links that one path may lead through."""


class Refused(Exception):
    """A path that no policy line grants; `allow` is one that would."""

    def __init__(self, what: str, allow: str) -> None:
        super().__init__(what)
        self.what = what
        self.allow = allow


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a path leads: a name in a directory, and what stands there. `name` is empty for the start itself, and for
    paths that end with dots. `slash`: it ended with one, so only a directory will do."""

    directory: Directory
    name: str
    node: Node | None
    slash: bool


class Resolution:
    """A root and the ways down from it. `read_only`: for each read-only mount, the paths that exist in its source,
    whether its globs let them through or not."""

    def __init__(self, root: Directory) -> None:
        self.root = root
        self.read_only: dict[Mount, frozenset[str]] = {}

    def find(self, start: Directory, path: str, *, follow: bool = False, write: bool = False) -> Place:
        """`follow`: a symbolic link at the end is followed as well; those on the way always are. `write`: what is asked
        for where nothing is granted.

        Raises `Failed` or `Refused` if something on the way is missing or no directory.
        """
        parts = split_path(path)
        slash = path.endswith("/") or parts[-1] in (".", "..")
        pending: list[tuple[str, Mount | None]] = [(part, None) for part in reversed(parts)]
        directory, name = start, ""
        node: Node | None = start
        above: list[Directory] = []
        links = 0
        while pending:
            part, within = pending.pop()
            if name:
                if node is None:
                    names = [name, part, *(later for later, _ in reversed(pending))]
                    reason = self.missing(directory, names)
                    if write and isinstance(reason, Refused):
                        reason = self.missing(directory, names, write=True)
                    raise reason
                if not isinstance(node, Directory):
                    raise Failed(Errno.NOTDIR)
                above.append(directory)
                directory, name = node, ""
            if part == "..":
                if not above:
                    raise Failed(Errno.NOTCAPABLE)
                directory = above.pop()
                node = directory
            elif part != ".":
                name, node = part, directory.children.get(part)
                if isinstance(node, Symlink) and (pending or follow):
                    links += 1
                    if links > MAX_LINKS:
                        raise Failed(Errno.LOOP)
                    slash = slash or (not pending and node.target.endswith("/"))
                    pending += [(step, node.mount) for step in reversed(split_path(node.target))]
                    name, node = "", directory
            if within is not None and (node if isinstance(node, Directory) else directory).mount is not within:
                raise Failed(Errno.NOTCAPABLE)  # a link leads to its own mount only
        if node is not None and slash and not isinstance(node, Directory):
            raise Failed(Errno.NOTDIR)
        return Place(directory=directory, name=name, node=node, slash=slash)

    def lookup(self, start: Directory, path: str, *, follow: bool = False) -> Node:
        place = self.find(start, path, follow=follow)
        if place.node is None:
            raise self.missing(place.directory, [place.name])
        return place.node

    def missing(self, directory: Directory, parts: list[str], *, write: bool = False) -> Failed | Refused:
        """Why there is nothing at these parts below a directory; the first of them is not there."""
        names = directory.names()
        for part in parts:
            if part == "..":
                del names[-1:]
            elif part != ".":
                names.append(part)
        mount, below = self._governing(names)
        doing = "writing" if write else "reading"
        if mount is None:
            return Refused(f"{doing} {shown_path(names)}", policy_line(names, write=write))
        if mount.source not in (MountSource.BUNDLE, MountSource.HOST):
            return Failed(Errno.NOENT)
        if write:
            return Failed(Errno.ROFS)
        path = "/".join(below)
        held_back = self.read_only.get(mount, frozenset())
        if mount.globs.allow(path) or (mount.globs.lead_below(path) and path not in held_back):
            return Failed(Errno.NOENT)
        return Refused(
            f"{doing} {shown_path(names)}", policy_line(names, write=False, mount=mount.link.mount, source=mount.source)
        )

    def _governing(self, names: list[str]) -> tuple[Mount | None, list[str]]:
        """The mount that an absolute path falls to, and the names below its point."""
        directory = self.root
        for name in names:
            child = directory.children.get(name)
            if not isinstance(child, Directory):
                break
            directory = child
        mount = directory.mount
        return mount, [] if mount is None else names[len(mount.names) :]


def split_path(path: str) -> list[str]:
    """The components of a relative path, dots among them. Raises `Failed`."""
    if not path:
        raise Failed(Errno.NOENT)
    if path.startswith("/"):
        raise Failed(Errno.NOTCAPABLE)
    parts = [part for part in path.split("/") if part]
    if len(parts) > MAX_DEPTH or (
        len(path) > MAX_NAME_BYTES // 4 and any(len(part.encode()) > MAX_NAME_BYTES for part in parts)
    ):
        raise Failed(Errno.NAMETOOLONG)
    return parts

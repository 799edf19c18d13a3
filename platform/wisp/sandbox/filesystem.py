"""The file system of one function: its mounts under one virtual root, and every way a path finds a node in it.

Built once when the function is linked. A path is taken component by component from a directory and never leaves it;
there are no symbolic links. What is not there is judged: inside a mount that grants the path it is missing, else it is
`Refused`, with the policy line that would allow it. Only scratch and log mounts change, and only for one request: each
begins with them empty.
"""

from __future__ import annotations

from dataclasses import dataclass

from wisp.policy.choices import MountSource
from wisp.policy.globs import Globs
from wisp.sandbox.hints import policy_line, shown_path
from wisp.sandbox.mapping import MappedBundle
from wisp.sandbox.nodes import BundleFile, Directory, Failed, LogFile, Mount, Node, ScratchFile
from wisp.sandbox.preview1 import Errno
from wisp.wire.invocations import MountLink

MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255
MAX_DEPTH = 64


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


class FileTree:
    """Belongs to one linked function; one request at a time."""

    def __init__(self, mounts: tuple[MountLink, ...] = (), bundle: MappedBundle | None = None) -> None:
        """Takes the bundle over. Mounts are in their one spelling and no two share a point."""
        self.bundle = bundle
        self._inode = 1
        self.root = Directory(inode=1, name="", parent=None, mount=None)
        self._mounts: list[Mount] = []
        self._changing: list[tuple[Directory, dict[str, Node]]] = []
        placed = [self._place(mount) for mount in sorted(mounts, key=lambda mount: mount.mount.count("/"))]
        for mount, directory in placed:
            self._mounts.append(mount)
            if mount.source is MountSource.BUNDLE:
                self._fill(mount, directory)
        self._note_changing(self.root)
        self._bundled = frozenset(entry.path for entry in bundle.entries) if bundle is not None else frozenset()

    def begin(self) -> None:
        """Before each request: nothing is left of the one before."""
        for directory, fixed in self._changing:
            directory.children = dict(fixed)
        for mount in self._mounts:
            mount.used_bytes = mount.nodes = 0

    def close(self) -> None:
        if self.bundle is not None:
            self.bundle.close()

    def _note_changing(self, directory: Directory) -> None:
        """All directories that a request may put something into, those between two mounts among them."""
        if directory.mount is not None and directory.mount.source in (MountSource.SCRATCH, MountSource.LOG):
            self._changing.append((directory, dict(directory.children)))
        for child in directory.children.values():
            if isinstance(child, Directory):
                self._note_changing(child)

    def _next_inode(self) -> int:
        self._inode += 1
        return self._inode

    def _place(self, link: MountLink) -> tuple[Mount, Directory]:
        mount = Mount(link=link, source=MountSource(link.source), globs=Globs(link.allow))
        directory = self.root
        for name in link.mount[1:].split("/"):
            directory = self._below(directory, name)
        directory.mount = mount
        return mount, directory

    def _below(self, directory: Directory, name: str) -> Directory:
        child = directory.children.get(name)
        if not isinstance(child, Directory):
            child = Directory(inode=self._next_inode(), name=name, parent=directory, mount=directory.mount)
            directory.children[name] = child
        return child

    def _fill(self, mount: Mount, top: Directory) -> None:
        """The files of the bundle that the mount's globs let through. A mount inside it hides what it stands on."""
        if self.bundle is None:
            return
        for entry in sorted(self.bundle.entries, key=lambda entry: entry.path):
            if not mount.globs.allow(entry.path):
                continue
            *names, last = entry.path.split("/")
            directory: Directory | None = top
            for name in names:
                if directory is None or isinstance(directory.children.get(name), BundleFile):
                    directory = None
                else:
                    directory = self._below(directory, name)
                    directory = directory if directory.mount is mount else None
            if directory is not None and last not in directory.children:
                directory.children[last] = BundleFile(
                    inode=self._next_inode(), bundle=self.bundle, offset=entry.offset, size=entry.length
                )

    def find(self, start: Directory, path: str) -> Place:
        """Raises `Failed` or `Refused` if something on the way is missing or no directory."""
        parts = _split(path)
        directory, name = start, ""
        node: Node | None = start
        above: list[Directory] = []
        for position, part in enumerate(parts):
            if name:
                if node is None:
                    raise self.missing(directory, [name, *parts[position:]])
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
        slash = path.endswith("/") or parts[-1] in (".", "..")
        if node is not None and slash and not isinstance(node, Directory):
            raise Failed(Errno.NOTDIR)
        return Place(directory=directory, name=name, node=node, slash=slash)

    def lookup(self, start: Directory, path: str) -> Node:
        place = self.find(start, path)
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
        if mount.source is not MountSource.BUNDLE:
            return Failed(Errno.NOENT)
        if write:
            return Failed(Errno.ROFS)
        path = "/".join(below)
        if mount.globs.allow(path) or (mount.globs.lead_below(path) and path not in self._bundled):
            return Failed(Errno.NOENT)
        return Refused(f"{doing} {shown_path(names)}", policy_line(names, write=False, mount=mount.link.mount))

    def _governing(self, names: list[str]) -> tuple[Mount | None, list[str]]:
        """The mount that an absolute path falls to, and the names below its point."""
        directory = self.root
        for name in names:
            child = directory.children.get(name)
            if not isinstance(child, Directory):
                break
            directory = child
        mount = directory.mount
        return mount, [] if mount is None else names[mount.link.mount.count("/") :]

    def create_file(self, place: Place) -> LogFile | ScratchFile:
        mount = self._writable(place)
        mount.take_node()
        node: LogFile | ScratchFile
        if mount.source is MountSource.LOG:
            node = LogFile(inode=self._next_inode())
        else:
            node = ScratchFile(inode=self._next_inode(), mount=mount)
        place.directory.children[place.name] = node
        return node

    def make_directory(self, start: Directory, path: str) -> None:
        place = self.find(start, path)
        if place.node is not None:
            raise Failed(Errno.EXIST)
        mount = self._scratch(place)
        mount.take_node()
        place.directory.children[place.name] = Directory(
            inode=self._next_inode(), name=place.name, parent=place.directory, mount=mount, fixed=False
        )

    def remove(self, start: Directory, path: str, *, directory: bool) -> None:
        """unlink, or rmdir."""
        place = self.find(start, path)
        node = place.node
        if node is None:
            raise self.missing(place.directory, [place.name])
        if isinstance(node, Directory):
            if not directory:
                raise Failed(Errno.ISDIR)
            if not place.name:
                raise Failed(Errno.INVAL)
        elif directory:
            raise Failed(Errno.NOTDIR)
        self._scratch(place)
        self._drop(place)

    def rename(self, start: Directory, path: str, to_start: Directory, to_path: str) -> None:
        source, target = self.find(start, path), self.find(to_start, to_path)
        node = source.node
        if node is None:
            raise self.missing(source.directory, [source.name])
        if not source.name or not target.name:
            raise Failed(Errno.BUSY)
        if self._scratch(source) is not self._scratch(target):
            raise Failed(Errno.XDEV)
        if node is target.node:
            return
        if isinstance(node, Directory):
            if target.directory.is_within(node):
                raise Failed(Errno.INVAL)
            if target.node is not None and not isinstance(target.node, Directory):
                raise Failed(Errno.NOTDIR)
        elif target.slash:
            raise Failed(Errno.NOTDIR)
        elif isinstance(target.node, Directory):
            raise Failed(Errno.ISDIR)
        if target.node is not None:
            self._drop(target)
        del source.directory.children[source.name]
        target.directory.children[target.name] = node
        if isinstance(node, Directory):
            node.name, node.parent = target.name, target.directory

    def _drop(self, place: Place) -> None:
        node = place.node
        if isinstance(node, Directory):
            if node.children:
                raise Failed(Errno.NOTEMPTY)
            assert node.mount is not None
            node.mount.nodes -= 1
        del place.directory.children[place.name]
        if isinstance(node, ScratchFile):
            node.named = False
            node.release()

    def _writable(self, place: Place) -> Mount:
        mount = place.directory.mount
        if isinstance(place.node, Directory) and place.node.fixed:
            raise Failed(Errno.BUSY)
        if mount is None:
            raise self.missing(place.directory, [place.name], write=True)
        if mount.source is MountSource.BUNDLE:
            raise Failed(Errno.ROFS)
        return mount

    def _scratch(self, place: Place) -> Mount:
        """A log mount takes what is appended, and no other change."""
        mount = self._writable(place)
        if mount.source is MountSource.LOG:
            raise Failed(Errno.PERM)
        return mount


def _split(path: str) -> list[str]:
    """The components of a relative path, dots among them. Raises `Failed`."""
    if not path:
        raise Failed(Errno.NOENT)
    if path.startswith("/"):
        raise Failed(Errno.NOTCAPABLE)
    parts = [part for part in path.split("/") if part]
    if len(parts) > MAX_DEPTH or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        raise Failed(Errno.NAMETOOLONG)
    return parts

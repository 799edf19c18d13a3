"""The file system of one function: its mounts under one virtual root, and every change that a request makes to it.

Built once when the function is linked; how paths are found is `sandbox.resolution`'s. Only scratch and log mounts
change, and only for one request: each begins with them empty.
"""

from __future__ import annotations

import itertools

from wisp.policy.choices import MountSource
from wisp.policy.globs import Globs
from wisp.sandbox.mapping import MappedBundle
from wisp.sandbox.nodes import BundleFile, Directory, Failed, LogFile, Mount, Node, ScratchFile, Symlink
from wisp.sandbox.preview1 import Errno
from wisp.sandbox.resolution import MAX_DEPTH as MAX_DEPTH
from wisp.sandbox.resolution import MAX_NAME_BYTES as MAX_NAME_BYTES
from wisp.sandbox.resolution import MAX_PATH_BYTES as MAX_PATH_BYTES
from wisp.sandbox.resolution import Place, Resolution, split_path
from wisp.sandbox.resolution import Refused as Refused
from wisp.wire.invocations import MountLink


class FileTree(Resolution):
    """Belongs to one linked function; one request at a time. `now_ns` is what a change notes as its time."""

    def __init__(
        self,
        mounts: tuple[MountLink, ...] = (),
        bundle: MappedBundle | None = None,
        hosts: MappedBundle | None = None,
    ) -> None:
        """Takes bundle and hosts over; in the latter each path begins with the number of its mount among those of the
        operator's directories. Mounts are in their one spelling and no two share a point."""
        super().__init__(Directory(inode=1, name="", parent=None, mount=None))
        self._sources = [source for source in (bundle, hosts) if source is not None]
        self._inode = 1
        self._mounts: list[Mount] = []
        self._changing: list[tuple[Directory, dict[str, Node]]] = []
        self.now_ns = 0
        number = itertools.count()
        prefixes = {link: f"{next(number)}/" for link in mounts if link.source == MountSource.HOST}
        placed = [self._place(link) for link in sorted(mounts, key=lambda link: link.mount.count("/"))]
        for mount, directory in placed:
            self._mounts.append(mount)
            if mount.source is MountSource.BUNDLE and bundle is not None:
                self._fill(mount, directory, bundle)
            elif mount.source is MountSource.HOST and hosts is not None:
                self._fill(mount, directory, hosts, prefixes[mount.link])
        self._note_changing(self.root)

    def begin(self, now_ns: int = 0) -> None:
        """Before each request: nothing is left of the one before."""
        self.now_ns = now_ns
        if not self._mounts:
            return
        for directory, fixed in self._changing:
            directory.children = dict(fixed)
            directory.accessed_ns = directory.modified_ns = now_ns
        for mount in self._mounts:
            mount.used_bytes = mount.nodes = 0

    def close(self) -> None:
        for source in self._sources:
            source.close()

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
        names = tuple(name for name in link.mount.split("/") if name)
        mount = Mount(link=link, source=MountSource(link.source), globs=Globs(link.allow), names=names)
        directory = self.root
        for name in names:
            directory = self._below(directory, name)
        directory.mount = mount
        return mount, directory

    def _below(self, directory: Directory, name: str) -> Directory:
        child = directory.children.get(name)
        if not isinstance(child, Directory):
            child = Directory(inode=self._next_inode(), name=name, parent=directory, mount=directory.mount)
            directory.children[name] = child
        return child

    def _fill(self, mount: Mount, top: Directory, source: MappedBundle, prefix: str = "") -> None:
        """The files of its source that the mount's globs let through. A mount inside it hides what it stands on."""
        there = {entry.path[len(prefix) :]: entry for entry in source.entries if entry.path.startswith(prefix)}
        self.read_only[mount] = frozenset(there)
        for path, entry in sorted(there.items()):
            if not mount.globs.allow(path):
                continue
            *names, last = path.split("/")
            directory: Directory | None = top
            for name in names:
                if directory is None or isinstance(directory.children.get(name), BundleFile):
                    directory = None
                else:
                    directory = self._below(directory, name)
                    directory = directory if directory.mount is mount else None
            if directory is not None and last not in directory.children:
                directory.children[last] = BundleFile(
                    inode=self._next_inode(), bundle=source, offset=entry.offset, size=entry.length
                )

    def create_file(self, place: Place) -> LogFile | ScratchFile:
        mount = self._writable(place)
        mount.take_node()
        node: LogFile | ScratchFile
        now = self.now_ns
        if mount.source is MountSource.LOG:
            node = LogFile(inode=self._next_inode())
        else:
            node = ScratchFile(inode=self._next_inode(), mount=mount, accessed_ns=now, modified_ns=now)
        self._enter(place, node)
        return node

    def make_directory(self, start: Directory, path: str) -> None:
        place = self.find(start, path, write=True)
        if place.node is not None:
            raise Failed(Errno.EXIST)
        mount = self._scratch(place)
        mount.take_node()
        now = self.now_ns
        made = Directory(
            inode=self._next_inode(), name=place.name, parent=place.directory, mount=mount, fixed=False,
            accessed_ns=now, modified_ns=now,
        )  # fmt: skip
        self._enter(place, made)

    def make_symlink(self, target: str, start: Directory, path: str) -> None:
        """An absolute target is refused: it could not be told whose root it means."""
        split_path(target)
        place = self.find(start, path, write=True)
        self._require_new(place)
        mount = self._scratch(place)
        now = self.now_ns
        node = Symlink(inode=self._next_inode(), mount=mount, target=target, accessed_ns=now, modified_ns=now)
        mount.take_node()
        try:
            mount.take(node.size)
        except Failed:
            mount.nodes -= 1
            raise
        self._enter(place, node)

    def link(self, start: Directory, path: str, to_start: Directory, to_path: str) -> None:
        """A second name in the same mount, for anything but a directory."""
        source, target = self.find(start, path), self.find(to_start, to_path, write=True)
        node = source.node
        if node is None:
            raise self.missing(source.directory, [source.name])
        if isinstance(node, Directory):
            raise Failed(Errno.PERM)
        self._require_new(target)
        mount = self._scratch(target)
        if not isinstance(node, (ScratchFile, Symlink)) or node.mount is not mount:
            raise Failed(Errno.XDEV)
        mount.take_node()
        node.links += 1
        self._enter(target, node)

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
        source, target = self.find(start, path), self.find(to_start, to_path, write=True)
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
        source.directory.modified_ns = self.now_ns
        self._enter(target, node)
        if isinstance(node, Directory):
            node.name, node.parent = target.name, target.directory

    def _enter(self, place: Place, node: Node) -> None:
        place.directory.children[place.name] = node
        place.directory.modified_ns = self.now_ns

    def _drop(self, place: Place) -> None:
        node = place.node
        if isinstance(node, Directory):
            if node.children:
                raise Failed(Errno.NOTEMPTY)
            node.gone = True
        assert place.directory.mount is not None
        place.directory.mount.nodes -= 1
        del place.directory.children[place.name]
        place.directory.modified_ns = self.now_ns
        if isinstance(node, (ScratchFile, Symlink)):
            node.links -= 1
            node.release()

    def _require_new(self, place: Place) -> None:
        if place.node is not None:
            raise Failed(Errno.EXIST)
        if place.slash:
            raise Failed(Errno.NOENT)

    def _writable(self, place: Place) -> Mount:
        mount = place.directory.mount
        if isinstance(place.node, Directory) and place.node.fixed:
            raise Failed(Errno.BUSY)
        if mount is None:
            raise self.missing(place.directory, [place.name], write=True)
        if mount.source in (MountSource.BUNDLE, MountSource.HOST):
            raise Failed(Errno.ROFS)
        if place.directory.gone:
            raise Failed(Errno.NOENT)
        return mount

    def _scratch(self, place: Place) -> Mount:
        """A log mount takes what is appended, and no other change."""
        mount = self._writable(place)
        if mount.source is MountSource.LOG:
            raise Failed(Errno.PERM)
        return mount

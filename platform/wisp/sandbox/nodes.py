"""What stands in a guest's file system: directories, links, and the three kinds of files behind them.

Positions and lengths come checked for their sign, and nothing here knows wasm: `copy_to` gets a host address that its
caller has checked, for exactly the bytes that it says it copies.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

from wisp.policy.choices import MountSource
from wisp.policy.globs import Globs
from wisp.sandbox.logs import LogBuffer
from wisp.sandbox.mapping import MappedBundle
from wisp.sandbox.preview1 import Errno
from wisp.wire.invocations import MountLink

MAX_NODES = 1024
"""Names that one request may make in a mount, beside the bytes that its quotas allow."""

_memmove = ctypes.memmove


class Failed(Exception):
    """An operation on files that ends with this errno."""

    def __init__(self, errno: Errno) -> None:
        super().__init__(errno.name)
        self.errno = errno


@dataclass(slots=True, kw_only=True, eq=False)
class Mount:
    """A mount and what the current request has used of it. `names`: those of its point."""

    link: MountLink
    source: MountSource
    globs: Globs
    names: tuple[str, ...]
    used_bytes: int = 0
    nodes: int = 0

    def take(self, size_bytes: int) -> None:
        """Raises `Failed` where the quota ends; a negative size gives back."""
        if self.used_bytes + size_bytes > self.link.quota_bytes:
            raise Failed(Errno.NOSPC)
        self.used_bytes += size_bytes

    def take_node(self) -> None:
        if self.nodes >= MAX_NODES:
            raise Failed(Errno.NOSPC)
        self.nodes += 1


@dataclass(slots=True, kw_only=True, eq=False)
class BundleFile:
    inode: int
    bundle: MappedBundle
    offset: int
    size: int

    def copy_to(self, address: int, position: int, length: int) -> int:
        count = max(min(length, self.size - position), 0)
        if count:
            _memmove(address, self.bundle.address(self.offset + position, count), count)
        return count


@dataclass(slots=True, kw_only=True, eq=False)
class LogFile:
    """Reads as empty; what is written becomes log lines, wherever it is written to."""

    inode: int
    size: int = 0

    def copy_to(self, address: int, position: int, length: int) -> int:
        return 0

    def write(self, logs: LogBuffer, data: bytes, length: int) -> int:
        """`data` is as much of `length` bytes as the log has room for."""
        logs.write_line(data)
        logs.note_dropped(length - len(data))
        self.size += length
        return length


@dataclass(slots=True, kw_only=True, eq=False)
class ScratchFile:
    """Lives while it has a name (`links` counts them) or a descriptor; after that its room is given back."""

    inode: int
    mount: Mount
    data: bytearray = field(default_factory=bytearray)
    accessed_ns: int = 0
    modified_ns: int = 0
    links: int = 1
    opened: int = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def copy_to(self, address: int, position: int, length: int) -> int:
        piece = bytes(self.data[position : position + length])
        _memmove(address, piece, len(piece))
        return len(piece)

    def room_at(self, position: int) -> int:
        """How many bytes could be written there."""
        return max(len(self.data) + self.mount.link.quota_bytes - self.mount.used_bytes - position, 0)

    def write(self, position: int, data: bytes) -> None:
        """Raises `Failed` where the quota ends; a gap before `position` becomes zeros, and counts."""
        end = position + len(data)
        if end > len(self.data):
            self.resize(end)
        self.data[position:end] = data

    def resize(self, size: int) -> None:
        self.mount.take(size - len(self.data))
        if size < len(self.data):
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))

    def release(self) -> None:
        if not self.links and not self.opened:
            self.resize(0)


@dataclass(slots=True, kw_only=True, eq=False)
class Symlink:
    """`target` is relative; its bytes count like a file's."""

    inode: int
    mount: Mount
    target: str
    accessed_ns: int = 0
    modified_ns: int = 0
    links: int = 1

    @property
    def size(self) -> int:
        return len(self.target.encode())

    def release(self) -> None:
        if not self.links:
            self.mount.take(-self.size)


@dataclass(slots=True, kw_only=True, eq=False)
class Directory:
    """`mount` is what it stands in; None between the mounts. A `fixed` one is part of the grants and stays. One that
    was removed is `gone`: descriptors may still lead there, and nothing can be made in it."""

    inode: int
    name: str
    parent: Directory | None
    mount: Mount | None
    fixed: bool = True
    gone: bool = False
    accessed_ns: int = 0
    modified_ns: int = 0
    children: dict[str, Node] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Those of its absolute path."""
        names, directory = [], self
        while directory.parent is not None:
            names.append(directory.name)
            directory = directory.parent
        return names[::-1]

    def is_within(self, other: Directory) -> bool:
        """Whether it is `other` or lies below it."""
        directory: Directory | None = self
        while directory is not None and directory is not other:
            directory = directory.parent
        return directory is other


Node = BundleFile | LogFile | ScratchFile | Symlink | Directory
File = BundleFile | LogFile | ScratchFile

"""WASI preview 1 on what is known of an open descriptor, and on listing directories."""

from __future__ import annotations

from typing import Final

from wisp.sandbox import memory
from wisp.sandbox.clocks import REALTIME, now_ns
from wisp.sandbox.invocation import Invocation, Stop
from wisp.sandbox.nodes import BundleFile, Directory, LogFile, Node, ScratchFile, Symlink
from wisp.sandbox.preview1 import DIRENT, FDSTAT, FILESTAT, PRESTAT, Errno, Fdflag, Filetype, Fstflag, Right
from wisp.sandbox.streams import Input, Log, Output
from wisp.sandbox.wasi_io import FileFunction, granted, over_files

ROOT_NAME: Final = b"/"
DEVICE: Final = 1
"""All files are on one."""
READDIR: Final = int(Right.FD_READDIR)
OFFERED_FLAGS: Final = int(Fdflag.APPEND | Fdflag.DSYNC | Fdflag.NONBLOCK | Fdflag.RSYNC | Fdflag.SYNC)
"""All of them: what is in memory never blocks and needs no synchronising."""


@over_files
def fd_fdstat_get(call: Invocation, fd: int, out: int) -> int | Stop:
    opened = call.descriptors.require(fd)
    stat = FDSTAT.pack(filetype(opened.behind), opened.flags, opened.rights, opened.inheriting)
    memory.write(call.arena, memory.aligned(out, 8), stat)
    return Errno.SUCCESS


@over_files
def fd_fdstat_set_flags(call: Invocation, fd: int, flags: int) -> int | Stop:
    opened = granted(call, fd, Right.FD_FDSTAT_SET_FLAGS)
    if flags & ~OFFERED_FLAGS:
        return Errno.INVAL
    opened.flags = flags
    return Errno.SUCCESS


@over_files
def fd_fdstat_set_rights(call: Invocation, fd: int, rights: int, inheriting: int) -> int | Stop:
    """Only less."""
    opened = call.descriptors.require(fd)
    if rights & ~opened.rights or inheriting & ~opened.inheriting:
        return Errno.NOTCAPABLE
    opened.rights, opened.inheriting = rights, inheriting
    return Errno.SUCCESS


@over_files
def fd_filestat_get(call: Invocation, fd: int, out: int) -> int | Stop:
    behind = granted(call, fd, Right.FD_FILESTAT_GET).behind
    if isinstance(behind, (Input, Output, Log)):
        stat = FILESTAT.pack(0, fd, Filetype.UNKNOWN, 1, 0, 0, 0, 0)
    else:
        stat = filestat(behind)
    memory.write(call.arena, memory.aligned(out, 8), stat)
    return Errno.SUCCESS


@over_files
def fd_filestat_set_times(call: Invocation, fd: int, accessed: int, modified: int, flags: int) -> int | Stop:
    return set_times(call, granted(call, fd, Right.FD_FILESTAT_SET_TIMES).behind, accessed, modified, flags)


@over_files
def fd_prestat_get(call: Invocation, fd: int, out: int) -> int | Stop:
    if not call.descriptors.require(fd).preopened:
        return Errno.BADF
    memory.write(call.arena, memory.aligned(out, 4), PRESTAT.pack(0, len(ROOT_NAME)))
    return Errno.SUCCESS


@over_files
def fd_prestat_dir_name(call: Invocation, fd: int, path: int, length: int) -> int | Stop:
    if not call.descriptors.require(fd).preopened:
        return Errno.BADF
    if length < len(ROOT_NAME):
        return Errno.NAMETOOLONG
    memory.write(call.arena, path, ROOT_NAME)
    return Errno.SUCCESS


@over_files
def fd_readdir(call: Invocation, fd: int, buffer: int, length: int, cookie: int, used: int) -> int | Stop:
    """A cookie is the number of an entry; the last one is cut where the buffer ends, as the specification has it."""
    opened = call.descriptors.require(fd)
    if not isinstance(opened.behind, Directory):
        return Errno.NOTDIR
    if not opened.rights & READDIR:
        return Errno.NOTCAPABLE
    memory.check(call.arena, memory.aligned(used, 4), 4)
    memory.check(call.arena, buffer, length)
    if opened.listing is None or cookie == 0:
        opened.listing = _list(opened.behind)
    parts: list[bytes] = []
    size = 0
    for number in range(cookie, len(opened.listing)):
        name, inode, filetype = opened.listing[number]
        parts += (DIRENT.pack(number + 1, inode, len(name), filetype), name)
        size += DIRENT.size + len(name)
        if size >= length:
            break
    memory.write(call.arena, buffer, b"".join(parts)[:length])
    memory.write_u32(call.arena, used, min(size, length))
    return Errno.SUCCESS


def _list(directory: Directory) -> list[tuple[bytes, int, int]]:
    above = directory.parent or directory
    listing = [(b".", directory.inode, int(Filetype.DIRECTORY)), (b"..", above.inode, int(Filetype.DIRECTORY))]
    listing += [(name.encode(), node.inode, filetype(node)) for name, node in directory.children.items()]
    return listing


def set_times(call: Invocation, behind: object, accessed: int, modified: int, flags: int) -> int:
    """Raises `Failed`."""
    if (flags & Fstflag.ATIM and flags & Fstflag.ATIM_NOW) or (flags & Fstflag.MTIM and flags & Fstflag.MTIM_NOW):
        return Errno.INVAL
    if isinstance(behind, BundleFile):
        return Errno.ROFS
    if not isinstance(behind, (ScratchFile, Symlink, Directory)):
        return Errno.NOTSUP
    if isinstance(behind, Directory) and behind.fixed:
        return Errno.PERM
    now = now_ns(call, REALTIME)
    if flags & (Fstflag.ATIM | Fstflag.ATIM_NOW):
        behind.accessed_ns = accessed if flags & Fstflag.ATIM else now
    if flags & (Fstflag.MTIM | Fstflag.MTIM_NOW):
        behind.modified_ns = modified if flags & Fstflag.MTIM else now
    return Errno.SUCCESS


def filetype(behind: object) -> int:
    """Standard streams are of no known type: a character device would be taken for a terminal."""
    if isinstance(behind, (BundleFile, ScratchFile, LogFile)):
        return Filetype.REGULAR_FILE
    if isinstance(behind, Directory):
        return Filetype.DIRECTORY
    return Filetype.SYMBOLIC_LINK if isinstance(behind, Symlink) else Filetype.UNKNOWN


def filestat(node: Node) -> bytes:
    accessed = modified = size = 0
    links = 1
    if isinstance(node, (ScratchFile, Symlink)):
        links = node.links
    if isinstance(node, (ScratchFile, Symlink, Directory)):
        accessed, modified = node.accessed_ns, node.modified_ns
    if not isinstance(node, Directory):
        size = node.size
    return FILESTAT.pack(DEVICE, node.inode, filetype(node), links, size, accessed, modified, modified)


FUNCTIONS: dict[str, FileFunction] = {
    "fd_fdstat_get": fd_fdstat_get,
    "fd_fdstat_set_flags": fd_fdstat_set_flags,
    "fd_fdstat_set_rights": fd_fdstat_set_rights,
    "fd_filestat_get": fd_filestat_get,
    "fd_filestat_set_times": fd_filestat_set_times,
    "fd_prestat_get": fd_prestat_get,
    "fd_prestat_dir_name": fd_prestat_dir_name,
    "fd_readdir": fd_readdir,
}

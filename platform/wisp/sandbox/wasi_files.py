"""WASI preview 1 on paths, directories and what is known of a file, over the virtual file system.

What a policy line could grant is a refused capability (`Invocation.refuse`); what is read-only, missing or not offered
is an errno whatever the policy says.
"""

from __future__ import annotations

from typing import Final

from wisp.sandbox import memory
from wisp.sandbox.clocks import REALTIME, now_ns
from wisp.sandbox.descriptors import DIRECTORY_RIGHTS, FILE_RIGHTS, Open
from wisp.sandbox.filesystem import MAX_PATH_BYTES
from wisp.sandbox.invocation import Invocation, Stop
from wisp.sandbox.nodes import BundleFile, Directory, Failed, LogFile, Node, ScratchFile
from wisp.sandbox.preview1 import (
    ALL_RIGHTS,
    DIRENT,
    FDSTAT,
    FILESTAT,
    PRESTAT,
    Errno,
    Fdflag,
    Filetype,
    Fstflag,
    Oflag,
    Right,
)
from wisp.sandbox.streams import Input, Log, Output
from wisp.sandbox.wasi_io import FileFunction, over_files

ROOT_NAME: Final = b"/"
OFFERED_FLAGS: Final = int(Fdflag.APPEND | Fdflag.NONBLOCK)
WRITE: Final = int(Right.FD_WRITE)


@over_files
def fd_fdstat_get(call: Invocation, fd: int, out: int) -> int | Stop:
    opened = call.descriptors.require(fd)
    below = ALL_RIGHTS if isinstance(opened.behind, Directory) else 0
    stat = FDSTAT.pack(_filetype(opened.behind), opened.flags, opened.rights, below)
    memory.write(call.arena, memory.aligned(out, 8), stat)
    return Errno.SUCCESS


@over_files
def fd_fdstat_set_flags(call: Invocation, fd: int, flags: int) -> int | Stop:
    opened = call.descriptors.require(fd)
    if flags & ~OFFERED_FLAGS:
        return Errno.NOTSUP
    opened.flags = flags
    return Errno.SUCCESS


@over_files
def fd_fdstat_set_rights(call: Invocation, fd: int, rights: int, _inheriting: int) -> int | Stop:
    opened = call.descriptors.require(fd)
    if rights & ~opened.rights:
        return Errno.NOTCAPABLE
    opened.rights = rights
    return Errno.SUCCESS


@over_files
def fd_filestat_get(call: Invocation, fd: int, out: int) -> int | Stop:
    behind = call.descriptors.require(fd).behind
    stat = FILESTAT.pack(0, fd, Filetype.UNKNOWN, 1, 0, 0, 0, 0) if isinstance(behind, Input | Output | Log) else None
    if stat is None:
        assert isinstance(behind, BundleFile | ScratchFile | LogFile | Directory)
        stat = _filestat(behind)
    memory.write(call.arena, memory.aligned(out, 8), stat)
    return Errno.SUCCESS


@over_files
def fd_filestat_set_times(call: Invocation, fd: int, accessed: int, modified: int, flags: int) -> int | Stop:
    return _set_times(call, call.descriptors.require(fd).behind, accessed, modified, flags)


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
    listing += [(name.encode(), node.inode, _filetype(node)) for name, node in directory.children.items()]
    return listing


def _path(call: Invocation, pointer: int, length: int) -> str:
    if length > MAX_PATH_BYTES:
        raise Failed(Errno.NAMETOOLONG)
    raw = memory.read(call.arena, pointer, length)
    if b"\0" in raw:
        raise Failed(Errno.INVAL)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Failed(Errno.ILSEQ) from None


@over_files
def path_open(
    call: Invocation,
    fd: int,
    _lookup: int,
    path: int,
    length: int,
    oflags: int,
    rights: int,
    _inheriting: int,
    flags: int,
    out: int,
) -> int | Stop:
    descriptors, tree = call.descriptors, call.descriptors.tree
    start = descriptors.directory(fd)
    memory.check(call.arena, memory.aligned(out, 4), 4)
    place = tree.find(start, _path(call, path, length))
    descriptors.check_room()
    if flags & ~OFFERED_FLAGS:
        return Errno.NOTSUP
    writes = bool(rights & WRITE or oflags & (Oflag.CREAT | Oflag.TRUNC))
    node = place.node
    if node is None:
        if not oflags & Oflag.CREAT:
            raise tree.missing(place.directory, [place.name], write=writes)
        if oflags & Oflag.DIRECTORY or place.slash:
            return Errno.INVAL
        node = tree.create_file(place)
    elif oflags & Oflag.CREAT and oflags & Oflag.EXCL:
        return Errno.EXIST
    elif isinstance(node, Directory):
        if writes:
            return Errno.ISDIR
    elif oflags & Oflag.DIRECTORY:
        return Errno.NOTDIR
    elif isinstance(node, BundleFile) and (rights & WRITE or oflags & Oflag.TRUNC):
        return Errno.ROFS
    elif isinstance(node, ScratchFile) and oflags & Oflag.TRUNC:
        node.resize(0)
    offered = DIRECTORY_RIGHTS if isinstance(node, Directory) else FILE_RIGHTS
    number = descriptors.add(Open(node, rights & offered, flags))
    memory.write_u32(call.arena, out, number)
    return Errno.SUCCESS


@over_files
def path_filestat_get(call: Invocation, fd: int, _lookup: int, path: int, length: int, out: int) -> int | Stop:
    start = call.descriptors.directory(fd)
    memory.check(call.arena, memory.aligned(out, 8), FILESTAT.size)
    node = call.descriptors.tree.lookup(start, _path(call, path, length))
    memory.write(call.arena, out, _filestat(node))
    return Errno.SUCCESS


@over_files
def path_filestat_set_times(
    call: Invocation, fd: int, _lookup: int, path: int, length: int, accessed: int, modified: int, flags: int
) -> int | Stop:
    start = call.descriptors.directory(fd)
    node = call.descriptors.tree.lookup(start, _path(call, path, length))
    return _set_times(call, node, accessed, modified, flags)


@over_files
def path_create_directory(call: Invocation, fd: int, path: int, length: int) -> int | Stop:
    start = call.descriptors.directory(fd)
    call.descriptors.tree.make_directory(start, _path(call, path, length))
    return Errno.SUCCESS


@over_files
def path_unlink_file(call: Invocation, fd: int, path: int, length: int) -> int | Stop:
    start = call.descriptors.directory(fd)
    call.descriptors.tree.remove(start, _path(call, path, length), directory=False)
    return Errno.SUCCESS


@over_files
def path_remove_directory(call: Invocation, fd: int, path: int, length: int) -> int | Stop:
    start = call.descriptors.directory(fd)
    call.descriptors.tree.remove(start, _path(call, path, length), directory=True)
    return Errno.SUCCESS


@over_files
def path_rename(
    call: Invocation, fd: int, path: int, length: int, to_fd: int, to_path: int, to_length: int
) -> int | Stop:
    start, to_start = call.descriptors.directory(fd), call.descriptors.directory(to_fd)
    name, to_name = _path(call, path, length), _path(call, to_path, to_length)
    call.descriptors.tree.rename(start, name, to_start, to_name)
    return Errno.SUCCESS


@over_files
def path_readlink(
    call: Invocation, fd: int, path: int, length: int, _buffer: int, _buffer_length: int, _used: int
) -> int | Stop:
    start = call.descriptors.directory(fd)
    call.descriptors.tree.lookup(start, _path(call, path, length))
    return Errno.INVAL  # it is there, and there are no links


@over_files
def path_link(call: Invocation, fd: int, *_arguments: int) -> int | Stop:
    """There are no links, whatever the policy says."""
    call.descriptors.directory(fd)
    return Errno.NOTSUP


@over_files
def path_symlink(call: Invocation, _target: int, _target_length: int, fd: int, *_arguments: int) -> int | Stop:
    call.descriptors.directory(fd)
    return Errno.NOTSUP


def _set_times(call: Invocation, behind: object, accessed: int, modified: int, flags: int) -> int:
    if isinstance(behind, BundleFile):
        return Errno.ROFS
    if not isinstance(behind, ScratchFile):
        return Errno.NOTSUP
    if (flags & Fstflag.ATIM and flags & Fstflag.ATIM_NOW) or (flags & Fstflag.MTIM and flags & Fstflag.MTIM_NOW):
        return Errno.INVAL
    now = now_ns(call, REALTIME)
    if flags & (Fstflag.ATIM | Fstflag.ATIM_NOW):
        behind.accessed_ns = accessed if flags & Fstflag.ATIM else now
    if flags & (Fstflag.MTIM | Fstflag.MTIM_NOW):
        behind.modified_ns = modified if flags & Fstflag.MTIM else now
    return Errno.SUCCESS


def _filetype(behind: object) -> int:
    """Standard streams are of no known type: a character device would be taken for a terminal."""
    if isinstance(behind, Directory):
        return Filetype.DIRECTORY
    return Filetype.REGULAR_FILE if isinstance(behind, BundleFile | ScratchFile | LogFile) else Filetype.UNKNOWN


def _filestat(node: Node) -> bytes:
    accessed = modified = size = 0
    if isinstance(node, ScratchFile):
        accessed, modified = node.accessed_ns, node.modified_ns
    if not isinstance(node, Directory):
        size = node.size
    return FILESTAT.pack(0, node.inode, _filetype(node), 1, size, accessed, modified, modified)


FUNCTIONS: dict[str, FileFunction] = {
    "fd_fdstat_get": fd_fdstat_get,
    "fd_fdstat_set_flags": fd_fdstat_set_flags,
    "fd_fdstat_set_rights": fd_fdstat_set_rights,
    "fd_filestat_get": fd_filestat_get,
    "fd_filestat_set_times": fd_filestat_set_times,
    "fd_prestat_get": fd_prestat_get,
    "fd_prestat_dir_name": fd_prestat_dir_name,
    "fd_readdir": fd_readdir,
    "path_create_directory": path_create_directory,
    "path_filestat_get": path_filestat_get,
    "path_filestat_set_times": path_filestat_set_times,
    "path_link": path_link,
    "path_open": path_open,
    "path_readlink": path_readlink,
    "path_remove_directory": path_remove_directory,
    "path_rename": path_rename,
    "path_symlink": path_symlink,
    "path_unlink_file": path_unlink_file,
}

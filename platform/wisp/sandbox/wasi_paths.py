"""WASI preview 1 on paths, over the virtual file system.

What a policy line could grant is a refused capability (`Invocation.refuse`); what is read-only, missing or not offered
is an errno whatever the policy says. Every function demands its rights of the directory that its path begins at.
"""

from __future__ import annotations

from typing import Final

from wisp.sandbox import memory
from wisp.sandbox.clocks import REALTIME, now_ns
from wisp.sandbox.descriptors import DIRECTORY_RIGHTS, FILE_RIGHTS, Open
from wisp.sandbox.filesystem import FileTree
from wisp.sandbox.invocation import Invocation, Stop
from wisp.sandbox.nodes import BundleFile, Directory, Failed, File, Node, ScratchFile, Symlink
from wisp.sandbox.preview1 import ALL_RIGHTS, FILESTAT, Errno, Lookup, Oflag, Right
from wisp.sandbox.resolution import MAX_PATH_BYTES, Place
from wisp.sandbox.wasi_files import OFFERED_FLAGS, filestat, set_times
from wisp.sandbox.wasi_io import FileFunction, over_files

FOLLOW: Final = int(Lookup.SYMLINK_FOLLOW)
WRITE: Final = int(Right.FD_WRITE)
CREAT, DIRECTORY, EXCL, TRUNC = int(Oflag.CREAT), int(Oflag.DIRECTORY), int(Oflag.EXCL), int(Oflag.TRUNC)
OPEN, CREATE, RESIZE = int(Right.PATH_OPEN), int(Right.PATH_CREATE_FILE), int(Right.PATH_FILESTAT_SET_SIZE)


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


def _changing(call: Invocation) -> FileTree:
    """The tree, told the time of the change to come."""
    tree = call.descriptors.tree
    tree.now_ns = now_ns(call, REALTIME)
    return tree


def _looked_up(call: Invocation, fd: int, right: Right, lookup: int, path: int, length: int) -> Node:
    start = call.descriptors.directory(fd, right)
    name = _path(call, path, length)
    # A final slash asks for a directory, so a link before it is followed as on any other system.
    return call.descriptors.tree.lookup(start, name, follow=bool(lookup & FOLLOW) or name.endswith("/"))


@over_files
def path_open(
    call: Invocation,
    fd: int,
    lookup: int,
    path: int,
    length: int,
    oflags: int,
    rights: int,
    inheriting: int,
    flags: int,
    out: int,
) -> int | Stop:
    descriptors = call.descriptors
    needed = OPEN | (CREATE if oflags & CREAT else 0) | (RESIZE if oflags & TRUNC else 0)
    start = descriptors.directory(fd, needed)
    memory.check(call.arena, memory.aligned(out, 4), 4)
    name = _path(call, path, length)
    follow = bool(lookup & FOLLOW) or name.endswith("/")
    writes = bool(rights & WRITE or oflags & (CREAT | TRUNC))
    follow = follow and not (oflags & CREAT and oflags & EXCL)
    place = descriptors.tree.find(start, name, follow=follow, write=writes)
    descriptors.check_room()
    if flags & ~OFFERED_FLAGS:
        return Errno.INVAL
    below = descriptors.require(fd).inheriting
    if rights & ALL_RIGHTS & ~below:
        return Errno.NOTCAPABLE
    node = _open(call, place, oflags, writes=writes, rights=rights)
    opened = Open(node, rights & FILE_RIGHTS, flags=flags)
    if isinstance(node, Directory):
        # Programs ask for all there is, whatever their directory has: they get less, and never more.
        opened.rights, opened.inheriting = rights & DIRECTORY_RIGHTS, inheriting & below
    memory.write_u32(call.arena, out, descriptors.add(opened))
    return Errno.SUCCESS


def _open(call: Invocation, place: Place, oflags: int, *, writes: bool, rights: int) -> Directory | File:
    """What is opened, made or emptied. Raises `Failed` or `Refused`."""
    node = place.node
    if node is None:
        if not oflags & CREAT:
            raise call.descriptors.tree.missing(place.directory, [place.name], write=writes)
        if oflags & DIRECTORY or place.slash:
            raise Failed(Errno.INVAL)
        return _changing(call).create_file(place)
    if oflags & CREAT and oflags & EXCL:
        raise Failed(Errno.EXIST)
    if isinstance(node, Symlink):
        raise Failed(Errno.LOOP)
    if isinstance(node, Directory):
        if writes:
            raise Failed(Errno.ISDIR)
    elif oflags & DIRECTORY:
        raise Failed(Errno.NOTDIR)
    elif isinstance(node, BundleFile):
        if rights & WRITE or oflags & TRUNC:
            raise Failed(Errno.ROFS)
    elif isinstance(node, ScratchFile) and oflags & TRUNC:
        node.resize(0)
        node.modified_ns = now_ns(call, REALTIME)
    return node


@over_files
def path_filestat_get(call: Invocation, fd: int, lookup: int, path: int, length: int, out: int) -> int | Stop:
    memory.check(call.arena, memory.aligned(out, 8), FILESTAT.size)
    node = _looked_up(call, fd, Right.PATH_FILESTAT_GET, lookup, path, length)
    memory.write(call.arena, out, filestat(node))
    return Errno.SUCCESS


@over_files
def path_filestat_set_times(
    call: Invocation, fd: int, lookup: int, path: int, length: int, accessed: int, modified: int, flags: int
) -> int | Stop:
    node = _looked_up(call, fd, Right.PATH_FILESTAT_SET_TIMES, lookup, path, length)
    return set_times(call, node, accessed, modified, flags)


@over_files
def path_create_directory(call: Invocation, fd: int, path: int, length: int) -> int | Stop:
    start = call.descriptors.directory(fd, Right.PATH_CREATE_DIRECTORY)
    _changing(call).make_directory(start, _path(call, path, length))
    return Errno.SUCCESS


@over_files
def path_unlink_file(call: Invocation, fd: int, path: int, length: int) -> int | Stop:
    start = call.descriptors.directory(fd, Right.PATH_UNLINK_FILE)
    _changing(call).remove(start, _path(call, path, length), directory=False)
    return Errno.SUCCESS


@over_files
def path_remove_directory(call: Invocation, fd: int, path: int, length: int) -> int | Stop:
    start = call.descriptors.directory(fd, Right.PATH_REMOVE_DIRECTORY)
    _changing(call).remove(start, _path(call, path, length), directory=True)
    return Errno.SUCCESS


@over_files
def path_rename(
    call: Invocation, fd: int, path: int, length: int, to_fd: int, to_path: int, to_length: int
) -> int | Stop:
    start = call.descriptors.directory(fd, Right.PATH_RENAME_SOURCE)
    to_start = call.descriptors.directory(to_fd, Right.PATH_RENAME_TARGET)
    name, to_name = _path(call, path, length), _path(call, to_path, to_length)
    _changing(call).rename(start, name, to_start, to_name)
    return Errno.SUCCESS


@over_files
def path_readlink(
    call: Invocation, fd: int, path: int, length: int, buffer: int, buffer_length: int, used: int
) -> int | Stop:
    """The target, cut where the buffer ends."""
    memory.check(call.arena, memory.aligned(used, 4), 4)
    memory.check(call.arena, buffer, buffer_length)
    node = _looked_up(call, fd, Right.PATH_READLINK, 0, path, length)
    if not isinstance(node, Symlink):
        return Errno.INVAL
    target = node.target.encode()[:buffer_length]
    memory.write(call.arena, buffer, target)
    memory.write_u32(call.arena, used, len(target))
    return Errno.SUCCESS


@over_files
def path_link(
    call: Invocation, fd: int, lookup: int, path: int, length: int, to_fd: int, to_path: int, to_length: int
) -> int | Stop:
    """A link to what a symbolic link leads to is not offered, as in other runtimes."""
    start = call.descriptors.directory(fd, Right.PATH_LINK_SOURCE)
    to_start = call.descriptors.directory(to_fd, Right.PATH_LINK_TARGET)
    if lookup & FOLLOW:
        return Errno.INVAL
    name, to_name = _path(call, path, length), _path(call, to_path, to_length)
    _changing(call).link(start, name, to_start, to_name)
    return Errno.SUCCESS


@over_files
def path_symlink(call: Invocation, target: int, target_length: int, fd: int, path: int, length: int) -> int | Stop:
    start = call.descriptors.directory(fd, Right.PATH_SYMLINK)
    _changing(call).make_symlink(_path(call, target, target_length), start, _path(call, path, length))
    return Errno.SUCCESS


FUNCTIONS: dict[str, FileFunction] = {
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

"""The operator's directories that a function mounts, packed for sandboxes, which may open no file themselves.

A directory is opened beneath the one that the ceiling names, component by component, and no symbolic link is followed
at any depth. Only regular files are read: each is looked at before it is opened (O_PATH), so that no FIFO, device or
socket ever is, and what was looked at is what is read, whatever takes its name meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from wisp.errors import Unavailable
from wisp.policy.globs import Globs
from wisp.scheduling.bundlecache import BundleSegment

MAX_FILES = 1024
"""That one function's directories may show."""
MAX_ENTRIES = 16_384
"""Names that are looked at, whether a glob lets them through or not."""
MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 32
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NOT_SHOWN = frozenset([errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO])
"""No directory, gone meanwhile, or not this process's to read."""
LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMount:
    """`root`: a directory that the ceiling names; `below`: the names from there to the one that is mounted; `allow`:
    the globs of what is shown."""

    root: str
    below: tuple[str, ...]
    allow: tuple[str, ...]

    @property
    def path(self) -> str:
        return "/".join((self.root, *self.below))


@dataclass(frozen=True, slots=True)
class HostFile:
    """`path`: the number of its mount, and where it lies below it. The rest tells whether it is still the same."""

    path: str
    size_bytes: int
    device: int
    inode: int
    modified_ns: int
    changed_ns: int


@dataclass(slots=True)
class Survey:
    """What the mounts show at present. `spool` takes the files' bytes, one after another; None only looks."""

    spool: int | None
    files: list[HostFile] = field(default_factory=list)
    seen: int = 0
    size_bytes: int = 0

    def note(self, file: HostFile, where: str) -> None:
        self.files.append(file)
        self.size_bytes += file.size_bytes
        if len(self.files) > MAX_FILES or self.size_bytes > MAX_BYTES:
            raise Unavailable(
                f"the host directories that this function mounts, up to {where}, show more than {MAX_FILES} files or "
                f"{MAX_BYTES} bytes; narrow `allow`, or ask the operator for a smaller directory"
            )


def survey(mounts: tuple[HostMount, ...]) -> tuple[HostFile, ...]:
    """Looks, and opens no file. Raises `Unavailable`. Not for an event loop."""
    return tuple(_survey(mounts, Survey(spool=None)).files)


def pack(mounts: tuple[HostMount, ...]) -> tuple[tuple[HostFile, ...], BundleSegment]:
    """What is there, and a segment of it. Raises `Unavailable`, also for a file that shrank meanwhile."""
    spool = os.memfd_create("host files", os.MFD_CLOEXEC)
    try:
        found = _survey(mounts, Survey(spool=spool))
        os.lseek(spool, 0, os.SEEK_SET)
        return tuple(found.files), BundleSegment([(file.path, file.size_bytes, spool) for file in found.files])
    finally:
        os.close(spool)


def _survey(mounts: tuple[HostMount, ...], found: Survey) -> Survey:
    for number, mount in enumerate(mounts):
        try:
            fd = _open_directory(mount)
        except OSError as error:
            raise Unavailable(f"the host directory {mount.path!a} cannot be opened: {error.strerror}") from error
        try:
            _look(fd, mount, f"{number}/", (), Globs(mount.allow), found)
        finally:
            os.close(fd)
    return found


def _open_directory(mount: HostMount) -> int:
    # How the operator's own path leads there, through links or not, is the operator's business; what is below is not.
    fd = os.open(mount.root, DIRECTORY & ~os.O_NOFOLLOW)
    for name in mount.below:
        try:
            below = os.open(name, DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def _look(fd: int, mount: HostMount, prefix: str, names: tuple[str, ...], globs: Globs, found: Survey) -> None:
    for name in _listed(fd, mount, found):
        path = "/".join((*names, name))
        try:
            if globs.allow(path) and _take(fd, name, prefix + path, mount, found):
                continue
            if not globs.lead_below(path) or len(names) >= MAX_DEPTH:
                continue
            below = os.open(name, DIRECTORY, dir_fd=fd)
        except OSError as error:
            if error.errno in NOT_SHOWN:
                continue
            raise Unavailable(f"the host directory {mount.path!a} cannot be read: {error.strerror}") from error
        try:
            _look(below, mount, prefix, (*names, name), globs, found)
        finally:
            os.close(below)


def _listed(fd: int, mount: HostMount, found: Survey) -> Iterator[str]:
    """In one order always; a name that is no UTF-8 could not be asked for."""
    names = []
    with os.scandir(fd) as entries:
        for entry in entries:
            found.seen += 1
            if found.seen > MAX_ENTRIES:
                raise Unavailable(f"the host directory {mount.path!a} has more than {MAX_ENTRIES} entries")
            try:
                entry.name.encode()
            except UnicodeEncodeError:
                continue
            names.append(entry.name)
    yield from sorted(names)


def _take(fd: int, name: str, path: str, mount: HostMount, found: Survey) -> bool:
    """Whether it is a file and was taken. Raises `OSError`."""
    looked = os.open(name, LOOK, dir_fd=fd)
    try:
        status = os.fstat(looked)
        if not stat.S_ISREG(status.st_mode):
            return False
        if not os.access(f"/proc/self/fd/{looked}", os.R_OK, effective_ids=True):
            return False
        file = HostFile(path, status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        found.note(file, mount.path)  # before it is read: the cap holds for what is copied too
        if found.spool is not None:
            _copy(looked, found.spool, file)
    finally:
        os.close(looked)
    return True


def _copy(looked: int, spool: int, file: HostFile) -> None:
    """As many bytes as were there when it was looked at."""
    opened = os.open(f"/proc/self/fd/{looked}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        left = file.size_bytes
        while left:
            copied = os.sendfile(spool, opened, None, left)  # None: from where it stands
            if not copied:
                raise Unavailable(f"a file of the host's directories shrank while it was read: {file.path!a}")
            left -= copied
    finally:
        os.close(opened)

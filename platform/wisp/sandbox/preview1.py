"""The numbers and layouts of WASI preview 1 (`wasi_snapshot_preview1`, legacy/preview1/witx of the WASI repository)."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final

STDIN, STDOUT, STDERR, ROOT = 0, 1, 2, 3
"""`ROOT` is the one preopened directory."""


class Errno(IntEnum):
    SUCCESS = 0
    BADF = 8
    BUSY = 10
    EXIST = 20
    FAULT = 21
    FBIG = 22
    ILSEQ = 25
    INVAL = 28
    ISDIR = 31
    LOOP = 32
    MFILE = 33
    NAMETOOLONG = 37
    NOENT = 44
    NOSPC = 51
    NOSYS = 52
    NOTDIR = 54
    NOTEMPTY = 55
    NOTSOCK = 57
    NOTSUP = 58
    PERM = 63
    ROFS = 69
    SPIPE = 70
    XDEV = 75
    NOTCAPABLE = 76


class Filetype(IntEnum):
    UNKNOWN = 0
    DIRECTORY = 3
    REGULAR_FILE = 4
    SYMBOLIC_LINK = 7


class Right(IntFlag):
    FD_DATASYNC = 1 << 0
    FD_READ = 1 << 1
    FD_SEEK = 1 << 2
    FD_FDSTAT_SET_FLAGS = 1 << 3
    FD_SYNC = 1 << 4
    FD_TELL = 1 << 5
    FD_WRITE = 1 << 6
    FD_ADVISE = 1 << 7
    FD_ALLOCATE = 1 << 8
    PATH_CREATE_DIRECTORY = 1 << 9
    PATH_CREATE_FILE = 1 << 10
    PATH_LINK_SOURCE = 1 << 11
    PATH_LINK_TARGET = 1 << 12
    PATH_OPEN = 1 << 13
    FD_READDIR = 1 << 14
    PATH_READLINK = 1 << 15
    PATH_RENAME_SOURCE = 1 << 16
    PATH_RENAME_TARGET = 1 << 17
    PATH_FILESTAT_GET = 1 << 18
    PATH_FILESTAT_SET_SIZE = 1 << 19
    PATH_FILESTAT_SET_TIMES = 1 << 20
    FD_FILESTAT_GET = 1 << 21
    FD_FILESTAT_SET_SIZE = 1 << 22
    FD_FILESTAT_SET_TIMES = 1 << 23
    PATH_SYMLINK = 1 << 24
    PATH_REMOVE_DIRECTORY = 1 << 25
    PATH_UNLINK_FILE = 1 << 26
    POLL_FD_READWRITE = 1 << 27


ALL_RIGHTS: Final = (1 << 30) - 1


class Lookup(IntFlag):
    SYMLINK_FOLLOW = 1


class Oflag(IntFlag):
    CREAT = 1
    DIRECTORY = 2
    EXCL = 4
    TRUNC = 8


class Fdflag(IntFlag):
    APPEND = 1
    DSYNC = 2
    NONBLOCK = 4
    RSYNC = 8
    SYNC = 16


class Fstflag(IntFlag):
    ATIM = 1
    ATIM_NOW = 2
    MTIM = 4
    MTIM_NOW = 8


class Whence(IntEnum):
    SET = 0
    CUR = 1
    END = 2


FDSTAT: Final = struct.Struct("<BxHxxxxQQ")
"""filetype, flags, rights, rights of what is opened below."""
FILESTAT: Final = struct.Struct("<QQB7xQQQQQ")
"""device, inode, filetype, links, size, access, modification and change time (ns)."""
DIRENT: Final = struct.Struct("<QQIB3x")
"""cookie of the next entry, inode, bytes of the name, filetype; the name follows."""
PRESTAT: Final = struct.Struct("<B3xI")
"""0 for a directory, bytes of its name."""
assert (FDSTAT.size, FILESTAT.size, DIRENT.size, PRESTAT.size) == (24, 64, 24, 8)

"""The open files of one invocation: small numbers for the guest, nodes and positions behind them, never a host file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wisp.sandbox.filesystem import FileTree
from wisp.sandbox.logs import LogBuffer
from wisp.sandbox.nodes import Directory, Failed, File, ScratchFile
from wisp.sandbox.preview1 import ALL_RIGHTS, ROOT, STDERR, STDIN, STDOUT, Errno, Right
from wisp.sandbox.streams import Input, Log, Output

MAX_OPEN: Final = 256
STREAM: Final = int(
    Right.POLL_FD_READWRITE | Right.FD_FDSTAT_SET_FLAGS | Right.FD_FILESTAT_GET | Right.FD_SYNC | Right.FD_DATASYNC
)
STREAM_READ: Final = STREAM | int(Right.FD_READ)
STREAM_WRITE: Final = STREAM | int(Right.FD_WRITE)
FILE_RIGHTS: Final = int(
    Right.FD_DATASYNC
    | Right.FD_READ
    | Right.FD_SEEK
    | Right.FD_FDSTAT_SET_FLAGS
    | Right.FD_SYNC
    | Right.FD_TELL
    | Right.FD_WRITE
    | Right.FD_ADVISE
    | Right.FD_ALLOCATE
    | Right.FD_FILESTAT_GET
    | Right.FD_FILESTAT_SET_SIZE
    | Right.FD_FILESTAT_SET_TIMES
    | Right.POLL_FD_READWRITE
)
DIRECTORY_RIGHTS: Final = ALL_RIGHTS & ~int(
    Right.FD_READ | Right.FD_WRITE | Right.FD_SEEK | Right.FD_TELL | Right.FD_ADVISE | Right.FD_ALLOCATE
    | Right.FD_FILESTAT_SET_SIZE
)  # fmt: skip

Behind = Input | Output | Log | Directory | File


@dataclass(slots=True, eq=False)
class Open:
    """One descriptor. `inheriting`: the most that can be had of what is opened below it, for a directory. `listing`:
    what `fd_readdir` goes through, as it was when it began."""

    behind: Behind
    rights: int
    inheriting: int = 0
    flags: int = 0
    position: int = 0
    preopened: bool = False
    listing: list[tuple[bytes, int, int]] | None = None


class Descriptors:
    """At most `MAX_OPEN`; the lowest free number is the next one's, as programs expect."""

    __slots__ = ("_table", "tree")

    def __init__(self, tree: FileTree, logs: LogBuffer) -> None:
        """Standard input empty, output and error to the log, the root preopened."""
        self.tree = tree
        log = Log(logs)
        self._table: dict[int, Open] = {
            STDIN: Open(Input(), STREAM_READ),
            STDOUT: Open(log, STREAM_WRITE),
            STDERR: Open(log, STREAM_WRITE),
            ROOT: Open(tree.root, DIRECTORY_RIGHTS, ALL_RIGHTS, preopened=True),
        }

    def get(self, fd: int) -> Open | None:
        return self._table.get(fd)

    def require(self, fd: int) -> Open:
        """Raises `Failed`."""
        opened = self._table.get(fd)
        if opened is None:
            raise Failed(Errno.BADF)
        return opened

    def directory(self, fd: int, rights: int) -> Directory:
        """With all of `rights`. Raises `Failed`."""
        opened = self.require(fd)
        if not isinstance(opened.behind, Directory):
            raise Failed(Errno.NOTDIR)
        if int(rights) & ~opened.rights:  # arithmetic on enumerations is ten times as slow
            raise Failed(Errno.NOTCAPABLE)
        return opened.behind

    def set_stream(self, fd: int, stream: Input | Output) -> None:
        self._table[fd].behind = stream

    def check_room(self) -> None:
        """Raises `Failed` if no more can be opened."""
        if len(self._table) >= MAX_OPEN:
            raise Failed(Errno.MFILE)

    def add(self, opened: Open) -> int:
        self.check_room()
        fd = next(fd for fd in range(MAX_OPEN) if fd not in self._table)
        self._table[fd] = opened
        if isinstance(opened.behind, ScratchFile):
            opened.behind.opened += 1
        return fd

    def close(self, fd: int) -> None:
        behind = self.require(fd).behind
        del self._table[fd]
        if isinstance(behind, ScratchFile):
            behind.opened -= 1
            behind.release()

    def renumber(self, fd: int, to: int) -> None:
        """Moves an open descriptor over another open one, which is closed."""
        opened = self.require(fd)
        self.require(to)
        if fd != to:
            self.close(to)
            self._table[to] = self._table.pop(fd)
            assert self._table[to] is opened

"""WASI preview 1 on open descriptors, whatever is behind them: read, write, seek, size, close.

Functions take the invocation and raw arguments, unsigned, and answer an errno.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Final

from wisp.sandbox import memory
from wisp.sandbox.clocks import REALTIME, now_ns
from wisp.sandbox.descriptors import Open
from wisp.sandbox.filesystem import Refused
from wisp.sandbox.invocation import Invocation, Stop
from wisp.sandbox.nodes import BundleFile, Failed, LogFile, ScratchFile
from wisp.sandbox.preview1 import Errno, Fdflag, Right, Whence
from wisp.sandbox.streams import Input, Log, Output
from wisp.wire.outcome import Outcome

MAX_IOVECS: Final = 1024
MAX_OFFSET: Final = 2**63 - 1
MAX_ADVICE: Final = 5
APPEND: Final = int(Fdflag.APPEND)
OFFSETS: Final = int(
    Right.FD_READ | Right.FD_WRITE | Right.FD_SEEK | Right.FD_TELL | Right.FD_ADVISE | Right.FD_ALLOCATE
    | Right.FD_FILESTAT_SET_SIZE
)  # fmt: skip
"""Rights to a file's content, which a directory never has."""
READ, WRITE, SEEK, TELL = int(Right.FD_READ), int(Right.FD_WRITE), int(Right.FD_SEEK), int(Right.FD_TELL)

_IOVEC = struct.Struct("<II")
FileFunction = Callable[..., "int | Stop"]


def over_files(function: FileFunction) -> FileFunction:
    """Makes errnos of failures, and of refusals what the policy says."""

    @functools.wraps(function)
    def answered(call: Invocation, *arguments: int) -> int | Stop:
        try:
            return function(call, *arguments)
        except Failed as failed:
            return failed.errno
        except Refused as refused:
            return call.refuse(refused.what, refused.allow) or Errno.NOTCAPABLE

    return answered


def _iovecs(call: Invocation, pointer: int, count: int) -> list[tuple[int, int]]:
    """Checked (pointer, length) pairs. Raises `BadPointer` and `Failed`."""
    if count > MAX_IOVECS:
        raise Failed(Errno.INVAL)
    if count == 1:  # nearly always
        start, length = _IOVEC.unpack(memory.read(call.arena, memory.aligned(pointer, 4), _IOVEC.size))
        memory.check(call.arena, start, length)
        return [(start, length)]
    numbers = memory.read_u32s(call.arena, memory.aligned(pointer, 4), 2 * count)
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    for start, length in pairs:
        memory.check(call.arena, start, length)
    return pairs


def granted(call: Invocation, fd: int, right: int) -> Open:
    """Raises `Failed` for a descriptor that is not open, or not for this."""
    opened = call.descriptors.require(fd)
    right = int(right)  # arithmetic on enumerations is ten times as slow
    if not opened.rights & right:
        if right & (SEEK | TELL) and _is_stream(opened):
            raise Failed(Errno.SPIPE)
        # Not open for reading or writing is a bad descriptor to every C library.
        raise Failed(Errno.BADF if right & OFFSETS else Errno.NOTCAPABLE)
    return opened


def _is_stream(opened: Open) -> bool:
    return isinstance(opened.behind, (Input, Output, Log))


@over_files
def fd_write(call: Invocation, fd: int, iovecs: int, count: int, written: int) -> int | Stop:
    opened = granted(call, fd, WRITE)
    at = None
    if isinstance(opened.behind, ScratchFile):
        at = opened.behind.size if opened.flags & APPEND else opened.position
    total = _write(call, opened, iovecs, count, written, at)
    if isinstance(total, Stop):
        return total
    if isinstance(opened.behind, (ScratchFile, LogFile)):
        opened.position = total + (opened.position if at is None else at)
    return Errno.SUCCESS


@over_files
def fd_pwrite(call: Invocation, fd: int, iovecs: int, count: int, offset: int, written: int) -> int | Stop:
    opened = granted(call, fd, WRITE)
    if _is_stream(opened):
        return Errno.SPIPE
    if offset > MAX_OFFSET:
        return Errno.INVAL
    total = _write(call, opened, iovecs, count, written, offset)
    return total if isinstance(total, Stop) else Errno.SUCCESS


def _write(call: Invocation, opened: Open, iovecs: int, count: int, written: int, at: int | None) -> int | Stop:
    """Bytes taken. Raises `Failed` if there is no room for the first of them."""
    memory.check(call.arena, memory.aligned(written, 4), 4)
    total = 0
    for start, length in _iovecs(call, iovecs, count):
        taken = _take(call, opened, start, length, 0 if at is None else at + total, begun=total > 0)
        if isinstance(taken, Stop):
            return taken
        total += taken
        if taken < length:
            break
    memory.write_u32(call.arena, written, min(total, 2**32 - 1))
    return total


def _take(call: Invocation, opened: Open, start: int, length: int, at: int, *, begun: bool) -> int | Stop:
    """One piece of guest memory to whatever is open."""
    behind = opened.behind
    if isinstance(behind, Output):
        if len(behind.data) + length > behind.limit_bytes:
            return call.stop(
                Outcome.RESPONSE_TOO_LARGE,
                f"more than {behind.limit_bytes} bytes on standard output; limits.response_body is "
                f"{call.link.response_bytes}",
            )
        behind.data += memory.view(call.arena, start, length)
        return length
    if isinstance(behind, (Log, LogFile)):
        kept = memory.read(call.arena, start, min(length, call.logs.room))
        if isinstance(behind, LogFile):
            return behind.write(call.logs, kept, length)
        call.logs.write(kept)
        call.logs.note_dropped(length - len(kept))
        return length
    if isinstance(behind, ScratchFile):
        room = behind.room_at(at)
        if not room and length and not begun:
            raise Failed(Errno.NOSPC)
        taken = min(length, room)
        if taken:
            behind.modified_ns = now_ns(call, REALTIME)
            behind.write(at, memory.read(call.arena, start, taken))
        return taken
    raise Failed(Errno.BADF)


@over_files
def fd_read(call: Invocation, fd: int, iovecs: int, count: int, read: int) -> int | Stop:
    opened = granted(call, fd, READ)
    opened.position += _read(call, opened, iovecs, count, read, opened.position)
    return Errno.SUCCESS


@over_files
def fd_pread(call: Invocation, fd: int, iovecs: int, count: int, offset: int, read: int) -> int | Stop:
    opened = granted(call, fd, READ)
    if _is_stream(opened):
        return Errno.SPIPE
    _read(call, opened, iovecs, count, read, offset)
    return Errno.SUCCESS


def _read(call: Invocation, opened: Open, iovecs: int, count: int, read: int, position: int) -> int:
    memory.check(call.arena, memory.aligned(read, 4), 4)
    behind, total = opened.behind, 0
    for start, length in _iovecs(call, iovecs, count):
        if isinstance(behind, Input):
            piece = behind.take(length)
            got = len(piece)
            if got:
                memory.view(call.arena, start, got)[:] = piece
        elif isinstance(behind, (BundleFile, ScratchFile, LogFile)):
            got = behind.copy_to(memory.check(call.arena, start, length), position + total, length)
        else:
            raise Failed(Errno.BADF)
        total += got
        if got < length:
            break
    memory.write_u32(call.arena, read, total)
    return total


@over_files
def fd_close(call: Invocation, fd: int) -> int | Stop:
    call.descriptors.close(fd)
    return Errno.SUCCESS


@over_files
def fd_renumber(call: Invocation, fd: int, to: int) -> int | Stop:
    call.descriptors.renumber(fd, to)
    return Errno.SUCCESS


@over_files
def fd_seek(call: Invocation, fd: int, offset: int, whence: int, out: int) -> int | Stop:
    # Where one is may be asked with the right to tell alone.
    opened = granted(call, fd, SEEK | TELL if offset == 0 and whence == Whence.CUR else SEEK)
    behind = opened.behind
    if not isinstance(behind, (BundleFile, ScratchFile, LogFile)) or whence > Whence.END:
        return Errno.INVAL
    origin = (0, opened.position, behind.size)[whence]
    target = origin + (offset - 2**64 if offset > MAX_OFFSET else offset)
    if not 0 <= target <= MAX_OFFSET:
        return Errno.INVAL
    memory.write_u64(call.arena, memory.aligned(out, 8), target)
    opened.position = target
    return Errno.SUCCESS


@over_files
def fd_tell(call: Invocation, fd: int, out: int) -> int | Stop:
    memory.write_u64(call.arena, memory.aligned(out, 8), granted(call, fd, TELL).position)
    return Errno.SUCCESS


@over_files
def fd_advise(call: Invocation, fd: int, offset: int, length: int, advice: int) -> int | Stop:
    if _is_stream(call.descriptors.require(fd)):
        return Errno.SPIPE
    granted(call, fd, Right.FD_ADVISE)
    return Errno.SUCCESS if advice <= MAX_ADVICE and offset + length <= MAX_OFFSET else Errno.INVAL


@over_files
def fd_sync(call: Invocation, fd: int) -> int | Stop:
    granted(call, fd, Right.FD_SYNC)
    return Errno.SUCCESS


@over_files
def fd_datasync(call: Invocation, fd: int) -> int | Stop:
    granted(call, fd, Right.FD_DATASYNC)
    return Errno.SUCCESS


@over_files
def fd_filestat_set_size(call: Invocation, fd: int, size: int) -> int | Stop:
    behind = granted(call, fd, Right.FD_FILESTAT_SET_SIZE).behind
    if not isinstance(behind, ScratchFile):
        return Errno.INVAL
    if size > MAX_OFFSET:
        return Errno.INVAL
    behind.resize(size)
    behind.modified_ns = now_ns(call, REALTIME)
    return Errno.SUCCESS


@over_files
def fd_allocate(call: Invocation, fd: int, offset: int, length: int) -> int | Stop:
    behind = granted(call, fd, Right.FD_ALLOCATE).behind
    if not isinstance(behind, ScratchFile) or not length:
        return Errno.INVAL
    if offset + length > MAX_OFFSET:
        return Errno.FBIG
    if offset + length > behind.size:
        behind.resize(offset + length)
    return Errno.SUCCESS


FUNCTIONS: dict[str, FileFunction] = {
    "fd_advise": fd_advise,
    "fd_allocate": fd_allocate,
    "fd_close": fd_close,
    "fd_datasync": fd_datasync,
    "fd_filestat_set_size": fd_filestat_set_size,
    "fd_pread": fd_pread,
    "fd_pwrite": fd_pwrite,
    "fd_read": fd_read,
    "fd_renumber": fd_renumber,
    "fd_seek": fd_seek,
    "fd_sync": fd_sync,
    "fd_tell": fd_tell,
    "fd_write": fd_write,
}

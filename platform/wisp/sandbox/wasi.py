"""WASI preview 1 as wisp gives it: no files, but all that a program's runtime asks for on its way.

Signatures and errnos follow the preview 1 witx (`wasi_snapshot_preview1`). Standard input is empty, standard output and
error go to the bounded log, time and randomness are what the grants say. All 46 functions are there, so that a
module which merely mentions one still links; those on files find no descriptor, sockets answer ENOSYS. Functions take
raw arguments, unsigned.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Callable
from enum import IntEnum

from wisp.sandbox import memory
from wisp.sandbox.invocation import Invocation, Stop
from wisp.wire.outcome import Outcome

MAX_IOVECS = 1024
MAX_SUBSCRIPTIONS = 1024
CHUNK_BYTES = 64 * 1024
"""Work on guest-sized ranges stops at the deadline between chunks of this size."""
COARSE_NS = 1_000_000
IOVEC_BYTES = 8
SUBSCRIPTION_BYTES, EVENT_BYTES = 48, 32
STDIN, STDOUT, STDERR = 0, 1, 2
FILETYPE_CHARACTER_DEVICE = 2
RIGHT_FD_READ, RIGHT_FD_WRITE = 1 << 1, 1 << 6
EVENT_CLOCK = 0
CLOCK_ABSTIME = 1
REALTIME, MONOTONIC, PROCESS_CPUTIME, THREAD_CPUTIME = range(4)

_EVENT = struct.Struct("<QHB5xQH6x")
_CLOCK_SUBSCRIPTION = struct.Struct("<QB7xI4xQQH6x")
assert _EVENT.size == EVENT_BYTES
assert _CLOCK_SUBSCRIPTION.size == SUBSCRIPTION_BYTES


class Errno(IntEnum):
    SUCCESS = 0
    BADF = 8
    FAULT = 21
    INVAL = 28
    NOSYS = 52
    NOTSUP = 58
    SPIPE = 70


FAULT = Errno.FAULT
"""What a bad pointer answers."""


def _strings(call: Invocation, items: list[bytes], pointers: int, buffer: int) -> int:
    """Writes NUL-terminated strings and the array of pointers to them (args_get, environ_get)."""
    packed = b"".join(items)
    addresses, at = [], buffer
    for item in items:
        addresses.append(at)
        at += len(item)
    memory.check(call.arena, buffer, len(packed))
    memory.write(call.arena, memory.aligned(pointers, 4), struct.pack(f"<{len(items)}I", *addresses))
    memory.write(call.arena, buffer, packed)
    return Errno.SUCCESS


def _sizes(call: Invocation, items: list[bytes], count: int, size: int) -> int:
    memory.check(call.arena, memory.aligned(size, 4), 4)
    memory.write_u32(call.arena, memory.aligned(count, 4), len(items))
    memory.write_u32(call.arena, size, sum(map(len, items)))
    return Errno.SUCCESS


def _arguments(_call: Invocation) -> list[bytes]:
    return [b"function\0"]


def _environment(call: Invocation) -> list[bytes]:
    return [f"{name}={value}\0".encode() for name, value in call.link.environment]


def args_get(call: Invocation, pointers: int, buffer: int) -> int:
    return _strings(call, _arguments(call), pointers, buffer)


def args_sizes_get(call: Invocation, count: int, size: int) -> int:
    return _sizes(call, _arguments(call), count, size)


def environ_get(call: Invocation, pointers: int, buffer: int) -> int:
    return _strings(call, _environment(call), pointers, buffer)


def environ_sizes_get(call: Invocation, count: int, size: int) -> int:
    return _sizes(call, _environment(call), count, size)


def now_ns(call: Invocation, clock: int) -> int:
    """What the guest's clock shows. Other than wall time counts from the invocation's start: the host's own is not
    the guest's to know. A frozen clock shows the start for ever; a coarse one moves in steps."""
    elapsed = 0 if call.link.clock == "frozen" else time.monotonic_ns() - call.started_ns
    value = call.started_real_ns + elapsed if clock == REALTIME else elapsed
    return value - value % COARSE_NS if call.link.clock == "coarse" else value


def clock_res_get(call: Invocation, clock: int, out: int) -> int:
    if clock > THREAD_CPUTIME:
        return Errno.INVAL
    memory.write_u64(call.arena, memory.aligned(out, 8), 1 if call.link.clock == "real" else COARSE_NS)
    return Errno.SUCCESS


def clock_time_get(call: Invocation, clock: int, _precision: int, out: int) -> int:
    if clock > THREAD_CPUTIME:
        return Errno.INVAL
    memory.write_u64(call.arena, memory.aligned(out, 8), now_ns(call, clock))
    return Errno.SUCCESS


def _iovecs(call: Invocation, pointer: int, count: int) -> list[tuple[int, int]]:
    """Checked (pointer, length) pairs. Raises `BadPointer`; the caller has bounded `count`."""
    numbers = memory.read_u32s(call.arena, memory.aligned(pointer, 4), 2 * count)
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    for start, length in pairs:
        memory.check(call.arena, start, length)
    return pairs


def fd_write(call: Invocation, fd: int, iovecs: int, count: int, written: int) -> int:
    if fd not in (STDOUT, STDERR):
        return Errno.BADF
    if count > MAX_IOVECS:
        return Errno.INVAL
    memory.check(call.arena, memory.aligned(written, 4), 4)
    total = 0
    for start, length in _iovecs(call, iovecs, count):
        kept = min(length, call.logs.room)
        if kept:
            call.logs.write(memory.read(call.arena, start, kept))
        call.logs.note_dropped(length - kept)
        total += length
    memory.write_u32(call.arena, written, min(total, 2**32 - 1))
    return Errno.SUCCESS


def fd_read(call: Invocation, fd: int, iovecs: int, count: int, read: int) -> int:
    if fd != STDIN:
        return Errno.BADF
    if count > MAX_IOVECS:
        return Errno.INVAL
    _iovecs(call, iovecs, count)
    memory.write_u32(call.arena, memory.aligned(read, 4), 0)
    return Errno.SUCCESS


def fd_close(_call: Invocation, fd: int) -> int:
    return Errno.SUCCESS if fd <= STDERR else Errno.BADF


def fd_seek(_call: Invocation, fd: int, _offset: int, _whence: int, _out: int) -> int:
    return Errno.SPIPE if fd <= STDERR else Errno.BADF


def fd_tell(_call: Invocation, fd: int, _out: int) -> int:
    return Errno.SPIPE if fd <= STDERR else Errno.BADF


def fd_fdstat_get(call: Invocation, fd: int, out: int) -> int:
    if fd > STDERR:
        return Errno.BADF
    rights = RIGHT_FD_READ if fd == STDIN else RIGHT_FD_WRITE
    stat = struct.pack("<BBHIQQ", FILETYPE_CHARACTER_DEVICE, 0, 0, 0, rights, 0)
    memory.write(call.arena, memory.aligned(out, 8), stat)
    return Errno.SUCCESS


def fd_fdstat_set_flags(_call: Invocation, fd: int, _flags: int) -> int:
    return Errno.SUCCESS if fd <= STDERR else Errno.BADF


def fd_filestat_get(call: Invocation, fd: int, out: int) -> int:
    if fd > STDERR:
        return Errno.BADF
    stat = struct.pack("<QQB7xQQQQQ", 0, fd, FILETYPE_CHARACTER_DEVICE, 1, 0, 0, 0, 0)
    memory.write(call.arena, memory.aligned(out, 8), stat)
    return Errno.SUCCESS


def no_descriptor(_call: Invocation, *_arguments: int) -> int:
    """For functions on directories and preopens: there are none, so every descriptor is a bad one."""
    return Errno.BADF


def not_offered(_call: Invocation, *_arguments: int) -> int:
    return Errno.NOSYS


def random_get(call: Invocation, buffer: int, length: int) -> int | Stop:
    memory.check(call.arena, buffer, length)
    for at in range(0, length, CHUNK_BYTES):
        size = min(CHUNK_BYTES, length - at)
        if call.link.random == "frozen":
            chunk = hashlib.shake_128(f"wisp {call.random_draws}".encode()).digest(size)
            call.random_draws += 1
        else:
            chunk = os.urandom(size)
        memory.write(call.arena, buffer + at, chunk)
        if time.monotonic_ns() > call.deadline_ns:
            return call.stop(Outcome.DEADLINE_EXCEEDED, "the deadline passed inside random_get")
    return Errno.SUCCESS


def sched_yield(_call: Invocation) -> int:
    return Errno.SUCCESS


def poll_oneoff(call: Invocation, subscriptions: int, events: int, count: int, out: int) -> int | Stop:
    """Sleeps until the earliest clock subscription, never past the deadline; standard descriptors are always ready."""
    if count == 0 or count > MAX_SUBSCRIPTIONS:
        return Errno.INVAL
    memory.check(call.arena, memory.aligned(events, 8), EVENT_BYTES * count)
    memory.check(call.arena, memory.aligned(out, 4), 4)
    asked = memory.read(call.arena, memory.aligned(subscriptions, 8), SUBSCRIPTION_BYTES * count)
    ready: list[tuple[int, int, int]] = []  # user data, errno, event type
    waits: list[tuple[int, int]] = []  # ns from now, user data
    for user, kind, clock, timeout, _precision, flags in _CLOCK_SUBSCRIPTION.iter_unpack(asked):
        if kind != EVENT_CLOCK:
            fd = clock  # the same four bytes
            ready.append((user, Errno.SUCCESS if fd <= STDERR else Errno.BADF, kind))
        elif clock not in (REALTIME, MONOTONIC):
            ready.append((user, Errno.NOTSUP, EVENT_CLOCK))
        else:
            waits.append((timeout - now_ns(call, clock) if flags & CLOCK_ABSTIME else timeout, user))
    if not ready:
        soonest = max(min(wait for wait, _ in waits), 0)
        left = call.deadline_ns - time.monotonic_ns()
        time.sleep(max(min(soonest, left), 0) / 1e9)
        if soonest > left:
            return call.stop(Outcome.DEADLINE_EXCEEDED, "the deadline passed inside poll_oneoff")
        ready = [(user, Errno.SUCCESS, EVENT_CLOCK) for wait, user in waits if wait <= soonest]
    packed = b"".join(_EVENT.pack(user, errno, kind, 0, 0) for user, errno, kind in ready)
    memory.write(call.arena, events, packed)
    memory.write_u32(call.arena, out, len(ready))
    return Errno.SUCCESS


def proc_exit(call: Invocation, code: int) -> Stop:
    return call.exit(code)


FUNCTIONS: dict[str, Callable[..., int | Stop]] = {
    "args_get": args_get,
    "args_sizes_get": args_sizes_get,
    "environ_get": environ_get,
    "environ_sizes_get": environ_sizes_get,
    "clock_res_get": clock_res_get,
    "clock_time_get": clock_time_get,
    "fd_advise": no_descriptor,
    "fd_allocate": no_descriptor,
    "fd_close": fd_close,
    "fd_datasync": no_descriptor,
    "fd_fdstat_get": fd_fdstat_get,
    "fd_fdstat_set_flags": fd_fdstat_set_flags,
    "fd_fdstat_set_rights": no_descriptor,
    "fd_filestat_get": fd_filestat_get,
    "fd_filestat_set_size": no_descriptor,
    "fd_filestat_set_times": no_descriptor,
    "fd_pread": no_descriptor,
    "fd_prestat_get": no_descriptor,
    "fd_prestat_dir_name": no_descriptor,
    "fd_pwrite": no_descriptor,
    "fd_read": fd_read,
    "fd_readdir": no_descriptor,
    "fd_renumber": no_descriptor,
    "fd_seek": fd_seek,
    "fd_sync": no_descriptor,
    "fd_tell": fd_tell,
    "fd_write": fd_write,
    "path_create_directory": no_descriptor,
    "path_filestat_get": no_descriptor,
    "path_filestat_set_times": no_descriptor,
    "path_link": no_descriptor,
    "path_open": no_descriptor,
    "path_readlink": no_descriptor,
    "path_remove_directory": no_descriptor,
    "path_rename": no_descriptor,
    "path_symlink": no_descriptor,
    "path_unlink_file": no_descriptor,
    "poll_oneoff": poll_oneoff,
    "proc_exit": proc_exit,
    "proc_raise": not_offered,
    "random_get": random_get,
    "sched_yield": sched_yield,
    "sock_accept": not_offered,
    "sock_recv": not_offered,
    "sock_send": not_offered,
    "sock_shutdown": not_offered,
}

"""WASI preview 1 as wisp gives it: arguments, environment, clocks, randomness and waiting here, files beside it.

Signatures and errnos follow the preview 1 witx (`wasi_snapshot_preview1`). Time and randomness are what the grants say,
descriptors lead into the virtual file system (`wasi_io`, `wasi_files`, `wasi_paths`). All 46 functions are there, so
that a module which merely mentions one still links; no descriptor is ever a socket. Functions take raw arguments,
unsigned.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Callable
from itertools import accumulate

from wisp.sandbox import memory, wasi_files, wasi_io, wasi_paths
from wisp.sandbox.clocks import COARSE_NS as COARSE_NS
from wisp.sandbox.clocks import MONOTONIC, REALTIME, THREAD_CPUTIME, now_ns
from wisp.sandbox.invocation import Invocation, Stop
from wisp.sandbox.preview1 import Errno as Errno
from wisp.sandbox.streams import Input
from wisp.sandbox.wasi_io import MAX_IOVECS as MAX_IOVECS
from wisp.wire.outcome import Outcome

MAX_SUBSCRIPTIONS = 1024
CHUNK_BYTES = 64 * 1024
"""Work on guest-sized ranges stops at the deadline between chunks of this size."""
SUBSCRIPTION_BYTES, EVENT_BYTES = 48, 32
EVENT_CLOCK = 0
CLOCK_ABSTIME = 1

_EVENT = struct.Struct("<QHB5xQH6x")
_CLOCK_SUBSCRIPTION = struct.Struct("<QB7xI4xQQH6x")
assert _EVENT.size == EVENT_BYTES
assert _CLOCK_SUBSCRIPTION.size == SUBSCRIPTION_BYTES


SUCCESS = int(Errno.SUCCESS)
FAULT = Errno.FAULT
"""What a bad pointer answers."""


def _strings(call: Invocation, items: list[bytes], pointers: int, buffer: int) -> int:
    """Writes NUL-terminated strings and the array of pointers to them (args_get, environ_get)."""
    packed, arena = b"".join(items), call.arena
    memory.check(arena, buffer, len(packed))
    *addresses, _end = accumulate(map(len, items), initial=buffer)
    memory.write(arena, memory.aligned(pointers, 4), struct.pack(f"<{len(addresses)}I", *addresses))
    memory.write(arena, buffer, packed)
    return SUCCESS


def _sizes(call: Invocation, items: list[bytes], count: int, size: int) -> int:
    arena = call.arena
    memory.check(arena, memory.aligned(size, 4), 4)
    memory.write_u32(arena, memory.aligned(count, 4), len(items))
    memory.write_u32(arena, size, sum(map(len, items)))
    return SUCCESS


def _environment(call: Invocation) -> list[bytes]:
    if call.environment is None:
        call.environment = [f"{name}={value}\0".encode() for name, value in call.link.environment]
    return call.environment


def args_get(call: Invocation, pointers: int, buffer: int) -> int:
    return _strings(call, call.arguments, pointers, buffer)


def args_sizes_get(call: Invocation, count: int, size: int) -> int:
    return _sizes(call, call.arguments, count, size)


def environ_get(call: Invocation, pointers: int, buffer: int) -> int:
    return _strings(call, _environment(call), pointers, buffer)


def environ_sizes_get(call: Invocation, count: int, size: int) -> int:
    return _sizes(call, _environment(call), count, size)


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


def not_offered(_call: Invocation, *_arguments: int) -> int:
    return Errno.NOSYS


def on_no_socket(call: Invocation, fd: int, *_arguments: int) -> int:
    return Errno.BADF if call.descriptors.get(fd) is None else Errno.NOTSOCK


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
    """Sleeps until the earliest clock subscription, never past the deadline; open descriptors are always ready."""
    if count == 0 or count > MAX_SUBSCRIPTIONS:
        return Errno.INVAL
    memory.check(call.arena, memory.aligned(events, 8), EVENT_BYTES * count)
    memory.check(call.arena, memory.aligned(out, 4), 4)
    asked = memory.read(call.arena, memory.aligned(subscriptions, 8), SUBSCRIPTION_BYTES * count)
    ready: list[tuple[int, int, int, int]] = []  # user data, errno, event type, bytes to be read
    waits: list[tuple[int, int]] = []  # ns from now, user data
    for user, kind, clock, timeout, _precision, flags in _CLOCK_SUBSCRIPTION.iter_unpack(asked):
        if kind != EVENT_CLOCK:
            opened = call.descriptors.get(clock)  # the same four bytes
            left = opened.behind.left if opened is not None and isinstance(opened.behind, Input) else 0
            ready.append((user, Errno.BADF if opened is None else Errno.SUCCESS, kind, left))
        elif clock not in (REALTIME, MONOTONIC):
            ready.append((user, Errno.NOTSUP, EVENT_CLOCK, 0))
        else:
            waits.append((timeout - now_ns(call, clock) if flags & CLOCK_ABSTIME else timeout, user))
    if not ready:
        soonest = max(min(wait for wait, _ in waits), 0)
        left = call.deadline_ns - time.monotonic_ns()
        time.sleep(max(min(soonest, left), 0) / 1e9)
        if soonest > left:
            return call.stop(Outcome.DEADLINE_EXCEEDED, "the deadline passed inside poll_oneoff")
        ready = [(user, Errno.SUCCESS, EVENT_CLOCK, 0) for wait, user in waits if wait <= soonest]
    packed = b"".join(_EVENT.pack(user, errno, kind, size, 0) for user, errno, kind, size in ready)
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
    **wasi_io.FUNCTIONS,
    **wasi_files.FUNCTIONS,
    **wasi_paths.FUNCTIONS,
    "poll_oneoff": poll_oneoff,
    "proc_exit": proc_exit,
    "proc_raise": not_offered,
    "random_get": random_get,
    "sched_yield": sched_yield,
    "sock_accept": on_no_socket,
    "sock_recv": on_no_socket,
    "sock_send": on_no_socket,
    "sock_shutdown": on_no_socket,
}

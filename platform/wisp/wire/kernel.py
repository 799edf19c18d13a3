"""The kernel's calls that Python's library does not make, as bare ctypes: the platform's one way to the kernel.

Each raises `OSError` with the call's name. Numbers are Linux's ABI, for x86-64 and 64-bit ARM; elsewhere the calls that
need one answer ENOSYS, as an older kernel would. See prctl(2), capabilities(7), unshare(2), landlock(7), seccomp(2),
sched_setattr(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_KEEPCAPS: Final = 8
PR_CAPBSET_DROP: Final = 24
PR_SET_SECUREBITS: Final = 28
PR_SET_NO_NEW_PRIVS: Final = 38
PR_GET_NO_NEW_PRIVS: Final = 39
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x80000

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000

CAP_KILL: Final = 5
CAP_SETPCAP: Final = 8
CAP_SYS_ADMIN: Final = 21
CAP_SYS_NICE: Final = 23
CAPABILITY_VERSION_3: Final = 0x20080522

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_RULE_PATH_BENEATH: Final = 1
LANDLOCK_ACCESS_FS_READ_FILE: Final = 1 << 2
"""The same on every architecture, as for all calls since 5.1."""
LANDLOCK_CREATE_RULESET_VERSION: Final = 1
SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_TSYNC: Final = 1
SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
SCHED_ATTR: Final = struct.Struct("=IIQiIQQQ")
"""Its first form: size, policy, flags, niceness, priority, runtime, deadline, period."""
SCHED_FLAG_KEEP_POLICY: Final = 8
MACHINE: Final = os.uname().machine

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _checked(result: int, name: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def prctl(option: int, *arguments: int) -> int:
    four = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(_libc.prctl(ctypes.c_int(option), *four), f"prctl {option}")


def set_slice(slice_ns: int, thread: int = 0) -> None:
    """Of that thread, or the calling one, and of what it starts from here on; policy and niceness stay what they are.
    Linux before 6.12 takes no notice."""
    niceness = os.getpriority(os.PRIO_PROCESS, thread)
    attributes = SCHED_ATTR.pack(SCHED_ATTR.size, os.SCHED_OTHER, SCHED_FLAG_KEEP_POLICY, niceness, 0, slice_ns, 0, 0)
    number = ctypes.c_long(SCHED_SETATTR.get(MACHINE, -1))
    _checked(_syscall(number, ctypes.c_long(thread), attributes, ctypes.c_ulong(0)), "sched_setattr")


def unshare(flags: int) -> None:
    """New namespaces for the calling thread; CLONE_NEWUSER wants it to be the only one."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str | None, target: str, flags: int) -> None:
    """See mount(2); no file system type, no data."""
    _checked(
        _libc.mount(
            None if source is None else os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None
        ),
        "mount",
    )


def capabilities() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of the calling thread, as bit masks."""
    header = ctypes.create_string_buffer(struct.pack("<Ii", CAPABILITY_VERSION_3, 0), 8)
    data = ctypes.create_string_buffer(24)
    _checked(_libc.capget(header, data), "capget")
    low, high = struct.unpack("<3I", data.raw[:12]), struct.unpack("<3I", data.raw[12:])
    effective, permitted, inheritable = (a | b << 32 for a, b in zip(low, high, strict=True))
    return effective, permitted, inheritable


def set_capabilities(effective: int, permitted: int) -> None:
    """Nothing is inheritable."""
    header = ctypes.create_string_buffer(struct.pack("<Ii", CAPABILITY_VERSION_3, 0), 8)
    words = [(mask >> shift) & 0xFFFFFFFF for shift in (0, 32) for mask in (effective, permitted, 0)]
    _checked(_libc.capset(header, ctypes.create_string_buffer(struct.pack("<6I", *words), 24)), "capset")


def landlock_abi() -> int:
    """From 1. Raises `OSError` where the kernel has no Landlock, or was started without it."""
    nothing, version = ctypes.c_void_p(None), ctypes.c_uint(LANDLOCK_CREATE_RULESET_VERSION)
    number = ctypes.c_long(LANDLOCK_CREATE_RULESET)
    return _checked(int(_syscall(number, nothing, ctypes.c_size_t(0), version)), "landlock_create_ruleset")


def landlock_forbid(files: int, network: int, scope: int, readable: int | None = None) -> None:
    """Forbids these rights to the calling thread and those that it starts, without exception but one: files below the
    directory `readable` can still be opened for reading. `network` needs ABI 4, `scope` ABI 6; 0 is right below. Needs
    no_new_privs."""
    attributes = struct.pack("<QQQ", files, network, scope)
    # An older kernel refuses a structure that is longer than what it knows, unless the rest is zero.
    ruleset = _checked(
        int(
            _syscall(
                ctypes.c_long(LANDLOCK_CREATE_RULESET),
                ctypes.create_string_buffer(attributes, len(attributes)),
                ctypes.c_size_t(len(attributes)),
                ctypes.c_uint(0),
            )
        ),
        "landlock_create_ruleset",
    )
    try:
        if readable is not None:
            beneath = struct.pack("<Qi", LANDLOCK_ACCESS_FS_READ_FILE, readable)
            _checked(
                int(
                    _syscall(
                        ctypes.c_long(LANDLOCK_ADD_RULE),
                        ctypes.c_int(ruleset),
                        ctypes.c_uint(LANDLOCK_RULE_PATH_BENEATH),
                        ctypes.create_string_buffer(beneath, len(beneath)),
                        ctypes.c_uint(0),
                    )
                ),
                "landlock_add_rule",
            )
        number = ctypes.c_long(LANDLOCK_RESTRICT_SELF)
        _checked(int(_syscall(number, ctypes.c_int(ruleset), ctypes.c_uint(0))), "landlock_restrict_self")
    finally:
        os.close(ruleset)


class _Program(ctypes.Structure):
    """struct sock_fprog of <linux/filter.h>."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install_filter(program: bytes) -> None:
    """A seccomp filter in all threads of this process. Needs no_new_privs."""
    number = SECCOMP.get(MACHINE)
    if number is None:
        raise OSError(errno.ENOSYS, f"seccomp: not known on {MACHINE}")
    filter_program = _Program(length=len(program) // 8, filter=program)
    unwilling = _checked(
        int(
            _syscall(
                ctypes.c_long(number),
                ctypes.c_uint(SECCOMP_SET_MODE_FILTER),
                ctypes.c_uint(SECCOMP_FILTER_FLAG_TSYNC),
                ctypes.byref(filter_program),
            )
        ),
        "seccomp",
    )
    if unwilling:
        raise OSError(errno.EBUSY, f"seccomp: thread {unwilling} has a filter of its own")

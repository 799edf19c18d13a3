"""The filter over system calls: assembled here for one kind of child, installed by `wire.kernel`.

A classic BPF program (seccomp(2), <linux/bpf_common.h>) over `struct seccomp_data`. The architecture is checked first,
since the same number means another call on another one.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from wisp.wire.syscalls import NUMBERS

LOAD, AND, EQUAL, AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
ALLOW: Final = 0x7FFF0000
KILL_PROCESS: Final = 0x80000000
REFUSE: Final = 0x00050000 | errno.EPERM
UNKNOWN: Final = 0x00050000 | errno.ENOSYS
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
ARCHITECTURES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""By `uname -m`: column of `NUMBERS`, AUDIT_ARCH_*."""
X32: Final = 0x40000000
"""x86-64 calls of the 32-bit pointer ABI carry this bit, under numbers of their own."""

WRITABLE: Final = 0o3103
"""O_ACCMODE, O_CREAT, O_TRUNC, O_APPEND."""
THREAD: Final = 0x00010000
NAMESPACES: Final = 0x7E020000
PROT_EXEC, PROT_WRITE = 0x4, 0x2
FIONBIO, FIOCLEX, FIONCLEX = 0x5421, 0x5451, 0x5450
F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GET_SEALS = 0, 1, 2, 3, 4, 1030, 1034
PR_SET_NAME, PR_GET_NAME = 15, 16


class Code(Enum):
    """What memory a process may make executable, as the protections that it may ask for."""

    NONE = (0, PROT_WRITE)
    COMPILED = (0, PROT_WRITE, PROT_EXEC)
    """At no moment executable and writable."""
    ANY = (0, PROT_WRITE, PROT_EXEC, PROT_WRITE | PROT_EXEC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Holds if `argument & mask` is one of `values`, of the low or the `high` 32 bits."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    high: bool = False

    @property
    def offset(self) -> int:
        return ARGUMENTS_AT + 8 * self.argument + 4 * self.high


def conditions(pid: int, code: Code, *, writes: bool = False) -> dict[str, tuple[Condition, ...]]:
    """Calls that are allowed with some arguments only. `writes`: paths may be opened for writing too."""
    mapping = () if code is Code.ANY else (Condition(argument=2, mask=PROT_EXEC | PROT_WRITE, values=code.value),)
    return {
        "open": () if writes else (Condition(argument=1, mask=WRITABLE, values=(0,)),),
        "openat": () if writes else (Condition(argument=2, mask=WRITABLE, values=(0,)),),
        # A thread, never a process. What clone3 is asked lies in memory, where no filter can look: libraries that
        # hear that the kernel has no such call use clone.
        "clone": (Condition(argument=0, mask=THREAD | NAMESPACES, values=(THREAD,)),),
        "tgkill": (Condition(argument=0, values=(pid,)),),
        "ioctl": (Condition(argument=1, values=(FIONBIO, FIOCLEX, FIONCLEX)),),
        # Not F_SETOWN and F_SETSIG: together they send any signal to any process.
        "fcntl": (
            Condition(argument=1, values=(F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GET_SEALS)),
        ),
        "prctl": (Condition(argument=0, values=(PR_SET_NAME, PR_GET_NAME)),),
        # To read its own limits, not to set any.
        "prlimit64": (
            Condition(argument=0, values=(0,)),
            Condition(argument=2, values=(0,)),
            Condition(argument=2, values=(0,), high=True),
        ),
        "mmap": mapping,
        "mprotect": mapping,
    }


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _rule(number: int, body: bytes) -> bytes:
    """`body`, which ends in a return, for this call."""
    return _step(EQUAL, number, 0, len(body) // 8) + body


def _checks(needed: Iterable[Condition]) -> bytes:
    body = b""
    for condition in needed:
        body += _step(LOAD, condition.offset) + _step(AND, condition.mask)
        for left in range(len(condition.values), 0, -1):
            body += _step(EQUAL, condition.values[-left], left, 0)
        body += _step(RETURN, REFUSE)
    return body + _step(RETURN, ALLOW)


def assemble(
    machine: str, *, allowed: Iterable[str], hostile: Iterable[str], conditional: dict[str, tuple[Condition, ...]]
) -> bytes:
    """The program for a machine as `uname -m` names it. Raises `OSError` for one that is not known here."""
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"seccomp: the system calls of {machine} are not known")
    column, architecture = ARCHITECTURES[machine]
    program = _step(LOAD, ARCHITECTURE_AT) + _step(EQUAL, architecture, 1, 0) + _step(RETURN, KILL_PROCESS)
    program += _step(LOAD, NUMBER_AT)
    if machine == "x86_64":
        program += _step(AT_LEAST, X32, 0, 1) + _step(RETURN, KILL_PROCESS)
    bodies = {name: _step(RETURN, ALLOW) for name in sorted(allowed)}
    bodies |= {name: _checks(needed) for name, needed in conditional.items()}
    bodies["clone3"] = _step(RETURN, UNKNOWN)
    bodies |= {name: _step(RETURN, KILL_PROCESS) for name in sorted(hostile)}
    for name, body in bodies.items():
        number = NUMBERS[name][column]
        if number is not None:
            program += _rule(number, body)
    return program + _step(RETURN, REFUSE)

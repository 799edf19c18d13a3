"""The second wall round a child: what still holds on the day on which a guest or a model breaks out of its first.

Raised by each child's own main, after it has imported what it needs and before it reads a frame, while it has one
thread: most of this belongs to a thread and is inherited by those that it starts. A wall that this machine does not
allow is left out and reported with the reason; whether that will do is the router's to decide (`scheduling.walls`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from wisp.errors import InvalidFrame
from wisp.wire import kernel
from wisp.wire.confinement import die_with_parent
from wisp.wire.seccomp import Code, assemble, conditions
from wisp.wire.syscalls import ALLOWED, EVENTS, HOSTILE

UNPRIVILEGED: Final = 65533
"""User and group of a child whose router is root. Not "nobody", whom other software may be, too."""
SECUREBITS_LOCKED: Final = 0xEF
"""Every bit of <linux/securebits.h> but SECBIT_KEEP_CAPS, and every lock: uid 0 means nothing any more."""
SHOWN_AT: Final = "/tmp"  # noqa: S108 - nothing is written there
"""Over what lies there, in a mount namespace of the child's own. Every system has it, and no child needs it."""
MAX_DETAIL_CHARS: Final = 200


class ChildKind(StrEnum):
    SANDBOX = "sandbox"
    COMPILER = "compiler"
    ADMISSION = "admission"
    INFERENCE = "inference"
    GPU_INFERENCE = "gpu-inference"
    """A driver's library opens devices and files and asks the kernel for what no filter foresees."""


class Wall(StrEnum):
    PRIVILEGES = "privileges"
    """No capability, no way to one, and not root."""
    MEMORY = "memory"
    """No process of the same user may look into this one."""
    NAMESPACES = "namespaces"
    """A network without any interface, and nobody to speak to by other means."""
    LANDLOCK = "landlock"
    """No file can be opened, but the segments that it is given; no signal leaves."""
    SECCOMP = "seccomp"
    """No system call but those that this kind of child needs."""


CODE: Final = {
    ChildKind.SANDBOX: Code.ANY,  # Python's callbacks are code that libffi writes, where it was built so
    ChildKind.COMPILER: Code.COMPILED,  # the engine publishes what it has compiled before it serializes it
    ChildKind.ADMISSION: Code.NONE,
    ChildKind.INFERENCE: Code.NONE,
    ChildKind.GPU_INFERENCE: Code.ANY,
}
WITHOUT: Final = {ChildKind.GPU_INFERENCE: frozenset({Wall.LANDLOCK, Wall.SECCOMP})}
"""Walls that a kind of child cannot work behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WallState:
    """`detail`: which, where there is a choice; or why it is not up."""

    up: bool
    detail: str


Report = Mapping[Wall, WallState]


def _show(readable: int) -> None:
    """Lets this directory be reached by a path once this is not root any more, whose path may lead through directories
    that only root can search. Not a wall: without it, whoever asked finds no path to it."""
    with contextlib.suppress(OSError):
        path = str(Path(f"/proc/self/fd/{readable}").readlink())
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", kernel.MS_REC | kernel.MS_SLAVE)
        kernel.mount(path, SHOWN_AT, kernel.MS_BIND)


def _leave_root(kind: ChildKind, readable: int | None) -> str:
    """The interpreter may lie where only root can read, so everything is imported by now."""
    if os.geteuid() != 0:
        return f"user {os.geteuid()}"
    effective, permitted, _ = kernel.capabilities()
    if not effective & 1 << kernel.CAP_KILL:
        raise PermissionError(1, "without CAP_KILL the platform could not end a child of another user")
    if readable is not None:
        _show(readable)
    kept = permitted & (1 << kernel.CAP_SYS_ADMIN | 1 << kernel.CAP_SETPCAP)
    kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
    os.setresuid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
    kernel.set_capabilities(kept, kept)  # for the walls below, the last of which gives them up
    return f"user {UNPRIVILEGED}"


def _separate(kind: ChildKind, readable: int | None) -> str:
    apart = kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    try:
        kernel.unshare(kernel.CLONE_NEWUSER | apart)
    except OSError as error:
        if not kernel.capabilities()[0] & 1 << kernel.CAP_SYS_ADMIN:
            raise PermissionError(
                error.errno, f"no user namespaces for unprivileged users ({error.strerror})"
            ) from error
        kernel.unshare(apart)
        return "network, ipc, uts"
    return "user, network, ipc, uts"


def _drop_capabilities(kind: ChildKind, readable: int | None) -> str:
    for option, arguments in (
        (kernel.PR_CAP_AMBIENT, (kernel.PR_CAP_AMBIENT_CLEAR_ALL,)),
        (kernel.PR_SET_SECUREBITS, (SECUREBITS_LOCKED,)),
    ):
        _where_allowed(option, *arguments)
    number = 0
    while number < 64 and _where_allowed(kernel.PR_CAPBSET_DROP, number):
        number += 1
    kernel.set_capabilities(0, 0)
    if any(kernel.capabilities()) or kernel.prctl(kernel.PR_GET_NO_NEW_PRIVS) != 1:
        raise PermissionError(1, "capabilities are left")
    return "no capabilities"


def _where_allowed(option: int, *arguments: int) -> bool:
    """These want a capability themselves; without one, and with no_new_privs, there is nothing left to forbid."""
    try:
        kernel.prctl(option, *arguments)
    except OSError:
        return False
    return True


def _hide_memory(kind: ChildKind, readable: int | None) -> str:
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    return ""


def _forbid_files(kind: ChildKind, readable: int | None) -> str:
    """Every right that this kernel's ABI knows. An anonymous segment is no file of any tree: it can still be opened
    by /proc/self/fd, which the engine needs."""
    abi = kernel.landlock_abi()
    files = (1 << (13 + (abi >= 2) + (abi >= 3) + (abi >= 5))) - 1
    kernel.landlock_forbid(files, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0, readable)
    _expect_refusal("/proc/self/status")
    return f"abi {abi}"


def _expect_refusal(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        return
    raise PermissionError(1, f"{path} can still be opened")


def _filter_calls(kind: ChildKind, readable: int | None) -> str:
    kernel.install_filter(
        assemble(
            kernel.MACHINE,
            allowed=ALLOWED | EVENTS if kind is ChildKind.INFERENCE else ALLOWED,
            hostile=HOSTILE,
            conditional=conditions(
                os.getpid(), CODE[kind], writes=kind is ChildKind.ADMISSION and _files_are_forbidden()
            ),
        )
    )
    return ""


def _files_are_forbidden() -> bool:
    """onnxruntime opens the memory files that it writes an optimised model to by their paths."""
    try:
        _expect_refusal("/proc/self/status")
    except OSError:
        return False
    return True


Step = tuple[Wall, Callable[[ChildKind, int | None], str]]
STEPS: Final[tuple[Step, ...]] = (
    (Wall.PRIVILEGES, _leave_root),
    (Wall.NAMESPACES, _separate),
    (Wall.PRIVILEGES, _drop_capabilities),
    (Wall.MEMORY, _hide_memory),
    (Wall.LANDLOCK, _forbid_files),
    (Wall.SECCOMP, _filter_calls),
)
"""In the only order that works: each may take away what an earlier one needed. A wall is up if all its steps are."""
CREDENTIALS: Final = frozenset({Wall.PRIVILEGES, Wall.NAMESPACES})
OF_ONE_THREAD: Final = CREDENTIALS | {Wall.LANDLOCK}


def raise_walls(kind: ChildKind, readable: int | None = None) -> dict[Wall, WallState]:
    """Raises what this machine allows, and says what is up. After it no module can be imported any more, and no file
    opened but those below the directory `readable`, which `shown` finds."""
    parent = os.getppid()
    threads = len(list(Path("/proc/self/task").iterdir()))
    details: dict[Wall, list[str]] = {}
    failures: dict[Wall, str] = {}
    for wall, step in STEPS:
        if wall in WITHOUT.get(kind, ()):
            failures[wall] = "left out: a GPU's driver does not work behind it"
            continue
        try:
            detail = step(kind, readable)
        except OSError as error:
            failures.setdefault(wall, str(error.strerror))
        else:
            details.setdefault(wall, []).extend([detail] if detail else [])
        if wall in CREDENTIALS:
            die_with_parent(parent)  # the kernel forgets it with the credentials that it was asked for under
    if threads > 1:
        failures |= dict.fromkeys(OF_ONE_THREAD, f"{threads} threads were running already")
    return {
        wall: WallState(up=False, detail=failures[wall][:MAX_DETAIL_CHARS])
        if wall in failures
        else WallState(up=wall in details, detail=", ".join(details.get(wall, ["left out"])))
        for wall in Wall
    }


def shown(readable: int) -> str | None:
    """The path by which this child reaches the directory that it was given; None if its user cannot."""
    there = os.fstat(readable)
    for path in (SHOWN_AT, f"/proc/self/fd/{readable}"):
        with contextlib.suppress(OSError):
            resolved = Path(path).resolve(strict=True)
            found = resolved.stat()
            if (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino):
                return str(resolved)
    return None


def encode_report(report: Report) -> dict[str, Any]:
    """As it stands in a READY frame, under `walls`."""
    return {wall.value: asdict(state) for wall, state in report.items()}


def decode_report(value: object) -> dict[Wall, WallState]:
    """Raises `InvalidFrame` for what is not the state of every wall."""
    if not isinstance(value, dict) or value.keys() != {wall.value for wall in Wall}:
        raise InvalidFrame("a report that does not name every wall")
    report = {}
    for name, state in value.items():
        if (
            not isinstance(state, dict)
            or state.keys() != {"up", "detail"}
            or type(state["up"]) is not bool
            or not isinstance(state["detail"], str)
            or len(state["detail"]) > MAX_DETAIL_CHARS
            or not state["detail"].isprintable()
        ):
            raise InvalidFrame(f"a report without the state of {name}")
        report[Wall(name)] = WallState(up=state["up"], detail=state["detail"])
    return report

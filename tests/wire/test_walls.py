"""Each wall, tried from the inside of a real child: alone it holds, and without it the attempt works.

As the user of this process and, if that is root, as nobody too. Where a machine does not allow a wall, its tests skip
and say so.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wire.trials import PATIENCE_S, Refused, TrialChild
from wisp.errors import InvalidFrame
from wisp.wire.channel import Channel, socket_pair
from wisp.wire.segments import Segment
from wisp.wire.walls import UNPRIVILEGED, ChildKind, Wall, decode_report, encode_report

ROOT = os.geteuid() == 0
NOBODY = 65534
USERS = [None, NOBODY] if ROOT else [None]
SOME_FILE = "/etc/passwd"
PRIVILEGES, MEMORY, NAMESPACES, LANDLOCK, SECCOMP = Wall
LOOKING = (LANDLOCK, MEMORY, NAMESPACES)
"""A user namespace is a wall here: a process outside of it may not look in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`guards`: each of these walls stops the attempt alone. `landlock_abi`: from which on Landlock does."""

    name: str
    guards: tuple[Wall, ...]
    landlock_abi: int = 1
    needs_root: bool = False


CASES = (
    Case(name="read_file", guards=(LANDLOCK,)),
    Case(name="read_private_file", guards=(LANDLOCK, PRIVILEGES), needs_root=True),
    Case(name="create_file", guards=(LANDLOCK, SECCOMP)),
    Case(name="connect_tcp", guards=(LANDLOCK, SECCOMP, NAMESPACES), landlock_abi=4),
    Case(name="connect_abstract", guards=(LANDLOCK, SECCOMP, NAMESPACES), landlock_abi=6),
    Case(name="execute", guards=(LANDLOCK, SECCOMP)),
    Case(name="fork", guards=(SECCOMP,)),
    Case(name="unshare", guards=(SECCOMP, NAMESPACES)),
    Case(name="signal", guards=(LANDLOCK, SECCOMP), landlock_abi=6),
    Case(name="read_memory", guards=(*LOOKING, SECCOMP)),
    Case(name="open_memory", guards=LOOKING),
    Case(name="read_environment", guards=LOOKING),
    Case(name="trace", guards=(*LOOKING, SECCOMP)),
    Case(name="become_root", guards=(PRIVILEGES, SECCOMP, NAMESPACES), needs_root=True),
)
# Starts a sandbox, tells its number, and waits to be killed; a copy of the channel stays open in the test.
PARENT = """
import subprocess, sys, time
from wisp.wire.confinement import Limits, child_arguments

fd, answer = map(int, sys.argv[1:])
arguments = child_arguments(Limits(), fd, answer_fd=answer)
command = [sys.executable, "-I", "-B", "-m", "wisp.sandbox.main", *arguments]
print(subprocess.Popen(command, pass_fds=(fd, answer), env={}).pid, flush=True)
time.sleep(60)
"""
ON_A_SIBLING = {"signal", "read_memory", "open_memory", "read_environment", "trace"}


def variants(*, guards: bool) -> list[Any]:
    chosen = []
    for user in USERS:
        for case in CASES:
            if case.needs_root and (not ROOT or user is not None):
                continue
            for guard in case.guards if guards else (None,):
                who = "nobody" if user else "self"
                chosen.append(pytest.param(user, case, guard, id="-".join(filter(None, (case.name, who, guard)))))
    return chosen


@contextmanager
def stage(case: Case, child: TrialChild, sibling: TrialChild | None) -> Iterator[list[object]]:
    """The attempt's arguments, and what they name."""
    if sibling is not None:
        yield [sibling.process.pid, sibling.attempt("locate_secret")]
    elif case.name in ("create_file", "read_private_file"):
        with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # not in a directory that only this user enters
            os.chmod(directory, 0o777)
            private = Path(directory) / "private"
            private.touch(mode=0o600)
            yield [str(private) if case.name == "read_private_file" else f"{directory}/new"]
    elif case.name == "connect_tcp":
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield [server.getsockname()[1]]
    elif case.name == "connect_abstract":
        name = f"wisp-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("\0" + name)
            server.listen()
            yield [name]
    else:
        yield [SOME_FILE] if case.name == "read_file" else []


def try_it(case: Case, cwd: Path, user: int | None, lowered: tuple[Wall, ...], needed: Wall | None = None) -> None:
    """Raises `Refused`. Skips where a wall that the test is about cannot be raised on this machine."""
    with ExitStack() as stack:

        def start() -> TrialChild:
            child = TrialChild(ChildKind.SANDBOX, cwd, user=user, lowered=lowered)
            stack.callback(child.finish)
            return child

        child = start()
        for wall in lowered:
            assert not child.walls[wall].up
        if needed is not None:
            require(child, needed, case.landlock_abi, users_apart=not case.name.startswith("connect"))
        sibling = start() if case.name in ON_A_SIBLING else None
        with stage(case, child, sibling) as arguments:
            child.attempt("read_file" if case.name == "read_private_file" else case.name, *arguments)


def require(child: TrialChild, wall: Wall, landlock_abi: int = 1, *, users_apart: bool = False) -> None:
    state = child.walls[wall]
    if not state.up:
        pytest.skip(f"this machine allows no {wall} wall: {state.detail}")
    if wall is NAMESPACES and users_apart and not state.detail.startswith("user"):
        pytest.skip(f"this machine allows only these namespaces: {state.detail}")
    if wall is LANDLOCK and int(state.detail.removeprefix("abi ")) < landlock_abi:
        pytest.skip(f"this kernel's Landlock has {state.detail}, and {landlock_abi} is needed")


@pytest.mark.parametrize(("user", "case", "guard"), variants(guards=False))
def test_with_all_walls_up_nothing_works(tmp_path: Path, user: int | None, case: Case, guard: None) -> None:
    with pytest.raises(Refused):
        try_it(case, tmp_path, user, ())


@pytest.mark.parametrize(("user", "case", "guard"), variants(guards=True))
def test_each_wall_holds_alone(tmp_path: Path, user: int | None, case: Case, guard: Wall) -> None:
    others = tuple(wall for wall in case.guards if wall is not guard)
    with pytest.raises(Refused):
        try_it(case, tmp_path, user, others, guard)


@pytest.mark.parametrize(("user", "case", "guard"), variants(guards=False))
def test_without_these_walls_it_works(tmp_path: Path, user: int | None, case: Case, guard: None) -> None:
    """Else the two tests above would say nothing."""
    try_it(case, tmp_path, user, case.guards)


def test_a_child_past_its_walls_still_ends_with_its_parent(tmp_path: Path) -> None:
    ours, theirs = socket_pair()
    ours.settimeout(PATIENCE_S)
    answer = Segment.create("answer", 1 << 16)
    with ours:
        with theirs:
            parent = subprocess.Popen(
                [sys.executable, "-I", "-c", PARENT, str(theirs.fileno()), str(answer.fd)],
                pass_fds=(theirs.fileno(), answer.fd),
                cwd=tmp_path,
                stdout=subprocess.PIPE,
            )
        try:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            assert Channel(ours).receive() is not None
            watch = os.pidfd_open(pid)
        finally:
            parent.kill()
            parent.communicate(timeout=PATIENCE_S)
    answer.close()
    ready, _, _ = select.select([watch], [], [], PATIENCE_S)
    os.close(watch)
    assert ready, "the child outlived its parent"


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("kind", [kind for kind in ChildKind if kind is not ChildKind.GPU_INFERENCE])
def test_every_kind_of_child_has_its_walls(tmp_path: Path, kind: ChildKind, user: int | None) -> None:
    child = TrialChild(kind, tmp_path, user=user)
    try:
        for wall in Wall:
            require(child, wall)
        expected = UNPRIVILEGED if ROOT and user is None else user or os.geteuid()
        assert child.walls[PRIVILEGES].detail == f"user {expected}, no capabilities"
        with pytest.raises(Refused, match="denied"):
            child.attempt("read_file", SOME_FILE)
        with pytest.raises(Refused, match="not permitted"):
            child.attempt("connect_tcp", 1)
        if kind is not ChildKind.SANDBOX:
            with pytest.raises(Refused, match="not permitted"):
                child.attempt("make_code")
        with pytest.raises(Refused, match=f"signal {int(signal.SIGSYS)}"):
            child.attempt("execute")
    finally:
        child.finish()


def test_a_host_with_a_gpu_goes_without_two_walls_and_says_so(tmp_path: Path) -> None:
    child = TrialChild(ChildKind.GPU_INFERENCE, tmp_path)
    try:
        for wall in (PRIVILEGES, Wall.MEMORY, Wall.NAMESPACES):
            require(child, wall)
        assert {wall for wall, state in child.walls.items() if "GPU" in state.detail} == {Wall.LANDLOCK, SECCOMP}
        child.attempt("read_file", SOME_FILE)
    finally:
        child.finish()


def test_a_report_says_the_state_of_every_wall_or_is_refused(tmp_path: Path) -> None:
    child = TrialChild(ChildKind.SANDBOX, tmp_path, lowered=[SECCOMP])
    child.finish()
    assert (child.walls[SECCOMP].up, child.walls[SECCOMP].detail) == (False, "left out")
    fields = encode_report(child.walls)
    assert decode_report(fields) == child.walls
    several: tuple[object, ...] = (
        None,
        [],
        {},
        {name: state for name, state in fields.items() if name != "seccomp"},
        fields | {"moat": fields["seccomp"]},
        fields | {"seccomp": True},
        fields | {"seccomp": {"up": 1, "detail": ""}},
        fields | {"seccomp": {"up": True, "detail": "x" * 1000}},
        fields | {"seccomp": {"up": True, "detail": "two\nlines"}},
        fields | {"seccomp": {"up": True, "detail": "", "more": 1}},
    )
    for wrong in several:
        with pytest.raises(InvalidFrame):
            decode_report(wrong)

"""Real children with one frame more than production's: TRIAL, which makes an attempt past the walls.

The door is made here, round the child's unchanged main; a child that production starts has none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wisp.wire.channel import Channel, socket_pair
from wisp.wire.confinement import Limits, child_arguments
from wisp.wire.segments import Segment
from wisp.wire.walls import ChildKind, Wall, WallState, decode_report

TRIAL = 250
PATIENCE_S = 20.0
TESTS = Path(__file__).parents[1]
MODULES = {
    ChildKind.SANDBOX: ("wisp.sandbox.main",),
    ChildKind.COMPILER: ("wisp.sandbox.compiler",),
    ChildKind.ADMISSION: ("wisp.inference.admission", "wisp.inference.inspection", "wisp.inference.sessions"),
    ChildKind.INFERENCE: ("wisp.inference.host", "wisp.inference.loop"),
    ChildKind.GPU_INFERENCE: ("wisp.inference.host", "wisp.inference.loop"),
}
"""The main, and what it imports later: the interpreter may lie where only root reads."""
LIMITS = {
    ChildKind.SANDBOX: Limits(data_bytes=1 << 30),
    ChildKind.COMPILER: Limits(address_space_bytes=1536 << 20, cpu_s=10, open_files=32),
    ChildKind.ADMISSION: Limits(address_space_bytes=3 << 30, cpu_s=20, open_files=64),
    ChildKind.INFERENCE: Limits(open_files=256),
    ChildKind.GPU_INFERENCE: Limits(open_files=256),
}
OPTIONS = {ChildKind.GPU_INFERENCE: {"gpu": 1}}
CHILD = """
import importlib, json, os, sys

sys.path.append({tests!r})
from wire import attempts
from wisp.wire import kernel, walls
from wisp.wire.channel import Channel

main = [importlib.import_module(name) for name in {modules!r}][0]
lowered = {lowered!r}
steps = [step for step in walls.STEPS if step[0].value not in lowered]


def expose(kind, readable):
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    raise OSError(0, "left out")


if "memory" in lowered:  # a change of user raises it in passing
    steps.insert(-1 if "seccomp" not in lowered else len(steps), (walls.Wall.MEMORY, expose))
walls.STEPS = tuple(steps)
if {user} is not None:
    os.setgroups([])
    os.setresgid({user}, {user}, {user})
    os.setresuid({user}, {user}, {user})
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
receive = Channel.receive


def receive_or_try(channel):
    while (frame := receive(channel)) is not None and frame.kind == {trial}:
        name, *arguments = json.loads(frame.payload)
        try:
            answer = {{"done": attempts.ATTEMPTS[name](*arguments)}}
        except OSError as error:
            answer = {{"refused": str(error)}}
        channel.send({trial}, json.dumps(answer).encode())
    return frame


Channel.receive = receive_or_try
sys.exit(main.main())
"""


class TrialChild:
    """Owns the process. `lowered`: walls that it does not raise; `user`: who it is started as, if not this process."""

    def __init__(self, kind: ChildKind, cwd: Path, *, user: int | None = None, lowered: Iterable[Wall] = ()) -> None:
        names = [wall.value for wall in lowered]
        program = CHILD.format(tests=str(TESTS), modules=MODULES[kind], lowered=names, user=user, trial=TRIAL)
        self.answer = Segment.create("answer", 1 << 16)
        ours, theirs = socket_pair()
        ours.settimeout(PATIENCE_S)
        with theirs:
            arguments = child_arguments(
                LIMITS[kind], theirs.fileno(), answer_fd=self.answer.fd, **OPTIONS.get(kind, {})
            )
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", program, *arguments],
                pass_fds=(theirs.fileno(), self.answer.fd),
                env={},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        self.channel = Channel(ours)
        frame = self.channel.receive()
        assert frame is not None, self.finish()
        self.walls: dict[Wall, WallState] = decode_report(json.loads(frame.payload)["walls"])

    def attempt(self, name: str, *arguments: object) -> Any:
        """What it returned. Raises `Refused` with the reason if it did not work, or the child was killed for it."""
        self.channel.send(TRIAL, json.dumps([name, *arguments]).encode())
        try:
            frame = self.channel.receive()
        except ConnectionError:
            frame = None
        if frame is None:
            status = self.process.wait(PATIENCE_S)
            if status == 0:
                return None  # another program has run in its place
            raise Refused(f"ended by signal {-status}")
        answer = json.loads(frame.payload)
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer["done"]

    def finish(self) -> str:
        """Ends it; what it printed."""
        self.channel.close()
        self.process.kill()
        _, printed = self.process.communicate(timeout=PATIENCE_S)
        self.answer.close()
        return printed.decode()


class Refused(Exception):
    pass

"""What every child gives up, looked at from inside a real one and from its parent."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from wisp.wire.channel import Channel, socket_pair
from wisp.wire.confinement import Limits, child_arguments

PATIENCE_S = 20.0
LIMITS = Limits(data_bytes=1 << 30, cpu_s=20, file_bytes=4096, open_files=40)
# The child of the test: confined as every child, then does what the frames say.
CHILD = """
import json, os, resource, signal, sys
from wisp.wire.confinement import enter

channel, options = enter()
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
descriptors = []
for fd in os.listdir("/proc/self/fd"):
    try:
        if int(fd) > 2:
            descriptors.append(os.readlink(f"/proc/self/fd/{fd}").split(":")[0])
    except OSError:
        pass  # the listing's own
report = {
    "options": options,
    "environment": dict(os.environ),
    "directory": os.listdir("."),
    "no_new_privileges": status["NoNewPrivs"],
    "interrupt": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
    "descriptors": descriptors,
    "limits": {
        name: resource.getrlimit(getattr(resource, name))
        for name in ("RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_DATA")
    },
}
channel.send(1, json.dumps(report).encode())
while (frame := channel.receive()) is not None:
    exec(frame.payload.decode())
"""
# Starts the child above, tells its number, and waits to be killed.
PARENT = """
import subprocess, sys, time
from wisp.wire.confinement import Limits, child_arguments

fd = int(sys.argv[2])
arguments = child_arguments(Limits(), fd)
child = subprocess.Popen([sys.executable, "-I", "-c", sys.argv[1], *arguments], pass_fds=(fd,), env={})
print(child.pid, flush=True)
time.sleep(60)
"""


@contextmanager
def child(cwd: Path, limits: Limits = LIMITS, **options: int) -> Iterator[tuple[subprocess.Popen[bytes], Channel]]:
    ours, theirs = socket_pair()
    ours.settimeout(PATIENCE_S)
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", CHILD, *child_arguments(limits, theirs.fileno(), **options)],
                pass_fds=(theirs.fileno(),),
                env={},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        try:
            yield process, Channel(ours)
        finally:
            process.kill()
            process.communicate(timeout=PATIENCE_S)


def hello(channel: Channel) -> dict[str, Any]:
    frame = channel.receive()
    assert frame is not None
    report: dict[str, Any] = json.loads(frame.payload)
    return report


def ask(channel: Channel, code: str) -> bytes:
    channel.send(2, code.encode())
    frame = channel.receive()
    assert frame is not None
    return frame.payload


def test_a_child_has_its_limits_its_options_and_nothing_else(tmp_path: Path) -> None:
    with child(tmp_path, some_fd=3, threads=2) as (_, channel):
        report = hello(channel)
    assert report["options"] == {"some_fd": 3, "threads": 2}
    # The C library's own start adds LC_CTYPE where the locale is "C" (PEP 538).
    assert report["environment"].keys() <= {"LC_CTYPE"}
    assert report["directory"] == []
    assert report["no_new_privileges"] == "1"
    assert report["interrupt"] is True
    assert report["descriptors"] == ["socket"]
    limits = report["limits"]
    assert limits["RLIMIT_CORE"] == [0, 0]
    assert limits["RLIMIT_FSIZE"] == [4096, 4096]
    assert limits["RLIMIT_NOFILE"] == [40, 40]
    assert limits["RLIMIT_CPU"] == [20, 20]
    assert limits["RLIMIT_DATA"] == [1 << 30, 1 << 30]


def test_the_limits_are_in_force(tmp_path: Path) -> None:
    with child(tmp_path, Limits(data_bytes=200 << 20, open_files=40)) as (_, channel):
        hello(channel)
        code = """
tried = []
for name, attempt in {
    "memory": lambda: bytearray(300 << 20),
    "file": lambda: os.write(os.open("f", os.O_CREAT | os.O_WRONLY), b"x"),
    "descriptors": lambda: [os.dup(0) for _ in range(100)],
    "raise": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000)) if os.getuid() else 1 / 0,
}.items():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        attempt()
    except Exception as error:
        tried.append(type(error).__name__)
    else:
        tried.append(name)
channel.send(1, " ".join(tried).encode())
"""
        names = ask(channel, code).decode().split()
    assert names[:3] == ["MemoryError", "OSError", "OSError"]
    assert names[3] in ("ValueError", "ZeroDivisionError")


def test_a_child_that_burns_its_processor_time_ends(tmp_path: Path) -> None:
    with child(tmp_path, Limits(cpu_s=1)) as (process, channel):
        hello(channel)
        channel.send(2, b"while True: pass")
        assert process.wait(PATIENCE_S) in (-signal.SIGKILL, -signal.SIGXCPU)


def test_a_child_ignores_the_terminals_interrupt(tmp_path: Path) -> None:
    with child(tmp_path) as (process, channel):
        hello(channel)
        process.send_signal(signal.SIGINT)
        assert ask(channel, "channel.send(1, b'still here')") == b"still here"


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    ours, theirs = socket_pair()
    ours.settimeout(PATIENCE_S)
    with ours:
        with theirs:
            parent = subprocess.Popen(
                [sys.executable, "-I", "-c", PARENT, CHILD, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                cwd=tmp_path,
                stdout=subprocess.PIPE,
            )
        try:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            hello(Channel(ours))
            watch = os.pidfd_open(pid)
        finally:
            parent.kill()
            parent.communicate(timeout=PATIENCE_S)
    ready, _, _ = select.select([watch], [], [], PATIENCE_S)
    os.close(watch)
    assert ready, "the child outlived its parent"


def test_a_child_whose_parent_is_already_another_ends_before_it_reads_anything(tmp_path: Path) -> None:
    ours, theirs = socket_pair()
    ours.setblocking(False)
    with ours, theirs:
        arguments = json.loads(child_arguments(LIMITS, theirs.fileno())[0]) | {"parent": 1}
        done = subprocess.run(
            [sys.executable, "-I", "-c", CHILD, json.dumps(arguments)],
            pass_fds=(theirs.fileno(),),
            cwd=tmp_path,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0
        with pytest.raises(BlockingIOError):
            ours.recv(10)

"""What every child gives up before it reads its first frame: its life ends with its parent's, limits bound the rest.

The spawning side gives it nothing to begin with (`scheduling.children`): an empty environment, an empty working
directory, one socket. What depends on the kernel comes later, once everything is imported (`wire.walls`). See prctl(2)
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS and setrlimit(2).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from wisp.wire import kernel
from wisp.wire.channel import Channel

STANDARD = (0, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Hard limits of one child; None leaves the system's.

    `address_space_bytes` (RLIMIT_AS) does not fit a process that runs guests, since each memory reserves gigabytes of
    address space; `data_bytes` (RLIMIT_DATA) ignores reservations and does. `open_files`: a sandbox keeps one for each
    module that it has mapped, beside a dozen of its own.
    """

    address_space_bytes: int | None = None
    data_bytes: int | None = None
    cpu_s: int | None = None
    file_bytes: int = 0
    open_files: int = 256


def die_with_parent(parent_pid: int, death_signal: int = signal.SIGKILL) -> None:
    """From now on this process ends when the thread that spawned it does."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent_pid:  # it died before the call above
        os._exit(0)


def _limit(which: int, value: int | None) -> None:
    if value is not None:
        _, hard = resource.getrlimit(which)
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (bounded, bounded))


def confine(limits: Limits) -> None:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, limits.file_bytes)
    _limit(resource.RLIMIT_NOFILE, limits.open_files)
    _limit(resource.RLIMIT_CPU, limits.cpu_s)
    _limit(resource.RLIMIT_AS, limits.address_space_bytes)
    _limit(resource.RLIMIT_DATA, limits.data_bytes)
    # The terminal's Ctrl-C reaches the whole process group; the router alone decides when its children end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def close_all_but(kept: Collection[int]) -> None:
    """Whatever the spawning side let through, or a start-up file of the interpreter opened."""
    for fd in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if fd not in kept:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(fd)


def child_arguments(limits: Limits, channel_fd: int, **options: int) -> list[str]:
    """The command line that `enter` reads back in the child. An option whose name ends in `fd` is a descriptor: those,
    the channel and the standard ones are all that stays open."""
    return [json.dumps({"fd": channel_fd, "parent": os.getpid(), "limits": asdict(limits), "options": options})]


def enter() -> tuple[Channel, dict[str, int]]:
    """First call of every child's main: binds it to its parent, confines it, and returns its channel and options."""
    arguments = json.loads(sys.argv[1])
    die_with_parent(arguments["parent"])
    options: dict[str, int] = arguments["options"]
    given = (fd for name, fd in options.items() if name.endswith("fd"))
    close_all_but({*STANDARD, arguments["fd"], *given})
    confine(Limits(**arguments["limits"]))
    return Channel.from_fd(arguments["fd"]), options

"""A small machine: one core by affinity, 512 MB by a memory cgroup, for whatever is started inside `confined`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LIMIT_BYTES = 512 << 20
GROUP = "wisp-bench-edge"
V1 = Path("/sys/fs/cgroup/memory")
V2 = Path("/sys/fs/cgroup")


def _group() -> tuple[Path, str] | None:
    """Where the group goes and what its limit is called; None where this process may make none."""
    for root, limit, there in ((V1, "memory.limit_in_bytes", V1), (V2, "memory.max", V2 / "cgroup.controllers")):
        if there.exists() and os.access(root, os.W_OK):
            return root / GROUP, limit
    return None


def available() -> bool:
    found = _group()
    if found is None:
        return False
    path, limit = found
    with suppress(OSError):
        path.mkdir(exist_ok=True)
        (path / limit).write_text(str(LIMIT_BYTES))
        return True
    return False


_before: set[int] = set()


@contextmanager
def confined() -> Iterator[None]:
    """Children of this process that start now are confined for good; `release` frees this process itself."""
    global _before
    _before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(_before)})
    found = _group() if available() else None
    if found is not None:
        (found[0] / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        release()
        if found is not None:
            with suppress(OSError):  # what was confined may take a moment to go
                found[0].rmdir()


def release() -> None:
    if _before:
        os.sched_setaffinity(0, _before)
    found = _group()
    if found is not None and (found[0]).exists():
        (found[0].parent / "cgroup.procs").write_text(str(os.getpid()))

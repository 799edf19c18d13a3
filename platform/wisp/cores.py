"""How many cores this process may really use, and how much memory: what it is allotted and its control group leaves."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """At least 1. A quota of one and a half cores is two: a process more is cheaper than half a core idle."""
    cores = len(os.sched_getaffinity(0))
    quota = quota_cores()
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def idle_time_is_free() -> bool:
    """Whether what nobody else wants of a core's time may be used for nothing: not on the only core, nor of a quota."""
    return usable_cores() > 1 and quota_cores() is None


def quota_cores(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUP) -> float | None:
    """The tightest quota on the way from this process' group to the root, in cores; None where nothing limits it."""
    quotas = [quota for group in _groups(root, own) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def usable_memory_bytes(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUP) -> int:
    """The tightest limit on the way from this process' group to the root, or the machine's memory if that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *(limit for group in _groups(root, own) if (limit := _memory_limit(group)) is not None)])


def _memory_limit(group: Path) -> int | None:
    """`memory.max` of version 2, `memory.limit_in_bytes` of version 1."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            text = (group / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text):
            return int(text)
    return None


def _groups(root: Path, own: Path) -> list[Path]:
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    groups = [root, root / "cpu", root / "memory"]
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        named = [name for name in ("cpu", "memory") if name in controllers.split(",")]
        base = root if not controllers else root / named[0] if named else None
        if base is not None:
            group = base / path.lstrip("/")
            groups += [group, *(parent for parent in group.parents if parent.is_relative_to(base))]
    return groups


def _quota(group: Path) -> float | None:
    """`cpu.max` of version 2, the two files of version 1."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or not int(quota) or not int(period):
        return None
    return int(quota) / int(period)

"""The quota of a control group, in both versions' files."""

from __future__ import annotations

from pathlib import Path

import pytest

from wisp import cores
from wisp.cores import idle_time_is_free, quota_cores, usable_cores, usable_memory_bytes


def test_version_2_takes_the_tightest_on_the_way_up(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    assert quota_cores(tmp_path, own) is None
    (inner / "cpu.max").write_text("max 100000\n")
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    assert quota_cores(tmp_path, own) == 1.5


def test_version_1_has_two_files(tmp_path: Path) -> None:
    group = tmp_path / "cpu" / "a"
    group.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("4:cpu,cpuacct:/a\n1:name=systemd:/x\n")
    (group / "cpu.cfs_quota_us").write_text("50000\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    assert quota_cores(tmp_path, own) == 0.5
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    assert quota_cores(tmp_path, own) is None


def test_there_is_at_least_one() -> None:
    assert usable_cores() >= 1


def test_memory_is_the_tightest_limit_of_either_version(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    machine = usable_memory_bytes(tmp_path, own)
    assert machine > 1 << 20
    (inner / "memory.max").write_text("max\n")
    (tmp_path / "a" / "memory.max").write_text("1048576\n")
    assert usable_memory_bytes(tmp_path, own) == 1 << 20
    group = tmp_path / "memory" / "c"
    group.mkdir(parents=True)
    own.write_text("9:memory:/c\n")
    assert usable_memory_bytes(tmp_path, own) == machine
    (group / "memory.limit_in_bytes").write_text("65536\n")
    assert usable_memory_bytes(tmp_path, own) == 65536


@pytest.mark.parametrize(("usable", "quota", "free"), [(2, None, True), (1, None, False), (4, 2.0, False)])
def test_idle_time_is_free_beside_other_cores_and_without_a_quota(
    usable: int, quota: float | None, free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: usable)
    monkeypatch.setattr(cores, "quota_cores", lambda: quota)
    assert idle_time_is_free() is free

from __future__ import annotations

import os
from pathlib import Path

from wisp.policy.folder import read_folder
from wisp.policy.scanner import MAX_BYTES


def test_documents_by_name_and_nothing_else(tmp_path: Path) -> None:
    for name in ("ceiling.yaml", "class-free.yaml", "kustomization.yaml", "class-free.yaml.bak"):
        (tmp_path / name).write_text(name)
    assert read_folder(tmp_path).texts == {"ceiling": b"ceiling.yaml", "class-free": b"class-free.yaml"}
    assert read_folder(tmp_path / "gone").texts == {}


def test_a_link_is_followed_as_config_maps_are_mounted(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "ceiling.yaml").write_text(version)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "ceiling.yaml").symlink_to("..data/ceiling.yaml")
    assert read_folder(tmp_path).texts == {"ceiling": b"one"}
    (tmp_path / "..tmp").symlink_to("two")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    assert read_folder(tmp_path).texts == {"ceiling": b"two"}


def test_what_cannot_be_read_is_a_fault_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "class-a.yaml")
    (tmp_path / "class-b.yaml").mkdir()
    (tmp_path / "class-c.yaml").write_bytes(b"#" * (MAX_BYTES + 5))
    reading = read_folder(tmp_path)
    assert sorted(reading.faults) == ["class-a", "class-b"]
    assert len(reading.texts["class-c"]) == MAX_BYTES + 1

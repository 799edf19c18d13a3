"""What the router makes of its children's reports."""

from __future__ import annotations

import json
import logging

import pytest

from wisp.errors import InvalidFrame
from wisp.scheduling.walls import WallWatch
from wisp.wire.walls import ChildKind, Wall, WallState, encode_report


def ready(*down: Wall, **more: object) -> bytes:
    report = {wall: WallState(up=wall not in down, detail="no kernel" if wall in down else "") for wall in Wall}
    return json.dumps({"walls": encode_report(report), **more}).encode()


def test_a_report_is_kept_told_once_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    watch = WallWatch()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert watch.note(ChildKind.SANDBOX, ready(Wall.SECCOMP, fingerprint="f")) == {"fingerprint": "f"}
        watch.note(ChildKind.INFERENCE, ready())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "NOT UP: seccomp (no kernel)" in caplog.text
    assert watch.missing() == ["the sandbox children have no seccomp wall: no kernel"]
    assert watch.shown()["sandbox"]["seccomp"] == {"up": False, "detail": "no kernel"}
    assert ("sandbox", "seccomp", False) in watch.levels()
    assert ("inference", "seccomp", True) in watch.levels()


def test_a_child_that_lacks_a_required_wall_is_refused() -> None:
    watch = WallWatch()
    watch.note(ChildKind.SANDBOX, ready(Wall.LANDLOCK))
    watch.enforced = True
    with pytest.raises(InvalidFrame, match="landlock"):
        watch.note(ChildKind.SANDBOX, ready(Wall.LANDLOCK))
    watch.note(ChildKind.INFERENCE, ready())


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b"null", b"[" * 100_000, b'{"walls": {}}', b"\xff"])
def test_what_is_no_report_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidFrame):
        WallWatch().note(ChildKind.SANDBOX, payload)

from __future__ import annotations

import pytest

from wisp.policy.paths import is_within, parse_glob, parse_mount_point


@pytest.mark.parametrize("text", ["/a", "/tmp/logs", "/a.b/..c", "/über", "/" + "a" * 255])
def test_mount_points(text: str) -> None:
    assert parse_mount_point(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "a", "//a", "/a/", "/a//b", "/.", "/..", "/a/../b", "/a/./b", "/a\\b", "/a b", "/a\0", "/a\n", "/*"),
        *("/" + "a" * 256, "/\ud800"),
    ],
)
def test_what_is_no_mount_point(text: str) -> None:
    with pytest.raises(ValueError, match="expected an absolute path"):
        parse_mount_point(text)


@pytest.mark.parametrize("text", ["*.txt", "a/*.txt", "**", "a/**/b?.bin", "labels.txt"])
def test_globs(text: str) -> None:
    assert parse_glob(text) == text


@pytest.mark.parametrize(
    "text", ["", "/a", "a/", "../a", "a/../b", "a//b", ".", "a**", "**b/c", "[ab]", "{a,b}", "a\n"]
)
def test_what_is_no_glob(text: str) -> None:
    with pytest.raises(ValueError, match="expected a relative pattern"):
        parse_glob(text)


def test_within_is_by_whole_names() -> None:
    assert is_within("/srv/data", "/srv/data")
    assert is_within("/srv/data/x", "/srv/data")
    assert not is_within("/srv/database", "/srv/data")
    assert not is_within("/srv", "/srv/data")

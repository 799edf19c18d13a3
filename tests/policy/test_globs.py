"""What a mount's globs let through, against a matcher that is plainly right and slow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.policy.globs import Globs
from wisp.policy.paths import parse_glob

NAMES = st.text("ab.*?", min_size=1, max_size=5).filter(lambda name: "**" not in name and name not in (".", ".."))
GLOBS = st.lists(NAMES | st.just("**"), min_size=1, max_size=5).map("/".join)
PATHS = st.lists(st.text("ab.", min_size=1, max_size=5), min_size=1, max_size=5).map("/".join)


def name_matches(glob: str, name: str) -> bool:
    if not glob:
        return not name
    if glob[0] == "*":
        return any(name_matches(glob[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and glob[0] in ("?", name[0]) and name_matches(glob[1:], name[1:])


def path_matches(glob: list[str], path: list[str]) -> bool:
    if not glob:
        return not path
    if glob[0] == "**":
        least = 1 if len(glob) == 1 else 0
        return any(path_matches(glob[1:], path[at:]) for at in range(least, len(path) + 1))
    return bool(path) and name_matches(glob[0], path[0]) and path_matches(glob[1:], path[1:])


@given(GLOBS, PATHS)
def test_a_glob_matches_as_its_definition_says(glob: str, path: str) -> None:
    assert parse_glob(glob) == glob
    assert Globs([glob]).allow(path) is path_matches(glob.split("/"), path.split("/"))


@given(st.lists(GLOBS, max_size=3), PATHS)
def test_whatever_is_allowed_can_be_reached_from_the_top(globs: list[str], path: str) -> None:
    allowed = Globs(globs)
    if allowed.allow(path):
        names = path.split("/")
        assert all(allowed.lead_below("/".join(names[:depth])) for depth in range(len(names)))


@pytest.mark.parametrize(
    ("globs", "path", "expected"),
    [
        ((), "a", False),
        (("*.txt",), "labels.txt", True),
        (("*.txt",), "words/labels.txt", False),
        (("**",), "words/labels.txt", True),
        (("words/**",), "words", False),
        (("**/x",), "x", True),
        (("a.c",), "abc", False),
        (("[ab]",), "a", False),
        (("*",), "line\nbreak", True),
    ],
)
def test_examples(globs: tuple[str, ...], path: str, expected: bool) -> None:
    assert Globs(globs).allow(path) is expected


@pytest.mark.parametrize(
    "glob", ["*a" * 60 + "b", "/".join(["**", "*a*a*a*"] * 20 + ["b"]), "**/" * 80 + "b", "?*" * 100 + "/b"]
)
def test_a_hostile_glob_costs_no_more_than_its_length(glob: str) -> None:
    """With backtracking any of these would not come back."""
    for path in ("a" * 255, "/".join(["aaaa"] * 60), "/".join("a" * 120)):
        assert not Globs([glob]).allow(path)

from __future__ import annotations

from wisp.policy.textdiff import MAX_CHARS, MAX_LINES, unified_diff


def test_a_change() -> None:
    assert unified_diff("a\nb\nc\n", "a\nB\nc\n", "ceiling") == (
        "--- a/ceiling.yaml\n+++ b/ceiling.yaml\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"
    )


def test_a_new_text_and_none() -> None:
    assert unified_diff(None, "a\n", "x").startswith("--- /dev/null\n+++ b/x.yaml\n")
    assert unified_diff("a\n", "a\n", "x") == ""


def test_it_is_bounded_whatever_is_compared() -> None:
    """Line by line, two texts like these would keep a processor busy for minutes."""
    before, after = "#\n" * 32_000, "#\n\n" * 21_000
    assert len(before.splitlines()) > MAX_LINES
    shown = unified_diff(before, after, "x")
    assert len(shown) < MAX_CHARS + 100
    assert shown.endswith("KiB\n")
    assert unified_diff(before, before, "x") == ""

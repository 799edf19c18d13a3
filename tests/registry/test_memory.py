from __future__ import annotations

from wisp.registry.memory import UNKNOWN, Memory


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def memory(capacity: int = 3) -> tuple[Memory[str, str], Clock]:
    clock = Clock()
    return Memory(capacity=capacity, absent_s=2.0, clock=clock), clock


def test_found_missing_and_unknown_are_three_things() -> None:
    kept, _ = memory()
    kept.store("a", "A")
    kept.store("b", None)
    assert (kept.peek("a"), kept.peek("b"), kept.peek("c")) == ("A", None, UNKNOWN)


def test_a_miss_is_believed_for_a_while_and_a_find_for_good() -> None:
    kept, clock = memory()
    kept.store("a", "A")
    kept.store("b", None)
    clock.now = 1.9
    assert kept.peek("b") is None
    clock.now = 2.0
    assert kept.peek("b") is UNKNOWN
    assert len(kept.absent) == 0
    clock.now = 1e9
    assert kept.peek("a") == "A"


def test_the_least_recently_used_goes_first() -> None:
    kept, _ = memory()
    for key in "abc":
        kept.store(key, key)
    kept.peek("a")
    kept.store("d", "d")
    assert [kept.peek(key) for key in "abcd"] == ["a", UNKNOWN, "c", "d"]


def test_a_flood_of_misses_is_bounded_and_pushes_nothing_out() -> None:
    kept, _ = memory()
    kept.store("a", "A")
    for index in range(1000):
        kept.store(f"unknown {index}", None)
    assert len(kept.absent) == 3
    assert kept.peek("a") == "A"


def test_the_last_word_counts() -> None:
    kept, _ = memory()
    kept.store("a", None)
    kept.store("a", "A")
    assert kept.peek("a") == "A"
    kept.store("a", None)
    assert kept.peek("a") is None
    assert (len(kept.found), len(kept.absent)) == (0, 1)


def test_forgetting() -> None:
    kept, _ = memory()
    kept.store("a", "A")
    kept.store("b", None)
    kept.store("c", "C")
    kept.forget_where(lambda key: key in "ab")
    assert [kept.peek(key) for key in "abc"] == [UNKNOWN, UNKNOWN, "C"]
    kept.clear()
    assert kept.peek("c") is UNKNOWN

"""Turns are charged what they take, whoever they are taken for, and teach what the next will take."""

from __future__ import annotations

from collections import Counter

from wisp.scheduling.runtimes import ABUSE_NS, ABUSE_OWN_NS, BRIEF_NS, OVERSTAY_NS, RunTime
from wisp.scheduling.shares import Shares
from wisp.scheduling.turns import Turns

MS = 1_000_000


class Books:
    """Turns over two workers and two to spare, with a clock that the test sets."""

    def __init__(self) -> None:
        self.now_ns = 1
        self.charged: Counter[str] = Counter()
        self.shares = Shares(2, 2, lambda: self.now_ns)
        self.turns = Turns(self.shares, self.charge, lambda: self.now_ns)

    def charge(self, tenant: str, cost_ns: int) -> None:
        self.charged[tenant] += cost_ns

    def run(
        self, runtime: RunTime, took_ms: int, *, own_ms: int | None = None, brief: bool = True, whole: bool = True
    ) -> None:
        turn = self.turns.open("a", runtime, brief=brief)
        turn.began = True
        self.now_ns += took_ms * MS
        self.turns.close(turn, whole=whole, own_ns=None if own_ms is None else own_ms * MS)


def test_a_turn_costs_what_it_took() -> None:
    books, runtime = Books(), RunTime()
    for took_ms in (40, 1, 7, 300):
        books.run(runtime, took_ms)
    assert books.charged == {"a": 348 * MS}
    assert runtime.runs == 4
    assert books.shares.may_take("a", False)


def test_a_turn_that_never_began_teaches_nothing() -> None:
    books, runtime = Books(), RunTime()
    turn = books.turns.open("a", runtime, brief=True)
    books.now_ns += MS
    books.turns.close(turn, whole=False)
    assert runtime.runs == 0
    assert books.charged == {"a": MS}


def test_a_run_that_was_cut_off_does_not_make_its_function_look_shorter() -> None:
    books, runtime = Books(), RunTime()
    books.run(runtime, 1000)
    mean_ns = runtime.mean_ns
    books.run(runtime, 5, whole=False)
    assert (runtime.mean_ns, runtime.runs) == (mean_ns, 1)
    books.run(runtime, 3000, whole=False)
    assert runtime.mean_ns > mean_ns


def test_runs_that_were_cut_off_early_do_not_make_an_unknown_function_brief() -> None:
    """A loop whose callers hang up at once would hold every sandbox after that."""
    books, runtime = Books(), RunTime()
    for _ in range(20):
        books.run(runtime, 10, whole=False)
    assert (runtime.runs, runtime.brief) == (0, False)
    books.run(runtime, 100, whole=False)
    assert (runtime.runs, runtime.brief) == (1, False)


def test_a_brief_run_that_overstays_counts_as_long_from_then_on() -> None:
    books, runtime = Books(), RunTime()
    turn = books.turns.open("a", runtime, brief=True)
    turn.began = True
    books.turns.watch(turn, BRIEF_NS + 1)
    assert (turn.brief, books.shares.long) == (True, 0)
    books.now_ns += OVERSTAY_NS + 1
    books.turns.watch(turn, BRIEF_NS + 1)
    books.turns.watch(turn, BRIEF_NS + 1)
    assert (turn.brief, books.shares.long) == (False, 1)
    assert books.shares.is_trusted("a")
    books.now_ns += ABUSE_NS
    books.turns.watch(turn, ABUSE_OWN_NS)
    assert books.shares.is_trusted("a")
    books.turns.watch(turn, ABUSE_OWN_NS + 1)
    assert not books.shares.is_trusted("a")
    books.turns.close(turn, whole=True)
    assert books.shares.long == 0
    assert not runtime.brief


def test_a_brief_function_stays_one_however_long_the_machine_delays_it() -> None:
    books, runtime = Books(), RunTime()
    for took_ms in [2] * 5 + [90, 400, 3000] * 20:
        turn = books.turns.open("a", runtime, brief=True)
        turn.began = True
        books.now_ns += took_ms * MS
        books.turns.watch(turn, 2 * MS)
        assert turn.brief
        books.turns.close(turn, whole=True, own_ns=2 * MS)
    assert runtime.brief
    assert books.shares.is_trusted("a")
    assert runtime.high_ns > BRIEF_NS >= runtime.own.high_ns  # what others wait for is another matter


def test_one_that_is_slowed_down_has_to_be_brief_whoever_delays_it() -> None:
    books, heavy = Books(), RunTime()
    for took_ms, brief in ((40, True), (400, False)):
        for _ in range(50):
            heavy.note_cpu(40 * MS)
            books.run(heavy, took_ms, own_ms=40)
        assert heavy.brief is brief


def test_a_run_that_nobody_has_measured_has_used_all_its_time() -> None:
    books, runtime = Books(), RunTime()
    for _ in range(5):
        books.run(runtime, 400)
    assert not runtime.brief


def test_the_first_to_come_free_is_the_one_with_least_left() -> None:
    books, slow, slower = Books(), RunTime(), RunTime()
    for _ in range(100):
        slow.note(2000 * MS)
        slower.note(9000 * MS)
    held = [books.turns.open("a", runtime, brief=False) for runtime in (slow, slower)]
    books.now_ns += 500 * MS
    left_ms = books.turns.first_ns("a", held, brief=False) / MS
    assert 1400 < left_ms <= 1500
    assert books.turns.first_ns("a", [*held, None], brief=False) == 0  # of one nothing is known
    books.now_ns += 5000 * MS
    assert books.turns.first_ns("a", held, brief=False) == 0

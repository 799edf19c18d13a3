"""What a function's next run is taken for."""

from __future__ import annotations

from wisp.scheduling.runtimes import BRIEF_NS, CAPACITY, RunTime, RunTimes

MS = 1_000_000


def test_nothing_is_known_of_a_function_that_has_not_run() -> None:
    assert (RunTime().low_ns, RunTime().brief, RunTime().heavy) == (0, False, False)


def test_a_steady_function_is_known_well_and_a_jittery_one_is_not() -> None:
    steady, jittery = RunTime(), RunTime()
    for number in range(200):
        steady.note(10 * MS)
        jittery.note((2 if number % 2 else 18) * MS)
    assert steady.low_ns <= 10 * MS <= steady.high_ns
    assert steady.high_ns - steady.low_ns < MS
    assert jittery.low_ns < 5 * MS
    assert jittery.high_ns > 18 * MS


def test_one_slow_moment_is_forgiven_and_a_habit_is_not() -> None:
    runtime = RunTime()
    for _ in range(10):
        runtime.note(3 * MS)
    runtime.note(2000 * MS)
    runtime.note(3 * MS)
    runtime.note(3 * MS)
    assert runtime.brief
    for _ in range(4):
        runtime.note(2000 * MS)
    assert not runtime.brief
    runs = 0
    while not runtime.brief:
        runtime.note(3 * MS)
        runs += 1
    assert runs > 10
    assert runtime.high_ns <= BRIEF_NS


def test_a_function_is_heavy_by_what_it_computes_not_by_how_long_it_waits() -> None:
    waits, computes = RunTime(), RunTime()
    for _ in range(10):
        for runtime, used_ms in ((waits, 1), (computes, 80)):
            runtime.note(100 * MS)
            runtime.note_cpu(used_ms * MS)
    assert (waits.brief, waits.heavy) == (False, False)
    assert (computes.brief, computes.heavy) == (False, True)


def test_functions_are_told_apart_and_bounded() -> None:
    times = RunTimes()
    times.of("a", "f").note(5 * MS)
    assert times.of("a", "f").runs == 1
    assert times.of("b", "f").runs == times.of("a", "g").runs == 0
    for number in range(CAPACITY):
        times.of("c", str(number))
    assert times.of("a", "f").runs == 0


def test_a_run_that_was_stopped_says_only_that_its_function_computes_no_less() -> None:
    runtime = RunTime()
    for _ in range(8):
        runtime.note_cpu_at_least(40 * MS)
    assert runtime.heavy
    for _ in range(50):
        runtime.note_cpu_at_least(MS)
    assert runtime.heavy

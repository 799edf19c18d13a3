"""What a guest did not use is its own doing where it slept, and nobody's where others had the cores."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from wisp.scheduling.idleness import STEP_NS, Idleness, Standing, look

MS = 1_000_000


def test_time_without_a_core_is_no_idleness() -> None:
    idleness = Idleness(1, 0, 0, 0)
    for number in range(1, 11):
        idleness.note(number * STEP_NS, 0, 0, asleep=False)  # the kernel tells when it gets one
    assert idleness.idle_ns == 0
    idleness.note(11 * STEP_NS, 5 * MS, 11 * STEP_NS - 5 * MS, asleep=True)
    assert idleness.idle_ns == 0


def test_sleep_is_idleness_and_work_is_not() -> None:
    idleness = Idleness(1, 0, 0, 0)
    for number in range(1, 11):
        idleness.note(number * STEP_NS, number * 5 * MS, number * 2 * MS, asleep=True)
    assert idleness.idle_ns == 10 * (STEP_NS - 7 * MS)


def test_sleep_that_is_never_seen_counts_once_it_is() -> None:
    idleness = Idleness(1, 0, 0, 0)
    for number in range(1, 10):
        idleness.note(number * STEP_NS, number * MS, 0, asleep=False)
    idleness.note(10 * STEP_NS, 10 * MS, 0, asleep=True)
    assert idleness.idle_ns == 10 * (STEP_NS - MS)


def test_who_looks_late_knows_nothing_of_the_time_between() -> None:
    idleness = Idleness(1, 0, 0, 0)
    idleness.note(STEP_NS + 500 * MS, 0, 0, asleep=True)
    assert idleness.idle_ns == STEP_NS
    idleness.note(2 * STEP_NS + 500 * MS, 0, 0, asleep=True)
    assert idleness.idle_ns == 2 * STEP_NS


def test_the_kernel_tells_a_thread_that_sleeps_from_one_that_computes() -> None:
    """In steps that this thread knows: however late it is, the sleeping one is idle for more of them."""
    end, threads = threading.Event(), {}

    def sleep() -> None:
        threads["sleeps"] = threading.get_native_id()
        end.wait(60)

    def compute() -> None:
        threads["computes"] = threading.get_native_id()
        while not end.is_set():
            pass

    standings: dict[str, Standing] = {}
    running = [threading.Thread(target=each) for each in (sleep, compute)]
    for each in running:
        each.start()
    try:
        while len(threads) < 2:
            time.sleep(0.001)
        cpu_ns = dict.fromkeys(threads, 0)
        seen: dict[str, Idleness | None] = dict.fromkeys(threads)
        standings.update((name, Standing(os.getpid(), thread)) for name, thread in threads.items())
        for _ in range(30):
            time.sleep(STEP_NS / 1e9)
            for name, thread in threads.items():
                cpu_ns[name] = int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0])
                seen[name] = look(seen[name], standings[name], time.monotonic_ns(), cpu_ns[name])
        sleeps, computes = seen["sleeps"], seen["computes"]
        assert sleeps is not None
        assert computes is not None
        assert sleeps.idle_ns > 10 * STEP_NS
        assert computes.idle_ns < sleeps.idle_ns / 2
    finally:
        end.set()
        for standing in standings.values():
            standing.close()
        for each in running:
            each.join(30)


def test_a_thread_that_has_ended_is_not_looked_at() -> None:
    known, began, end = Idleness(1, 0, 0, 0), threading.Event(), threading.Event()
    threads: list[int] = []

    def wait() -> None:
        threads.append(threading.get_native_id())
        began.set()
        end.wait(30)

    thread = threading.Thread(target=wait)
    thread.start()
    assert began.wait(30)
    standings = [Standing(os.getpid(), 0), Standing(os.getpid(), threads[0])]
    end.set()
    thread.join(30)
    until_s = time.monotonic() + 30
    while standings[1].state() and time.monotonic() < until_s:  # the kernel's part of its end
        time.sleep(0.001)
    for standing in standings:  # never there; gone since
        assert look(known, standing, 10**12, 0) is known
        assert look(None, standing, 10**12, 0) is None
        standing.close()
        standing.close()
    assert known.idle_ns == 0

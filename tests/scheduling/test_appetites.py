"""Who uses more than its share of the processor is known, and what that process runs on is made less urgent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wisp.scheduling import appetites
from wisp.scheduling.appetites import LONG_NICENESS, MOST_NS, Appetite, slow_down

PATIENCE_S = 30.0
BUSY = """
import threading
def spin():
    while True: pass
threading.Thread(target=spin).start()
print("spins", flush=True)
spin()
"""


@pytest.fixture
def busy() -> Iterator[int]:
    """A process of two threads that uses all that it gets."""
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


def looked_at_until_it_used(appetite: Appetite, used_ns: int) -> None:
    until_s = time.monotonic() + PATIENCE_S
    clock = (~appetite.pid << 3) | 2
    began_ns = time.clock_gettime_ns(clock)
    while time.clock_gettime_ns(clock) < began_ns + used_ns:
        assert time.monotonic() < until_s
        time.sleep(0.01)
        appetite.look()


def test_one_that_uses_more_than_its_share_is_over_it_and_has_to_make_up_for_it(
    busy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appetites, "CALM_NS", 50_000_000)
    appetite = Appetite(busy, share=0.0)
    assert appetite.calm
    looked_at_until_it_used(appetite, MOST_NS + 1)
    appetite.look()
    assert appetite.over
    os.kill(busy, 19)  # SIGSTOP
    appetite.look()
    assert not appetite.calm, "it has stopped, but made up for nothing"
    appetite._share = 1000.0
    time.sleep(0.01)
    appetite.look()
    assert not appetite.over
    time.sleep(0.06)
    appetite.look()
    assert appetite.calm


def test_who_has_made_up_for_it_has_to_stay_calm_for_a_while(busy: int) -> None:
    appetite = Appetite(busy, share=0.0)
    looked_at_until_it_used(appetite, MOST_NS + 1)
    os.kill(busy, 19)
    appetite._share = 1000.0
    for _ in range(2):
        time.sleep(0.01)
        appetite.look()
    assert not appetite.over
    assert not appetite.calm


def test_one_that_keeps_to_its_share_never_is(busy: int) -> None:
    appetite = Appetite(busy, share=2.0 * (os.cpu_count() or 1))
    looked_at_until_it_used(appetite, MOST_NS // 4)
    assert appetite.calm
    assert not appetite.over


def test_what_it_used_before_it_was_looked_at_does_not_count(busy: int) -> None:
    looked_at_until_it_used(Appetite(busy, share=0.0), MOST_NS // 4)
    os.kill(busy, 19)
    late = Appetite(busy, share=0.0)
    late.look()
    assert late.calm


def test_every_thread_is_slowed_down_and_a_process_that_is_gone_is_no_fault(busy: int) -> None:
    slow_down(busy)
    tasks = list(Path(f"/proc/{busy}/task").iterdir())
    assert [os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in tasks] == [LONG_NICENESS] * 2
    os.kill(busy, 9)
    os.waitid(os.P_PID, busy, os.WEXITED | os.WNOWAIT)
    slow_down(busy)
    Appetite(busy, share=0.0).look()

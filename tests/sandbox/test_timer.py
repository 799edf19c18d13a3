"""The deadline of a running guest, kept by the kernel: as this process's user, and as nobody with all walls up."""

from __future__ import annotations

import ctypes
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from sandbox.children import SandboxChild
from sandbox.guests import ANSWER, Bench, handler
from wisp.sandbox import wasi
from wisp.sandbox.capi import INCREMENT_EPOCH
from wisp.sandbox.engine import Engine
from wisp.sandbox.timer import EPOCH_TICKS, DeadlineTimer
from wisp.wire.outcome import Outcome
from wisp.wire.walls import UNPRIVILEGED

NOBODY = 65534
FOREVER: dict[str, Any] = {"fuel": 2**63 - 1}
LOOP = handler(f"(loop $again (br $again)) {ANSWER}")


def test_guests_after_one_that_was_stopped_are_not(bench: Bench) -> None:
    """Late ticks of one guest's deadline must not end the next."""
    for _ in range(20):
        assert bench.run(LOOP, timeout_s=0.005, **FOREVER).outcome is Outcome.DEADLINE_EXCEEDED
        assert bench.run(handler()).outcome is Outcome.OK


def test_a_guest_that_is_in_time_is_not_stopped(bench: Bench) -> None:
    turns = handler(
        f"""(local $i i32)
        (loop $again
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $again (i32.lt_u (local.get $i) (i32.const 2000000))))
        {ANSWER}"""
    )
    assert bench.run(turns, **FOREVER).outcome is Outcome.OK


def test_what_is_to_be_stopped_before_it_begins_ends_as_it_begins(bench: Bench) -> None:
    """Its caller may hang up while its frame still lies in the socket. Who comes next does not suffer for it."""
    bench.runner.stop(bench.number + 1)
    assert bench.run(LOOP, timeout_s=3600.0, **FOREVER).outcome is Outcome.DEADLINE_EXCEEDED
    assert bench.run(handler()).outcome is Outcome.OK
    bench.runner.stop(bench.number)  # it has ended
    assert bench.run(handler()).outcome is Outcome.OK


@pytest.mark.parametrize("user", [None, NOBODY])
def test_the_deadline_holds_for_any_user(tmp_path: Path, user: int | None) -> None:
    if user is not None and os.geteuid() != 0:
        pytest.skip("only root can start a child as nobody; as this user it is tested beside")
    child = SandboxChild(tmp_path, user=user)
    try:
        owner = int(re.findall(r"^Uid:\t(\d+)", Path(f"/proc/{child.pid}/status").read_text(), re.MULTILINE)[0])
        assert owner == (user or os.geteuid() or UNPRIVILEGED)
        assert [wall for wall, state in child.ready["walls"].items() if not state["up"]] == []
        for _ in range(3):
            assert child.run(LOOP, timeout_s=0.05, **FOREVER).outcome is Outcome.DEADLINE_EXCEEDED
            assert child.run(handler()).outcome is Outcome.OK
    finally:
        assert child.finish() == 0, child.stderr


def test_closing_a_timer_twice_is_closing_it_once() -> None:
    engine = Engine()
    timer = DeadlineTimer(engine.pointer)
    timer.arm(time.monotonic_ns() + 10**12)
    timer.disarm()
    timer.close()
    timer.close()
    engine.close()


@pytest.mark.parametrize(
    ("ticks", "outcome"), [(EPOCH_TICKS - 1, Outcome.OK), (EPOCH_TICKS, Outcome.DEADLINE_EXCEEDED)]
)
def test_ticks_that_come_late_end_nobody_until_they_pile_up(
    monkeypatch: pytest.MonkeyPatch, ticks: int, outcome: Outcome
) -> None:
    """A thread that was slow to start may deliver a former guest's tick to this one."""
    increment = ctypes.CFUNCTYPE(None, ctypes.c_size_t)(INCREMENT_EPOCH)

    def deliver(*_arguments: object) -> int:
        for _ in range(ticks):
            increment(bench.runner.engine.pointer)
        return 0

    monkeypatch.setitem(wasi.FUNCTIONS, "sched_yield", deliver)
    bench = Bench()
    try:
        wat = handler(
            f"""(local $i i32) (drop (call $yield))
            (loop $again
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (br_if $again (i32.lt_u (local.get $i) (i32.const 1000))))
            {ANSWER}""",
            before='(import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))',
        )
        assert bench.run(wat).outcome is outcome
    finally:
        bench.close()


def is_armed(timer: DeadlineTimer) -> bool:
    """By timer_gettime(2), on the kernel's timer itself: interval and value, in seconds and nanoseconds each."""
    spec = (ctypes.c_long * 4)()
    assert ctypes.CDLL(None).timer_gettime(timer._timer, spec) == 0
    return any(spec[2:])


def test_the_timer_is_armed_while_a_guest_runs_and_at_no_other_time(bench: Bench) -> None:
    timer = bench.runner.timer
    timer.arm(time.monotonic_ns() + 10**12)
    assert is_armed(timer)
    timer.disarm()
    for guest, timeout_s in ((handler(), 20.0), (LOOP, 0.01), (handler("unreachable"), 20.0)):
        bench.run(guest, timeout_s=timeout_s, **FOREVER)
        assert not is_armed(timer)

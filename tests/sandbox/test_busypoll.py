from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from wisp.sandbox import busypoll
from wisp.sandbox.busypoll import LONGEST_NS, TURN_NS, BusyPoll

LOOK_NS = 1000


class Stage:
    """A descriptor, a clock that others' turns move, and how often the core was offered to them."""

    def __init__(self) -> None:
        self.far, self.near = socket.socketpair()
        self.now_ns = 0
        self.looks = 0
        self.policy = os.SCHED_OTHER
        self.meanwhile: Callable[[], None] = lambda: None
        self.poll = BusyPoll(self.near.fileno())

    def sched_yield(self) -> None:
        self.looks += 1
        self.now_ns += LOOK_NS
        self.meanwhile()

    def waited(self) -> int:
        """How often it looked in one wait."""
        before = self.looks
        self.poll.wait()
        return self.looks - before

    def come(self, after_ns: int) -> None:
        """The first request, so long after it was waited for."""
        assert self.waited() == 0
        self.now_ns += after_ns
        self.poll.note()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    stage = Stage()
    monkeypatch.setattr(busypoll, "time", SimpleNamespace(monotonic_ns=lambda: stage.now_ns))
    monkeypatch.setattr(os, "sched_yield", stage.sched_yield)
    monkeypatch.setattr(os, "sched_getscheduler", lambda _: stage.policy)
    yield stage
    stage.far.close()
    stage.near.close()


def test_who_is_called_now_and_then_sleeps_at_once(stage: Stage) -> None:
    stage.come(after_ns=LONGEST_NS)
    assert stage.waited() == 0


def test_after_a_request_that_came_soon_the_next_is_looked_for_and_not_for_ever(stage: Stage) -> None:
    stage.come(after_ns=LONGEST_NS - 1)
    assert stage.waited() == LONGEST_NS // LOOK_NS
    stage.now_ns += 1
    stage.poll.note()  # it slept at last, and what woke it came too late
    assert stage.waited() == 0


def test_what_comes_meanwhile_ends_the_wait(stage: Stage) -> None:
    def send_at_the_third() -> None:
        if stage.looks == 3:
            stage.far.send(b"x")

    stage.come(after_ns=0)
    stage.meanwhile = send_at_the_third
    assert stage.waited() == 3
    stage.poll.note()
    assert stage.waited() == 0  # it lies there still
    assert stage.near.recv(1) == b"x"
    assert stage.waited() == LONGEST_NS // LOOK_NS


def test_it_ends_where_another_took_the_core(stage: Stage) -> None:
    def another() -> None:
        stage.now_ns += TURN_NS

    stage.come(after_ns=0)
    stage.meanwhile = another
    assert stage.waited() == 1


@pytest.mark.parametrize("flag", [0, os.SCHED_RESET_ON_FORK])
def test_it_sleeps_at_once_in_real_time(stage: Stage, flag: int) -> None:
    stage.come(after_ns=0)
    stage.policy = os.SCHED_RR | flag
    assert stage.waited() == 0


def test_the_end_of_the_other_side_ends_the_wait(stage: Stage) -> None:
    stage.come(after_ns=0)
    stage.far.close()
    assert stage.waited() == 0

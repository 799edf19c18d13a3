"""No tenant ever holds every sandbox, and the last one is left for a brief run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.scheduling.shares import PENALTY_NS, Shares


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def take_all(shares: Shares, tenant: str, *, brief: bool) -> int:
    taken = 0
    while shares.may_take(tenant, brief):
        shares.take(tenant, brief=brief)
        taken += 1
    return taken


def test_long_runs_of_one_tenant_fill_the_workers_of_all_but_one() -> None:
    shares = Shares(2, 2, Clock())
    assert take_all(shares, "a", brief=False) == 2 == shares.most(brief=False)
    assert take_all(shares, "b", brief=False) == 1
    assert take_all(shares, "c", brief=False) == 0
    assert shares.may_take("c", True)
    shares.give_back("a", brief=False)
    assert shares.may_take("c", False)


@pytest.mark.parametrize(("missing", "long"), [(0, 3), (1, 2), (2, 1), (3, 1)])
def test_the_last_of_those_that_are_there_is_left_for_a_brief_run(missing: int, long: int) -> None:
    shares = Shares(2, 2, Clock())
    shares.missing = missing
    assert sum(take_all(shares, tenant, brief=False) for tenant in "abc") == long
    assert shares.may_take("d", True)
    assert not shares.may_take("d", False)


def test_the_last_place_for_long_runs_is_for_a_tenant_that_has_none() -> None:
    shares = Shares(2, 2, Clock())
    for tenant in "ab":
        shares.take(tenant, brief=False)
    assert not shares.may_take("a", False)
    assert not shares.waits_for("a", brief=False)("b", True)
    assert shares.waits_for("a", brief=False)("b", False)
    assert shares.may_take("c", False)
    shares.give_back("b", brief=False)
    assert shares.may_take("a", False)


def test_a_newcomer_goes_before_whoever_has_a_long_run_already() -> None:
    shares = Shares(2, 2, Clock())
    shares.take("a", brief=False)
    assert shares.is_newcomer("b", False)
    assert not shares.is_newcomer("b", True)
    assert not shares.is_newcomer("a", False)
    assert shares.may_take("a", False)
    assert not shares.may_take_behind("a", False)
    assert shares.may_take_behind("a", True)
    assert shares.may_take_behind("b", False)


def test_brief_runs_of_one_tenant_leave_one() -> None:
    shares = Shares(2, 2, Clock())
    for _ in range(3):
        assert shares.may_take("a", True)
        shares.take("a", brief=True)
    assert not shares.may_take("a", True)
    assert not shares.may_take("a", False)
    assert shares.may_take("b", False)


@pytest.mark.parametrize(("workers", "spare"), [(1, 1), (2, 0), (2, 1), (4, 4), (16, 4)])
def test_whatever_the_size_nobody_gets_all_of_it(workers: int, spare: int) -> None:
    for brief in (True, False):
        shares = Shares(workers, spare, Clock())
        assert 1 <= take_all(shares, "a", brief=brief) < shares.total


def test_a_single_sandbox_is_everybodys() -> None:
    shares = Shares(1, 0, Clock())
    assert shares.may_take("a", False)
    assert shares.most(brief=True) == shares.most(brief=False) == 1


def test_a_brief_run_that_was_none_costs_its_tenant_the_trust_for_a_while() -> None:
    clock = Clock()
    shares = Shares(1, 1, clock)
    assert shares.is_trusted("a")
    shares.take("a", brief=True)
    shares.take_long("a")
    shares.distrust("a")
    assert not shares.is_trusted("a")
    assert not shares.may_take("b", False)
    assert shares.may_take("b", True)
    shares.give_back("a", brief=False)
    assert shares.may_take("b", False)
    clock.now_ns += PENALTY_NS
    assert shares.is_trusted("a")


def test_who_waits_waits_for_those_that_are_in_the_way() -> None:
    shares = Shares(2, 2, Clock())
    take_all(shares, "a", brief=False)
    assert shares.waits_for("a", brief=False)("a", False)
    assert not shares.waits_for("a", brief=False)("b", False)
    assert shares.waits_for("a", brief=True)("b", True)
    take_all(shares, "b", brief=False)
    assert shares.waits_for("c", brief=False)("a", False)
    assert not shares.waits_for("c", brief=False)("a", True)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=100))
def test_whatever_comes_and_goes_one_is_left_for_a_brief_run_of_somebody_else(steps: list[tuple[str, bool]]) -> None:
    shares = Shares(2, 2, Clock())
    running: list[tuple[str, bool]] = []
    for tenant, brief in steps:
        if len(running) < shares.total and shares.may_take(tenant, brief):
            shares.take(tenant, brief=brief)
            running.append((tenant, brief))
        elif running:
            gone, was_brief = running.pop(0)
            shares.give_back(gone, brief=was_brief)
        assert sum(not short for _, short in running) == shares.long < shares.total
        assert all(sum(name == each for name, _ in running) < shares.total for each in "abc")
    for tenant, brief in running:
        shares.give_back(tenant, brief=brief)
    assert shares.long == 0
    assert take_all(shares, "a", brief=True) == shares.total - 1

"""What was sent ahead is taken back or begins, never both."""

from __future__ import annotations

from wisp.sandbox.sentahead import SentAhead


def test_what_has_begun_is_not_taken_back() -> None:
    ahead = SentAhead()
    assert ahead.begin(1)
    assert not ahead.withdraw(1)
    assert ahead.withdraw(2)
    assert not ahead.begin(2)
    assert ahead.begin(3)


def test_several_may_be_taken_back_and_nothing_stays_of_them() -> None:
    ahead = SentAhead()
    assert ahead.withdraw(4)
    assert ahead.withdraw(5)
    assert [ahead.begin(number) for number in (3, 4, 5, 6)] == [True, False, False, True]
    assert not ahead._withdrawn

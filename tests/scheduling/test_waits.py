"""A request that could not be served in time is told at once, whose fault it is, and when to come again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wisp.errors import QueueTimeout, TooManyInflight
from wisp.scheduling.waits import NS, Wait, refuse_hopeless

NOTHING = Wait(first_ns=0, own_ns=0, all_ns=0, own_most=3, sandboxes=4, share=1.0)


def test_where_nothing_is_known_nobody_is_refused() -> None:
    refuse_hopeless(NOTHING, 0.001)
    assert NOTHING.retry_after_s == 1


def test_the_tenants_own_requests_in_the_way_are_its_own_affair() -> None:
    wait = replace(NOTHING, own_ns=9 * NS, all_ns=9 * NS)
    refuse_hopeless(wait, 3.0)
    with pytest.raises(TooManyInflight) as refused:
        refuse_hopeless(wait, 2.9)
    assert refused.value.retry_after_s == 3


def test_others_in_the_way_are_the_nodes_affair() -> None:
    wait = replace(NOTHING, first_ns=4 * NS)
    refuse_hopeless(wait, 4.0)
    with pytest.raises(QueueTimeout) as refused:
        refuse_hopeless(wait, 0.5)
    assert refused.value.retry_after_s == 4


def test_a_share_is_a_promise_whatever_others_have_waiting() -> None:
    """One of two equal tenants gets half of four sandboxes: its half second of work begins within a quarter."""
    wait = replace(NOTHING, own_ns=NS // 2, all_ns=1000 * NS, share=0.5)
    assert wait.expected == NS / 4
    refuse_hopeless(wait, 0.3)


def test_what_waits_in_all_is_the_most_that_a_small_share_waits_for() -> None:
    wait = replace(NOTHING, own_ns=NS // 2, all_ns=4 * NS, share=0.01)
    assert wait.expected == NS
    with pytest.raises(QueueTimeout):
        refuse_hopeless(wait, 0.9)


def test_the_hint_is_bounded() -> None:
    assert replace(NOTHING, first_ns=3600 * NS).retry_after_s == 60

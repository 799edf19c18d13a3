"""The arithmetic of SCALING.md, beside what a simulation with the real script comes to."""

from __future__ import annotations

import pytest

from bench.capacity import first_full, lease_rate, loads, nodes_needed, short_lease_rate
from bench.leasesim import fanned_out, quota, simulated
from bench.scaling import BASE, COSTS


@pytest.mark.parametrize("burst", [500, 10**5])
@pytest.mark.parametrize("rate", [0.1, 1, 10])
async def test_leases_are_as_many_as_arithmetic_says(rate: float, burst: int) -> None:
    outcome = await simulated(quota(10**5, burst), [rate], lasts_s=200)
    assert outcome.leases_per_s == pytest.approx(lease_rate(rate, burst), rel=0.4)
    assert outcome.refused == 0


async def test_nodes_that_are_short_exceed_neither_the_quota_nor_the_churn() -> None:
    outcome = await simulated(quota(40, 60), [40, 40, 40], lasts_s=10)
    assert 0.9 * outcome.most < outcome.accepted <= outcome.most
    assert outcome.leases_per_s <= short_lease_rate(3)


def test_a_lost_event_is_noticed_by_the_next_comparison() -> None:
    fan = fanned_out(nodes=10, writes=10, loss=0.01, lasts_s=100, every_s=0.5)
    assert fan.lost
    assert fan.longest_s <= 0.5
    assert fan.delivered + fan.lost == pytest.approx(10 * 10 * 100, rel=0.1)


def test_a_hundred_times_as_much_fills_something_and_homes_help() -> None:
    assert first_full(loads(BASE, COSTS, nodes_needed(BASE, COSTS))) is None
    more = BASE.scaled(100)
    nodes = nodes_needed(more, COSTS)
    redis = [
        next(load.share for load in loads(more, COSTS, nodes, homes=homes) if load.resource == "Redis, a primary")
        for homes in (nodes, 2)
    ]
    assert redis[1] < redis[0] / 2

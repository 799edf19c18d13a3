"""What becomes of measured figures: the arithmetic of tests/bench/unitcosts.py, without measuring."""

from __future__ import annotations

from dataclasses import fields

import pytest

from bench.capacity import Costs
from bench.redisunits import line_of
from bench.report import Result
from bench.scaling import COSTS
from bench.unitcosts import costs_of, shown

MEASURED = [Result(name=field.name, value=getattr(COSTS, field.name), unit="µs") for field in fields(Costs)]


def test_a_line_tells_what_is_fixed_from_what_each_adds() -> None:
    assert line_of([(1, 12.0), (8, 26.0), (64, 138.0)]) == pytest.approx((10.0, 2.0))


def test_a_line_goes_between_points_that_scatter() -> None:
    at_zero, slope = line_of([(0, 1.0), (0, 3.0), (10, 11.0), (10, 13.0)])
    assert (at_zero, slope) == pytest.approx((2.0, 1.0))


def test_figures_become_costs_by_their_names_beside_others() -> None:
    assert costs_of([Result(name="blob put", value=1.0, unit="ms"), *MEASURED]) == COSTS


def test_a_figure_that_is_missing_or_empty_is_named() -> None:
    gone = MEASURED[1:]
    with pytest.raises(ValueError, match=f"not measured: {MEASURED[0].name}$"):
        costs_of(gone)
    with pytest.raises(ValueError, match=f"not measured: {MEASURED[0].name}$"):
        costs_of([Result(name=MEASURED[0].name, value=None, unit="µs"), *gone])


def test_the_table_names_every_figure_with_its_unit() -> None:
    lines = shown(MEASURED).splitlines()[1:]
    assert [line.split()[0] for line in lines] == [result.name for result in MEASURED]
    assert all(line.endswith("µs") for line in lines)

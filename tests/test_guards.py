"""What counts against a candidate."""

from __future__ import annotations

import pytest

from wisp.guards import NO_FAULT, failed
from wisp.wire.exchange import Response
from wisp.wire.outcome import Outcome


def response(status: int) -> Response:
    return Response(status=status, headers=(), body=memoryview(b""))


@pytest.mark.parametrize(("status", "to_blame"), [(200, False), (404, False), (499, False), (500, True), (503, True)])
def test_an_answer_of_5xx_is_an_error(status: int, to_blame: bool) -> None:
    assert failed(Outcome.OK, response(status)) is to_blame


@pytest.mark.parametrize("outcome", sorted(set(Outcome) - NO_FAULT))
def test_every_ending_that_is_the_guests_own_is_an_error(outcome: Outcome) -> None:
    assert failed(outcome, None)


def test_a_lost_process_is_not_the_versions_fault() -> None:
    assert not failed(Outcome.CHILD_LOST, None)

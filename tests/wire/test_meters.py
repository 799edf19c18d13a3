"""A meter: what its writer added is what its reader gets, for the invocation that it is for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from wisp.wire.meters import METER, NOTHING, Meter, Metered


@pytest.fixture
def meter() -> Iterator[Meter]:
    made = Meter.create()
    yield made
    made.close()


def test_inferences_add_up_until_the_next_invocation_begins(meter: Meter) -> None:
    meter.begin(7)
    assert meter.read(7) == NOTHING
    meter.add(7, 1_000, 64)
    meter.add(7, 500, 36)
    assert meter.read(7) == Metered(nn_ns=1_500, inferences=2, tensor_bytes=100)
    meter.begin(8)
    assert meter.read(8) == NOTHING


def test_an_invocation_is_told_nothing_of_another(meter: Meter) -> None:
    meter.begin(7)
    meter.add(6, 1_000, 64)
    meter.start(6, time.monotonic_ns())
    assert meter.read(7) == NOTHING
    assert meter.read(6) == NOTHING


def test_what_still_runs_is_counted_up_to_now_and_once(meter: Meter) -> None:
    meter.begin(7)
    meter.start(7, time.monotonic_ns() - 5_000_000)
    running = meter.read(7)
    assert running.inferences == 1
    assert running.nn_ns >= 5_000_000
    meter.start(7, time.monotonic_ns() - 5_000_000, 3)
    assert meter.read(7).nn_ns >= 15_000_000, "on each of its threads"
    meter.add(7, 6_000_000, 8)
    assert meter.read(7) == Metered(nn_ns=6_000_000, inferences=1, tensor_bytes=8)


def test_a_reader_beside_its_writer_never_sees_half_of_an_inference(meter: Meter) -> None:
    meter.begin(1)
    rounds = 2_000

    def write() -> None:
        for _ in range(rounds):
            meter.add(1, 1_000, 10)

    writer = threading.Thread(target=write)
    writer.start()
    seen = [meter.read(1) for _ in range(rounds)]
    writer.join(30)
    assert all(one.nn_ns == one.inferences * 1_000 and one.tensor_bytes == one.inferences * 10 for one in seen)
    assert meter.read(1).inferences == rounds


def test_a_host_that_writes_nonsense_gives_numbers_that_can_be_stored(meter: Meter) -> None:
    METER.pack_into(meter.segment.view, 0, 1, 7, *[2**64 - 1] * 5)
    assert max(meter.read(7).nn_ns, meter.read(7).inferences, meter.read(7).tensor_bytes) < 2**63

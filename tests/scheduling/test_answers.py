"""A large answer leaves its segment whole, a slice at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator

import pytest

from wisp.scheduling.answers import SLICE_BYTES, take_out
from wisp.wire.segments import Segment

SIZE_BYTES = 5 * SLICE_BYTES


@pytest.fixture
def segment() -> Iterator[Segment]:
    with Segment.create("answer", SIZE_BYTES) as made:
        yield made


def taken_bytes(segment: Segment) -> int:
    return os.fstat(segment.fd).st_blocks * 512


@pytest.mark.parametrize("used", [1, SLICE_BYTES, SLICE_BYTES + 1, SIZE_BYTES - 7, SIZE_BYTES])
async def test_it_comes_out_as_it_was_written_and_nothing_stays(segment: Segment, used: int) -> None:
    said = os.urandom(used)
    segment.view[:used] = said
    assert bytes(await take_out(segment, used)) == said
    assert taken_bytes(segment) == 0
    assert not any(segment.view)


async def test_others_are_served_between_its_slices(segment: Segment) -> None:
    segment.view[:SIZE_BYTES] = bytes(range(256)) * (SIZE_BYTES // 256)
    left: list[int] = []
    taking = asyncio.create_task(take_out(segment, SIZE_BYTES))
    while not taking.done():
        await asyncio.sleep(0)
        left.append(taken_bytes(segment))
    assert set(left) >= {SIZE_BYTES - number * SLICE_BYTES for number in range(1, SIZE_BYTES // SLICE_BYTES)}


async def test_one_that_is_stopped_leaves_the_rest_where_it_is(segment: Segment) -> None:
    segment.view[:SIZE_BYTES] = b"x" * SIZE_BYTES
    taking = asyncio.create_task(take_out(segment, SIZE_BYTES))
    while taken_bytes(segment) == SIZE_BYTES:
        await asyncio.sleep(0)
    taking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await taking
    assert 0 < taken_bytes(segment) < SIZE_BYTES

"""Bodies are bounded twice, by their function and by the node, and give back what they took."""

from __future__ import annotations

import os
import time

import pytest

from wisp.errors import InvalidFrame, Overloaded, RequestTooLarge, TooManyInflight
from wisp.scheduling.bodies import AT_ONCE_BYTES, BITE_BYTES, INLINE_BYTES, JOINED_BYTES, RequestBody
from wisp.scheduling.bodyrooms import BodyRoom
from wisp.scheduling.budget import ByteBudget
from wisp.wire.invocations import LAID_BYTES
from wisp.wire.segments import FROZEN, Segment, require_seals


def test_a_small_body_stays_inline() -> None:
    budget = ByteBudget(1000)
    body = RequestBody(budget, 100)
    body.append(b"ab")
    body.append(b"cd")
    assert body.inline() == b"abcd"
    assert body.segment() == ()
    assert (body.size_bytes, budget.used_bytes) == (4, 4)
    body.close()
    body.close()
    assert budget.used_bytes == 0


@pytest.mark.parametrize("step", [1, 100, JOINED_BYTES - 1, JOINED_BYTES, 60_000])
def test_a_body_that_fits_no_frame_is_kept_in_few_parts(step: int) -> None:
    budget = ByteBudget(1 << 21)
    body = RequestBody(budget, 1 << 21)
    sent = os.urandom(INLINE_BYTES + 1)
    for at in range(0, len(sent), step):
        body.append(sent[at : at + step])
    assert body.inline() == b""
    assert b"".join(body.parts()) == sent
    assert len(body.parts()) <= 2 + len(sent) // JOINED_BYTES
    body.append(bytes(LAID_BYTES))
    assert body.parts() == ()
    (fd,) = body.segment()
    assert os.pread(fd, len(sent), 0) == sent
    body.close()
    assert budget.used_bytes == 0


@pytest.mark.parametrize("step", [1, JOINED_BYTES, 3 * BITE_BYTES])
def test_no_chunk_moves_all_that_lies_in_memory(step: int) -> None:
    budget = ByteBudget(1 << 23)
    body = RequestBody(budget, 1 << 23)
    sent = os.urandom(LAID_BYTES)
    for at in range(0, LAID_BYTES, 60_000):
        body.append(sent[at : at + 60_000])
    written = 0
    while written < body.size_bytes < 6 << 20:
        more = os.urandom(step)
        body.append(more)
        sent += more
        assert body.parts() == ()
        now = os.fstat(body._fd).st_size
        assert now - written <= BITE_BYTES + step
        written = now
    assert written == body.size_bytes
    body.append(b"and more")
    (fd,) = body.segment()
    assert os.pread(fd, len(sent) + 8, 0) == sent + b"and more"
    body.close()
    assert budget.used_bytes == 0


def test_what_was_laid_for_one_request_is_gone_for_the_next() -> None:
    room = BodyRoom()
    with Segment(os.dup(room.fd)) as seen:
        room.lay([b"ab", bytearray(b"cd"), bytes([255]) * (LAID_BYTES - 4)])
        assert bytes(seen.view[:5]) == b"abcd\xff"
        assert seen.view[-1] == 255
        room.lay([b"xy"])
        assert bytes(seen.view) == b"xy" + bytes(LAID_BYTES - 2)
        room.wipe()
        assert bytes(seen.view) == bytes(LAID_BYTES)
    room.close()


def test_a_large_body_lies_whole_in_a_frozen_segment() -> None:
    budget = ByteBudget(1 << 20)
    body = RequestBody(budget, 1 << 20)
    sent = os.urandom(3 * INLINE_BYTES)
    for at in range(0, len(sent), 1000):
        body.append(sent[at : at + 1000])
    assert body.inline() == b""
    (fd,) = body.segment()
    assert require_seals(fd, FROZEN) == len(sent)
    with Segment(os.dup(fd), writable=False) as mapped:
        assert mapped.view.tobytes() == sent
    with pytest.raises(OSError, match="not permitted"):
        body.append(b"late")
    body.close()
    with pytest.raises(InvalidFrame):
        require_seals(fd, FROZEN)


def test_the_functions_limit_is_named_and_nothing_is_taken() -> None:
    budget = ByteBudget(1000)
    body = RequestBody(budget, 10)
    body.append(b"123456789")
    with pytest.raises(RequestTooLarge) as refused:
        body.append(b"12")
    assert (refused.value.limit, refused.value.used) == (10, 11)
    assert budget.used_bytes == 9
    body.close()


def test_the_nodes_budget_is_shared_and_given_back() -> None:
    budget = ByteBudget(100)
    first, second = RequestBody(budget, 100), RequestBody(budget, 100)
    first.append(bytes(60))
    with pytest.raises(Overloaded):
        second.append(bytes(41))
    assert second.size_bytes == 0
    first.close()
    second.append(bytes(100))
    second.close()
    assert budget.used_bytes == 0


def test_no_owner_holds_more_than_it_leaves_to_others() -> None:
    budget = ByteBudget(100)
    greedy = [RequestBody(budget, 100, "greedy") for _ in range(6)]
    for body in greedy[:5]:
        body.append(bytes(10))
    with pytest.raises(TooManyInflight):
        greedy[5].append(bytes(10))
    other = RequestBody(budget, 100, "other")
    other.append(bytes(25))
    with pytest.raises(TooManyInflight):
        other.append(bytes(1))
    RequestBody(budget, 100, "third").append(bytes(12))
    for body in (*greedy, other):
        body.close()
    assert budget.used_bytes == 12
    alone = RequestBody(budget, 100, "alone")
    alone.append(bytes(80))  # what has to be whole is not refused to somebody who holds nothing
    alone.close()


def test_a_large_one_is_given_back_too() -> None:
    body = RequestBody(ByteBudget(4 * AT_ONCE_BYTES), 4 * AT_ONCE_BYTES)
    body.append(bytes(2 * AT_ONCE_BYTES))
    (fd,) = body.segment()
    mine = os.fstat(fd)
    body.close()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            now = os.fstat(fd)
        except OSError:
            return
        if (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino):
            return  # another's already
        time.sleep(0.001)
    raise AssertionError("its descriptor is still open")

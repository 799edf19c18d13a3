"""One reservation for every guest in turn: what one leaves behind, the next must neither reach nor find."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.guests import ANSWER, Bench, handler
from wisp.sandbox.habits import CLEARED_BYTES, FEW_PAGES, Habit
from wisp.sandbox.pagemap import PageMap, open_pagemap
from wisp.wire.outcome import Outcome

PAGE = 65536


def peek(address: int, memory: str = "1") -> str:
    """Answers 200 if the byte there is zero, traps (unreachable) if it is not."""
    return handler(f"(if (i32.load8_u (i32.const {address})) (then unreachable)) {ANSWER}", memory=memory)


def scribble(pages: int) -> str:
    """Fills all of its memory with 0xAA, but for its response."""
    return handler(
        f"(memory.fill (i32.const 28) (i32.const 170) (i32.const {pages * PAGE - 28})) {ANSWER}", memory=str(pages)
    )


# Traps (unreachable) if any byte of its memory from 8192 on is not zero.
ALL_ZERO = handler(
    f"""(local $at i32)
    (local.set $at (i32.const 8192))
    (loop $next
      (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then unreachable))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $next (i32.lt_u (local.get $at) (i32.mul (memory.size) (i32.const {PAGE})))))
    {ANSWER}""",
    memory="4 64",
)


def test_a_small_guest_after_a_large_one_traps_beyond_its_own_memory(bench: Bench) -> None:
    assert bench.run(scribble(64)).outcome is Outcome.OK
    for address in (PAGE, PAGE + 1, 32 * PAGE, 64 * PAGE - 1, 64 * PAGE, 2**31, 2**32 - 1):
        ending = bench.run(peek(address - 2**32 if address >= 2**31 else address))
        assert ending.outcome is Outcome.GUEST_TRAP
        assert "out of bounds" in ending.detail
    assert bench.run(peek(PAGE - 1)).outcome is Outcome.OK


@pytest.fixture(params=["given back", "cleared"])
def habit(request: pytest.FixtureRequest, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Habit:
    """Of the guest that leaves something behind."""
    if request.param == "given back":
        monkeypatch.setattr(bench.runner.arena, "_pages", PageMap(-1))
    return Habit(touched_pages=1e9)


def test_every_guest_finds_its_memory_zero(bench: Bench, habit: Habit) -> None:
    for pages in (4, 64, 5, 200):
        assert bench.run(scribble(pages), habit=habit).outcome is Outcome.OK
        assert bench.run(ALL_ZERO).outcome is Outcome.OK


def test_memory_is_zero_however_its_guests_leave_it(bench: Bench) -> None:
    """Each by its own habit, as it comes to be."""
    filling, growing, sparing = Habit(), Habit(), Habit()
    for _ in range(100):
        assert bench.run(scribble(40), habit=filling).outcome is Outcome.OK
        assert bench.run(ALL_ZERO, habit=growing).outcome is Outcome.OK
        assert bench.run(handler(), habit=sparing).outcome is Outcome.OK
    assert filling.clears(40 * PAGE // mmap.PAGESIZE)
    assert not sparing.clears(17 * PAGE // mmap.PAGESIZE)


# Writes 0xAA to the addresses in its message, of 40 pages.
WRITES = handler(
    f"""(local $end i32) (local.set $end (i32.add (local.get $ptr) (local.get $len)))
    (loop $next
      (i32.store8 (i32.load (local.get $ptr)) (i32.const 170))
      (local.set $ptr (i32.add (local.get $ptr) (i32.const 4)))
      (br_if $next (i32.lt_u (local.get $ptr) (local.get $end))))
    {ANSWER}""",
    memory="40",
)


@given(st.lists(st.integers(8192, 40 * PAGE - 1), min_size=1, max_size=60), st.sampled_from([0.0, 1e9]))
@settings(max_examples=100, deadline=None)
def test_no_byte_that_a_guest_wrote_is_left(bench: Bench, addresses: list[int], touched: float) -> None:
    body = struct.pack(f"<{len(addresses)}I", *addresses)
    assert bench.run(WRITES, body, habit=Habit(touched_pages=touched)).outcome is Outcome.OK
    assert not any(bench.runner.arena.memory[8192 : 40 * PAGE])


def held_pages(bench: Bench, size_bytes: int) -> int:
    held = bench.runner.pages.held(bench.runner.arena.base, size_bytes)
    assert held is not None
    return held.pages


def test_pages_stay_where_few_were_touched_and_go_where_another_touched_them(bench: Bench) -> None:
    addresses = [index * mmap.PAGESIZE for index in range(10, 20)]
    body = struct.pack(f"<{len(addresses)}I", *addresses)
    bench.run(scribble(40), habit=Habit(touched_pages=1e9))
    assert held_pages(bench, 40 * PAGE) == 40 * PAGE // mmap.PAGESIZE
    own = Habit()
    for _ in range(3):
        assert bench.run(WRITES, body, habit=own).outcome is Outcome.OK
    assert len(addresses) <= held_pages(bench, 40 * PAGE) <= len(addresses) + 3


def test_nothing_of_a_large_memory_stays(bench: Bench) -> None:
    pages = CLEARED_BYTES // PAGE + 1
    assert bench.run(scribble(pages), habit=Habit(touched_pages=1e9)).outcome is Outcome.OK
    assert held_pages(bench, pages * PAGE) == 0


def test_what_is_not_known_to_hold_nothing_is_given_back(tmp_path: Path) -> None:
    file = tmp_path / "short"
    file.write_bytes(bytes(800))
    with file.open("rb") as opened:
        assert PageMap(opened.fileno()).held(0, 101 * mmap.PAGESIZE) is None
    assert PageMap(-1).held(0, 101 * mmap.PAGESIZE) is None


def test_a_page_map_shows_no_physical_address() -> None:
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        page[0] = 1
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        fd = open_pagemap()
        (entry,) = struct.unpack("<Q", os.pread(fd, 8, address // mmap.PAGESIZE * 8))
        os.close(fd)
    assert (entry >> 63, entry & (1 << 55) - 1) == (1, 0)


def test_a_habit_is_what_was_seen_last_and_fades() -> None:
    habit = Habit()
    assert habit.clears(FEW_PAGES)
    assert not habit.clears(FEW_PAGES + 1)
    habit.note(100)
    assert habit.clears(800)
    assert not habit.clears(801)
    rounds = 0
    while habit.clears(400):
        habit.note(0)
        rounds += 1
    assert 20 < rounds < 200, "guests that find pages touch no others, and all are given back once in a while"


def test_memory_is_zero_after_a_guest_that_grew_trapped_or_was_stopped(bench: Bench, habit: Habit) -> None:
    fill = f"""(drop (memory.grow (i32.const 30)))
      (memory.fill (i32.const 4096) (i32.const 170) (i32.const {31 * PAGE - 4096}))"""
    for end in (ANSWER, "unreachable", f"(loop $again (br $again)) {ANSWER}"):
        bench.run(handler(fill + end), fuel=10_000_000, habit=habit)
        assert bench.run(ALL_ZERO).outcome is Outcome.OK


def test_what_was_grown_is_zero_and_keeps_what_was_there(bench: Bench) -> None:
    assert bench.run(scribble(100)).outcome is Outcome.OK
    wat = handler(
        f"""(i32.store (i32.const 65532) (i32.const 7))
        (if (i32.ne (memory.grow (i32.const 8)) (i32.const 1)) (then unreachable))
        (if (i32.ne (i32.load (i32.const 65532)) (i32.const 7)) (then unreachable))
        (if (i32.load (i32.const {PAGE})) (then unreachable))
        (if (i32.load (i32.const {9 * PAGE - 4})) (then unreachable))
        (i32.store (i32.const {9 * PAGE - 4}) (i32.const 1))
        {ANSWER}"""
    )
    ending = bench.run(wat)
    assert (ending.outcome, ending.receipt.memory_peak_bytes) == (Outcome.OK, 9 * PAGE)


@pytest.mark.parametrize("limit_pages", [1, 2, 63, 64])
def test_a_guest_grows_to_its_limit_and_no_further(bench: Bench, limit_pages: int) -> None:
    grow = f"(loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) {ANSWER}"
    ending = bench.run(handler(grow), memory_bytes=limit_pages * PAGE)
    assert (ending.outcome, ending.receipt.memory_peak_bytes) == (Outcome.OK, limit_pages * PAGE)


def test_a_limit_between_two_pages_gives_the_lower(bench: Bench) -> None:
    grow = f"(drop (memory.grow (i32.const 1))) {ANSWER}"
    assert bench.run(handler(grow), memory_bytes=2 * PAGE - 1).receipt.memory_peak_bytes == PAGE


def test_a_refusal_is_forgotten_with_its_guest(bench: Bench) -> None:
    refused = handler("(drop (memory.grow (i32.const 65535))) unreachable")
    assert bench.run(refused).outcome is Outcome.MEMORY_EXCEEDED
    assert bench.run(handler("unreachable")).outcome is Outcome.GUEST_TRAP


def test_a_guest_without_pages_has_none(bench: Bench) -> None:
    # It was given a pointer to memory that it does not have.
    ending = bench.run(handler(memory="0 4").replace("(data (i32.const 16)", "(data $later"), b"body")
    assert (ending.outcome, ending.receipt.memory_peak_bytes) == (Outcome.INVALID_GUEST_RESPONSE, 0)


@given(
    st.sampled_from([1, 2, 40]), st.integers(0, 2**32 - 1) | st.integers(65520, 65540), st.sampled_from([1, 2, 4, 8])
)
@settings(max_examples=200, deadline=None)
def test_a_load_is_answered_inside_and_traps_outside(bench: Bench, pages: int, address: int, width: int) -> None:
    # The address comes in the message, so that one module serves every example of a size.
    op = {1: "i64.load8_u", 2: "i64.load16_u", 4: "i64.load32_u", 8: "i64.load"}[width]
    wat = handler(f"(drop ({op} (i32.load (local.get $ptr)))) {ANSWER}", memory=str(pages))
    inside = address + width <= pages * PAGE
    ending = bench.run(wat, address.to_bytes(4, "little"))
    assert ending.outcome is (Outcome.OK if inside else Outcome.GUEST_TRAP)


def test_memory_that_the_system_refuses_is_not_the_guests_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bench.runner.arena, "_make_accessible", lambda _size: False)
        ending = bench.run(handler())
    assert (ending.outcome, "no pages" in ending.detail) == (Outcome.CHILD_LOST, True)
    assert bench.run(handler()).outcome is Outcome.OK


@pytest.mark.parametrize("method", ["_reserve", "_make_accessible", "_clean"])
def test_a_memory_that_cannot_be_kept_clean_ends_its_process(tmp_path: Path, method: str) -> None:
    """A Python exception in these would be taken for success by the engine."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from wisp.sandbox.arena import Arena
def fail(*_arguments):
    raise MemoryError
setattr(Arena, {method!r}, fail)
from sandbox.guests import Bench, handler
Bench().run(handler("(drop (memory.grow (i32.const 1))) (i64.const 0)"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60, check=False, capture_output=True)
    assert done.returncode == -signal.SIGABRT, done.stderr

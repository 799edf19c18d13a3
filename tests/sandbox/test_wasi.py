"""WASI preview 1 as a guest sees it, call by call."""

from __future__ import annotations

import struct
import time
from typing import Any

import pytest

from sandbox.guests import Bench
from sandbox.puppet import MEMORY_BYTES, SCRATCH, Script, Told, pack, puppet, read
from wisp.policy.capabilities import CAPABILITIES, WASI_MODULE
from wisp.sandbox.wasi import COARSE_NS, FUNCTIONS, MAX_IOVECS, MAX_SUBSCRIPTIONS, Errno
from wisp.wire.outcome import Outcome

OUT, OUT2, BUFFER = SCRATCH, SCRATCH + 8, SCRATCH + 64
END = MEMORY_BYTES
EVENT_CLOCK, EVENT_READ, EVENT_WRITE = 0, 1, 2
OK, BADF, FAULT, INVAL, NOSYS, SPIPE = (
    Errno.SUCCESS, Errno.BADF, Errno.FAULT, Errno.INVAL, Errno.NOSYS, Errno.SPIPE,
)  # fmt: skip


def play(bench: Bench, script: Script, **grants: Any) -> Told:
    ending = bench.run(puppet(), script.body(), **grants)
    assert ending.outcome is Outcome.OK, ending.detail
    return read(ending, len(script.steps))


def call(bench: Bench, name: str, *arguments: int, **grants: Any) -> int:
    ending = bench.run(puppet(), pack((name, *arguments)), **grants)
    assert ending.outcome is Outcome.OK, ending.detail
    return read(ending, 1).errnos[0]


def clock_subscription(user: int, timeout_ns: int, *, clock: int = 1, absolute: bool = False) -> bytes:
    return struct.pack("<QB7xI4xQQH6x", user, EVENT_CLOCK, clock, timeout_ns, 0, absolute)


def descriptor_subscription(user: int, fd: int, kind: int = EVENT_READ) -> bytes:
    return struct.pack("<QB7xI28x", user, kind, fd)


def test_every_function_of_the_capability_is_there() -> None:
    assert FUNCTIONS.keys() == CAPABILITIES[WASI_MODULE].functions.keys()


def test_the_environment_is_what_the_policy_says(bench: Bench) -> None:
    script = Script(4)
    script.call("environ_sizes_get", OUT, OUT2)
    script.call("environ_get", BUFFER, BUFFER + 64)
    script.call("args_sizes_get", OUT + 16, OUT + 20)
    script.call("args_get", BUFFER + 32, BUFFER + 128)
    told = play(bench, script, environment=(("A", "1"), ("NAME", "wörth")))
    assert told.errnos == [OK] * 4
    strings = b"A=1\0NAME=w\xc3\xb6rth\0"
    assert (told.u32(OUT), told.u32(OUT2)) == (2, len(strings))
    assert (told.u32(BUFFER), told.u32(BUFFER + 4)) == (BUFFER + 64, BUFFER + 68)
    assert told.at(BUFFER + 64, len(strings)) == strings
    assert (told.u32(OUT + 16), told.u32(OUT + 20)) == (1, 9)
    assert told.u32(BUFFER + 32) == BUFFER + 128
    assert told.at(BUFFER + 128, 9) == b"function\0"


def test_clocks_move_or_stand_as_the_grant_says(bench: Bench) -> None:
    def read_twice(number: int, **grants: Any) -> tuple[int, int, int]:
        script = Script(4)
        script.call("clock_time_get", number, 0, OUT)
        script.call("poll_oneoff", script.data(clock_subscription(1, 2_000_000)), BUFFER, 1, OUT2 + 32)
        script.call("clock_time_get", number, 0, OUT + 8)
        script.call("clock_res_get", number, OUT + 16)
        told = play(bench, script, **grants)
        assert told.errnos == [OK] * 4
        return told.u64(OUT), told.u64(OUT + 8), told.u64(OUT + 16)

    for clock in range(4):
        before = time.time_ns() - 10**9 if clock == 0 else 0
        first, second, resolution = read_twice(clock, clock="real")
        assert before <= first < second < (time.time_ns() + 10**9 if clock == 0 else 30 * 10**9)
        assert resolution == 1
        first, second, resolution = read_twice(clock, clock="coarse")
        assert first < second
        assert first % COARSE_NS == second % COARSE_NS == 0
        assert resolution == COARSE_NS


def test_a_frozen_clock_stands(bench: Bench) -> None:
    script = Script(4)
    for clock in (0, 1):
        for turn in (0, 1):
            script.call("clock_time_get", clock, 0, OUT + 16 * clock + 8 * turn)
    told = play(bench, script, clock="frozen")
    assert told.u64(OUT) == told.u64(OUT + 8) > 10**18
    assert told.u64(OUT + 16) == told.u64(OUT + 24) == 0


@pytest.mark.parametrize("clock", [4, 2**31, 2**32 - 1])
def test_a_clock_that_does_not_exist_is_invalid(bench: Bench, clock: int) -> None:
    assert call(bench, "clock_time_get", clock, 0, OUT) == INVAL
    assert call(bench, "clock_res_get", clock, OUT) == INVAL


def test_output_goes_to_the_log_in_order(bench: Bench) -> None:
    script = Script(3)
    one, two = script.data(b"one "), script.data(b"two ")
    script.call("fd_write", 1, script.words(one, 4, two, 4), 2, OUT)
    script.call("fd_write", 2, script.words(two, 3, one, 0), 2, OUT2)
    script.call("fd_write", 77, script.words(one, 4), 1, OUT)
    ending = bench.run(puppet(), script.body())
    told = read(ending, 3)
    assert told.errnos == [OK, OK, BADF]
    assert (told.u32(OUT), told.u32(OUT2)) == (8, 3)
    assert ending.logs == b"one two two"


def test_standard_input_is_empty(bench: Bench) -> None:
    script = Script(2)
    vector = script.words(BUFFER, 10)
    script.call("fd_read", 0, vector, 1, OUT)
    script.call("fd_read", 1, vector, 1, OUT)
    assert play(bench, script).errnos == [OK, BADF]


def test_the_standard_descriptors_are_no_terminals_and_cannot_be_sought(bench: Bench) -> None:
    script = Script(10)
    for fd in range(3):
        script.call("fd_fdstat_get", fd, BUFFER + 32 * fd)
        script.call("fd_filestat_get", fd, BUFFER + 128 + 64 * fd)
        script.call("fd_seek", fd, -1, 2, OUT)
    script.call("fd_close", 2)
    told = play(bench, script)
    assert told.errnos == [OK, OK, SPIPE] * 3 + [OK]
    assert [told.at(BUFFER + 32 * fd, 1)[0] for fd in range(3)] == [0, 0, 0]
    assert [told.at(BUFFER + 128 + 64 * fd + 16, 1)[0] for fd in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("name", sorted(name for name in FUNCTIONS if name.startswith(("path_", "fd_", "sock_"))))
def test_no_other_descriptor_exists(bench: Bench, name: str) -> None:
    for fd in (77, 2**31, 2**32 - 1):
        arguments = (0, 0, fd) if name == "path_symlink" else (fd,)
        assert call(bench, name, *arguments) == BADF


@pytest.mark.parametrize("name", sorted(name for name in FUNCTIONS if name.startswith("sock_")))
def test_no_descriptor_is_a_socket(bench: Bench, name: str) -> None:
    assert [call(bench, name, fd) for fd in range(4)] == [Errno.NOTSOCK] * 4


def test_random_bytes_differ_unless_they_are_frozen(bench: Bench) -> None:
    script = Script(2)
    script.call("random_get", BUFFER, 32)
    script.call("random_get", BUFFER + 32, 32)
    real, again = (play(bench, script).at(BUFFER, 64) for _ in range(2))
    assert len({real[:32], real[32:], again[:32], again[32:]}) == 4
    frozen, same = (play(bench, script, random="frozen").at(BUFFER, 64) for _ in range(2))
    assert frozen == same
    assert frozen[:32] != frozen[32:]


def test_random_fills_all_that_was_asked_for_and_no_more(bench: Bench) -> None:
    script = Script(1)
    script.call("random_get", SCRATCH + 1, 8000)
    told = play(bench, script)
    assert told.at(SCRATCH, 1) + told.at(SCRATCH + 8001, 3) == bytes(4)
    assert told.at(SCRATCH + 1, 8000).count(0) < 200


def test_poll_answers_the_earliest_clock_and_ready_descriptors(bench: Bench) -> None:
    script = Script(3)
    clocks = clock_subscription(7, 10**12) + clock_subscription(8, 0) + clock_subscription(9, 1)
    script.call("poll_oneoff", script.data(clocks), BUFFER, 3, OUT)
    mixed = clock_subscription(1, 10**12) + descriptor_subscription(2, 0) + descriptor_subscription(3, 9, EVENT_WRITE)
    script.call("poll_oneoff", script.data(mixed), BUFFER + 128, 3, OUT2)
    script.call("poll_oneoff", script.data(clock_subscription(4, 0, clock=3)), BUFFER + 256, 1, OUT + 16)
    told = play(bench, script)
    assert told.errnos == [OK] * 3

    def events(address: int, count: int) -> list[tuple[int, int, int]]:
        return [event[:3] for event in struct.iter_unpack("<QHB5xQH6x", told.at(address, 32 * count))]

    assert events(BUFFER, told.u32(OUT)) == [(8, OK, EVENT_CLOCK)]
    assert events(BUFFER + 128, told.u32(OUT2)) == [(2, OK, EVENT_READ), (3, BADF, EVENT_WRITE)]
    assert events(BUFFER + 256, told.u32(OUT + 16)) == [(4, Errno.NOTSUP, EVENT_CLOCK)]


def test_an_absolute_time_in_the_past_is_now(bench: Bench) -> None:
    script = Script(2)
    for clock in (0, 1):
        past = clock_subscription(1, 0, clock=clock, absolute=True)
        script.call("poll_oneoff", script.data(past), BUFFER, 1, OUT)
    assert play(bench, script).errnos == [OK, OK]


@pytest.mark.parametrize("timeout_ns", [3600 * 10**9, 2**63, 2**64 - 1])
@pytest.mark.parametrize("absolute", [False, True])
def test_rule_7_a_sleep_ends_with_the_deadline(bench: Bench, timeout_ns: int, absolute: bool) -> None:
    script = Script(1)
    script.call("poll_oneoff", script.data(clock_subscription(1, timeout_ns, absolute=absolute)), BUFFER, 1, OUT)
    ending = bench.run(puppet(), script.body(), timeout_s=0.02)
    assert (ending.outcome, "poll_oneoff" in ending.detail) == (Outcome.DEADLINE_EXCEEDED, True)


@pytest.mark.parametrize("count", [0, MAX_SUBSCRIPTIONS + 1, 1_000_000, 2**32 - 1])
def test_rule_8_the_number_of_subscriptions_is_bounded(bench: Bench, count: int) -> None:
    assert call(bench, "poll_oneoff", SCRATCH, SCRATCH, count, OUT) == INVAL


@pytest.mark.parametrize("count", [MAX_IOVECS + 1, 2**31, 2**32 - 1])
def test_rule_8_the_number_of_vectors_is_bounded(bench: Bench, count: int) -> None:
    assert call(bench, "fd_write", 1, SCRATCH, count, OUT) == INVAL
    assert call(bench, "fd_read", 0, SCRATCH, count, OUT) == INVAL


def test_rule_8_vectors_that_sum_past_4_gib_cost_the_log_its_limit_and_no_more(bench: Bench) -> None:
    script = Script(1)
    vectors = script.words(*[0, MEMORY_BYTES] * MAX_IOVECS)
    script.call("fd_write", 2, vectors, MAX_IOVECS, OUT)
    ending = bench.run(puppet(), script.body(), log_bytes=2000)
    assert read(ending, 1).errnos == [OK]
    assert len(ending.logs) <= 2000
    assert b"bytes over limits.logs were dropped" in ending.logs


BAD_POINTERS = [
    ("args_get", END, BUFFER), ("args_get", BUFFER, END - 3), ("args_sizes_get", END - 3, OUT),
    ("args_sizes_get", OUT, END), ("environ_get", END, BUFFER), ("environ_get", BUFFER, END),
    ("environ_sizes_get", 2**32 - 4, OUT), ("environ_sizes_get", OUT, 2**31),
    ("clock_time_get", 0, 0, END), ("clock_time_get", 0, 0, END - 4), ("clock_res_get", 0, 2**32 - 8),
    ("fd_write", 1, END, 1, OUT), ("fd_write", 1, END - 4, 1, OUT), ("fd_write", 1, BUFFER, 1, END),
    ("fd_write", 1, 2**32 - 8, 1, OUT), ("fd_read", 0, END, 1, OUT), ("fd_read", 0, BUFFER, 1, END),
    ("fd_fdstat_get", 0, END - 16), ("fd_filestat_get", 0, END - 56),
    ("random_get", END - 4, 5), ("random_get", 0, 2**32 - 1), ("random_get", 2**32 - 1, 2**32 - 1),
    ("poll_oneoff", END, BUFFER, 1, OUT), ("poll_oneoff", BUFFER, END - 24, 1, OUT), ("poll_oneoff", 0, 0, 1, END),
    # not aligned
    ("args_get", BUFFER + 2, BUFFER), ("args_sizes_get", OUT + 1, OUT), ("args_sizes_get", OUT, OUT + 2),
    ("clock_time_get", 0, 0, OUT + 4), ("clock_res_get", 0, OUT + 1), ("fd_write", 1, BUFFER + 1, 1, OUT),
    ("fd_write", 1, BUFFER, 1, OUT + 2), ("fd_fdstat_get", 0, OUT + 4), ("poll_oneoff", BUFFER + 4, BUFFER, 1, OUT),
    ("poll_oneoff", BUFFER, BUFFER + 4, 1, OUT), ("poll_oneoff", BUFFER, BUFFER, 1, OUT + 2),
]  # fmt: skip


@pytest.mark.parametrize("step", BAD_POINTERS, ids=str)
def test_rule_3_a_bad_pointer_is_a_fault(bench: Bench, step: tuple[str, int]) -> None:
    assert call(bench, *step, environment=(("A", "1"),)) == FAULT


def test_rule_3_a_vector_that_points_out_of_memory_is_a_fault_and_nothing_is_logged(bench: Bench) -> None:
    script = Script(1)
    script.call("fd_write", 1, script.words(0, 4, END - 1, 2), 2, OUT)
    ending = bench.run(puppet(), script.body())
    assert read(ending, 1).errnos == [FAULT]
    assert ending.logs == b""


@pytest.mark.parametrize("code", [0, 1, 2**31, 2**32 - 1])
def test_an_exit_is_an_ending(bench: Bench, code: int) -> None:
    ending = bench.run(puppet(), pack(("proc_exit", code), ("sched_yield",)))
    assert (ending.outcome, ending.detail) == (Outcome.GUEST_EXIT, f"the guest exited with code {code}")
    assert ending.receipt.host_calls == 1


def test_signals_are_not_offered_and_yielding_is(bench: Bench) -> None:
    assert call(bench, "proc_raise", 9) == NOSYS
    assert call(bench, "sched_yield") == OK

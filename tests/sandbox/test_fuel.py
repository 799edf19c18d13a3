"""What a guest burns is what its receipt says, wherever it burns it; at the limit it ends, and the receipt is full."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.guests import ANSWER, Bench, handler
from sandbox.pair import Pair, floats
from wisp.wire.outcome import Outcome, nn_fuel

LIMIT = 1_000_000
LOOP = "(loop $again (br $again))"


def with_start(body: str) -> str:
    return handler().removesuffix(")") + f"(func $start {body}) (start $start))"


def with_initialize(body: str) -> str:
    return handler().removesuffix(")") + f'(func (export "_initialize") {body}))'


def with_recursion() -> str:
    return handler(f"(call $down) {ANSWER}").removesuffix(")") + "(func $down (call $down)))"


def turns(count: int) -> str:
    return f"""(local $i i32)
      (loop $again
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $i) (i32.const {count}))))"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"))
    yield made
    made.close()


@pytest.mark.parametrize("limit", [1, 1000, LIMIT, 12_345_678])
def test_a_loop_burns_exactly_its_limit(bench: Bench, limit: int) -> None:
    ending = bench.run(handler(LOOP + ANSWER), fuel=limit)
    assert (ending.outcome, ending.receipt.fuel) == (Outcome.FUEL_EXHAUSTED, limit)


def test_a_recursion_burns_exactly_its_limit(bench: Bench) -> None:
    ending = bench.run(with_recursion(), fuel=5000)
    assert (ending.outcome, ending.receipt.fuel) == (Outcome.FUEL_EXHAUSTED, 5000)


def test_a_start_function_burns_exactly_its_limit(bench: Bench) -> None:
    ending = bench.run(with_start(LOOP), fuel=LIMIT)
    assert (ending.outcome, ending.receipt.fuel) == (Outcome.FUEL_EXHAUSTED, LIMIT)


def test_an_initialisation_burns_exactly_its_limit(bench: Bench) -> None:
    ending = bench.run(with_initialize(LOOP), fuel=LIMIT)
    assert (ending.outcome, ending.receipt.fuel) == (Outcome.FUEL_EXHAUSTED, LIMIT)


def test_all_parts_of_a_request_share_one_limit(bench: Bench) -> None:
    """Start, initialisation and handler each burn less than the limit, and more than it together."""
    part = turns(60_000)
    wat = handler(part + ANSWER).removesuffix(")")
    wat += f'(func $start {part}) (start $start) (func (export "_initialize") {part}))'
    used = bench.run(wat, fuel=10 * LIMIT).receipt.fuel
    assert used > 3 * 60_000
    # The engine looks at its fuel where a loop turns, not after each operator.
    short = used - 100
    ending = bench.run(wat, fuel=short)
    assert (ending.outcome, ending.receipt.fuel) == (Outcome.FUEL_EXHAUSTED, short)


def test_the_same_request_burns_the_same_and_more_work_burns_more(bench: Bench) -> None:
    first, same, double = (bench.run(handler(turns(n) + ANSWER)).receipt.fuel for n in (1000, 1000, 2000))
    assert first == same < double


def test_no_fuel_runs_nothing(bench: Bench) -> None:
    ending = bench.run(handler(), fuel=0)
    assert (ending.outcome, ending.receipt.fuel) == (Outcome.FUEL_EXHAUSTED, 0)


def test_a_burst_after_an_inference_burns_exactly_its_limit(pair: Pair) -> None:
    """Fuel stops at a host call and goes on behind it; what the inference was charged is part of the limit."""
    limit = 100 * LIMIT  # a tenth of a second, if all of it went into the inference
    nn = "wasi_ephemeral_nn"
    imports = f"""
      (import "{nn}" "load_by_name" (func $load (param i32 i32 i32) (result i32)))
      (import "{nn}" "init_execution_context" (func $context (param i32 i32) (result i32)))
      (import "{nn}" "set_input" (func $set (param i32 i32 i32) (result i32)))
      (import "{nn}" "compute" (func $compute (param i32) (result i32)))"""
    data = "".join(f"\\{byte:02x}" for byte in floats(1.0))
    # Ends with a trap, not with its fuel, if any call fails.
    infer = """
      (if (call $load (i32.const 512) (i32.const 12) (i32.const 600)) (then unreachable))
      (if (call $context (i32.const 0) (i32.const 600)) (then unreachable))
      (i32.store (i32.const 620) (i32.const 1))
      (i32.store (i32.const 640) (i32.const 620))
      (i32.store (i32.const 644) (i32.const 1))
      (i32.store (i32.const 648) (i32.const 1))
      (i32.store (i32.const 652) (i32.const 528))
      (i32.store (i32.const 656) (i32.const 4))
      (if (call $set (i32.const 0) (i32.const 0) (i32.const 640)) (then unreachable))
      (if (call $compute (i32.const 0)) (then unreachable))"""
    strings = f'(data (i32.const 512) "identity_f32") (data (i32.const 528) "{data}"))'
    quiet = handler(infer + ANSWER, before=imports).removesuffix(")") + strings
    burst = handler(infer + LOOP + ANSWER, before=imports).removesuffix(")") + strings
    ending = pair.run(quiet, b"", "identity_f32", fuel=limit)
    assert (ending.outcome, ending.receipt.inferences) == (Outcome.OK, 1)
    assert ending.receipt.fuel < 1000
    ending = pair.run(burst, b"", "identity_f32", fuel=limit)
    assert ending.outcome is Outcome.FUEL_EXHAUSTED
    assert ending.receipt.fuel + nn_fuel(ending.receipt.nn_ns) == limit
    assert (ending.receipt.inferences, ending.receipt.host_calls) == (1, 4)


def test_what_burns_no_fuel_costs_time_that_is_measured(bench: Bench) -> None:
    random = '(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))'
    call = f"(drop (call $random (i32.const 65536) (i32.const 4194304))) {ANSWER}"
    ending = bench.run(handler(call, before=random, memory="70"))
    assert ending.receipt.fuel < 100
    assert ending.receipt.guest_ns > 1_000_000

"""wasi-nn as a guest sees it, through a real sandbox and a real inference host."""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sandbox.guests import ROOT, Bench, model
from sandbox.pair import Pair, Talk, floats
from sandbox.puppet import MEMORY_BYTES, SCRATCH, puppet, read
from wisp.policy.capabilities import CAPABILITIES, NN_MODULE
from wisp.sandbox.graphs import MAX_CONTEXTS
from wisp.sandbox.nn import FUNCTIONS, Errno
from wisp.wire.exchange import decode_response, encode_request_head
from wisp.wire.outcome import Ending, Outcome
from wisp.wire.tensors import MAX_RANK, NUMPY_NAMES, ElementType

INFER = ROOT / "tests/guests/infer/module.wasm"
OK, INVALID, ENCODING, BUSY, RUNTIME, UNSUPPORTED, TOO_LARGE, NOT_FOUND = (
    Errno.SUCCESS, Errno.INVALID_ARGUMENT, Errno.INVALID_ENCODING, Errno.BUSY, Errno.RUNTIME_ERROR,
    Errno.UNSUPPORTED_OPERATION, Errno.TOO_LARGE, Errno.NOT_FOUND,
)  # fmt: skip
F32, OLD_U8, OLD_I32 = 1, 2, 3
END = MEMORY_BYTES
OUT, BUFFER = Talk.OUT, Talk.BUFFER


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"))
    yield made
    made.close()


@pytest.fixture
def own_pair(tmp_path: Path) -> Iterator[Pair]:
    """For tests that end the host."""
    made = Pair(tmp_path)
    yield made
    made.close()


def infer(pair: Pair, query: str, body: bytes, *names: str, **options: Any) -> tuple[int, bytes, Ending]:
    head = encode_request_head(b"POST", b"/", query.encode(), ())
    ending = pair.run(INFER, body, *names, head=head, **options)
    assert ending.outcome is Outcome.OK, ending.detail
    response = decode_response(memoryview(ending.response))
    return response.status, bytes(response.body), ending


def test_every_function_of_the_capability_is_there() -> None:
    assert FUNCTIONS.keys() == CAPABILITIES[NN_MODULE].functions.keys()


# What works


@pytest.mark.parametrize("dtype", ElementType)
def test_every_element_type_comes_back_as_it_went(pair: Pair, dtype: ElementType) -> None:
    name = dtype.name.lower()
    data = np.arange(1, 6).astype(NUMPY_NAMES[dtype]).tobytes()
    status, body, ending = infer(pair, f"graph=identity_{name}&type={name}&dims=5", data, f"identity_{name}")
    assert (status, body) == (200, data)
    receipt = ending.receipt
    assert (receipt.inferences, receipt.tensor_bytes) == (1, 2 * len(data))
    assert receipt.nn_ns > 0


def test_several_inputs_and_outputs_keep_their_order(pair: Pair) -> None:
    body = floats(1, 2, 3, 4, 10, 20, 30, 40)
    for output, expected in ((0, (11, 22, 33, 44)), (1, (-9, -18, -27, -36))):
        query = f"graph=two_io&type=f32&dims=2,2&inputs=2&output={output}"
        assert infer(pair, query, body, "two_io")[:2] == (200, floats(*expected))


def test_a_tensor_too_large_for_any_frame_comes_back_whole(pair: Pair) -> None:
    data = np.random.default_rng(0).random(100_000, np.float32).tobytes()
    assert infer(pair, "graph=identity_f32&type=f32&dims=100000", data, "identity_f32", response_bytes=500_000)[:2] == (
        200,
        data,
    )


def test_a_repeated_input_replaces_the_former(pair: Pair) -> None:
    talk = Talk().open("identity_f32")
    for values in ((1.0,), (2.0, 3.0, 4.0), (5.0, 6.0)):
        talk.set_input(0, 0, (len(values),), F32, floats(*values))
    talk.compute()
    talk.get_output()
    told = pair.play(talk, "identity_f32")
    assert set(told.errnos) == {OK}
    assert (told.u32(OUT), told.at(BUFFER, 8)) == (8, floats(5, 6))


def test_an_input_is_taken_when_it_is_set(pair: Pair) -> None:
    """A guest may use its buffer again right after."""
    talk = Talk().open("identity_f32")
    first = talk.data(floats(1, 2))
    record = talk.words(talk.words(2), 1, F32, first, 8)
    talk.call("set_input", 0, 0, record)
    talk.call("clock_time_get", 0, 0, first)
    talk.compute()
    talk.get_output()
    told = pair.play(talk, "identity_f32")
    assert told.at(BUFFER, 8) == floats(1, 2)


def test_an_output_can_be_read_until_the_next_compute(pair: Pair) -> None:
    talk = Talk().open("identity_f32")
    talk.set_input(0, 0, (1,), F32, floats(1))
    talk.compute()
    talk.get_output(at=BUFFER)
    talk.set_input(0, 0, (1,), F32, floats(2))
    talk.get_output(at=BUFFER + 8)
    talk.compute()
    talk.get_output(at=BUFFER + 16)
    told = pair.play(talk, "identity_f32")
    assert set(told.errnos) == {OK}
    assert [told.at(BUFFER + at, 4) for at in (0, 8, 16)] == [floats(1), floats(1), floats(2)]


def test_interleaved_contexts_do_not_mix(pair: Pair) -> None:
    talk = Talk().open("identity_f32", "identity_i64")
    talk.context(0)  # context 2, of the first graph too
    talk.set_input(0, 0, (1,), F32, floats(1))
    talk.set_input(1, 0, (1,), ElementType.I64, struct.pack("<q", -7))
    talk.set_input(2, 0, (2,), F32, floats(3, 4))
    for context in (2, 0, 1):
        talk.compute(context)
    for context in (0, 1, 2):
        talk.get_output(context, at=BUFFER + 16 * context, size=OUT + 4 * context)
    told = pair.play(talk, "identity_f32", "identity_i64")
    assert set(told.errnos) == {OK}
    assert [told.u32(OUT + 4 * context) for context in range(3)] == [4, 8, 8]
    assert told.at(BUFFER, 4) == floats(1)
    assert told.at(BUFFER + 16, 8) == struct.pack("<q", -7)
    assert told.at(BUFFER + 32, 8) == floats(3, 4)


@pytest.mark.parametrize(
    ("model_name", "kind", "data"),
    [
        pytest.param("identity_u8", ElementType.U8, b"\x01\x02\x03", id="u8 as 3"),
        pytest.param("identity_u8", OLD_U8, b"\x01\x02\x03", id="u8 as 2"),
        pytest.param("identity_i32", ElementType.I32, struct.pack("<3i", 1, 2, -3), id="i32 as 4"),
        pytest.param("identity_i32", OLD_I32, struct.pack("<3i", 1, 2, -3), id="i32 as 3"),
        pytest.param("identity_f64", ElementType.F64, struct.pack("<3d", 1, 2, 3), id="f64 as 2"),
    ],
)
def test_both_numberings_of_element_types_are_understood(pair: Pair, model_name: str, kind: int, data: bytes) -> None:
    talk = Talk().open(model_name)
    talk.set_input(0, 0, (3,), kind, data)
    talk.compute()
    talk.get_output()
    told = pair.play(talk, model_name)
    assert set(told.errnos) == {OK}
    assert told.at(BUFFER, len(data)) == data


def test_a_graph_can_be_loaded_again_and_handles_are_never_used_again(pair: Pair) -> None:
    talk = Talk()
    for _ in range(3):
        talk.load("identity_f32")
        talk.call("unload", len(talk.steps) // 2)
    talk.load("identity_f32")
    told = pair.play(talk, "identity_f32")
    assert set(told.errnos) == {OK}
    assert told.u32(OUT) == 3


# wasi-nn.md §1.4, row by row


def errnos(pair: Pair, talk: Talk, *names: str, **options: Any) -> list[int]:
    return pair.play(talk, *(names or ("identity_f32",)), **options).errnos


@pytest.mark.parametrize("encoding", [0, 2, 3, 4, 6, 255, 2**32 - 1])
def test_an_unknown_encoding(pair: Pair, encoding: int) -> None:
    talk = Talk()
    talk.call("load", talk.words(SCRATCH, 4), 1, encoding, 0, OUT)
    assert errnos(pair, talk) == [ENCODING]


def test_a_target_out_of_range_or_not_offered(pair: Pair) -> None:
    talk = Talk()
    for target in (4, 2**32 - 1, 1, 2, 3):
        talk.call("load", talk.words(SCRATCH, 4), 1, 1, target, OUT)
    assert errnos(pair, talk, trap_on_violation=False) == [INVALID] * 2 + [UNSUPPORTED] * 3


@pytest.mark.parametrize("count", [0, 2, 2**32 - 1])
def test_a_number_of_builders_that_onnx_does_not_have(pair: Pair, count: int) -> None:
    talk = Talk()
    talk.call("load", talk.words(SCRATCH, 4, SCRATCH, 4), count, 1, 0, OUT)
    assert errnos(pair, talk) == [INVALID]


def test_model_bytes_where_the_policy_allows_none(pair: Pair) -> None:
    talk = Talk()
    talk.call("load", talk.words(SCRATCH, 4), 1, 1, 0, OUT)
    assert errnos(pair, talk, trap_on_violation=False) == [UNSUPPORTED]
    ending = pair.run(puppet(), talk.body())
    assert ending.outcome is Outcome.CAPABILITY_DENIED
    assert "inline_models: true" in ending.detail


def test_a_name_that_the_policy_does_not_give(pair: Pair) -> None:
    for name in ("identity_f64", "", "identity_f32\0", "../identity_f32", "x" * 1024):
        talk = Talk()
        talk.load(name)
        assert errnos(pair, talk, trap_on_violation=False) == [NOT_FOUND]
        ending = pair.run(puppet(), talk.body(), "identity_f32")
        assert ending.outcome is Outcome.CAPABILITY_DENIED
        assert "models: [{name: " in ending.detail
        assert ending.detail.isprintable()


def test_a_name_that_is_too_long_or_no_text(pair: Pair) -> None:
    talk = Talk()
    for name in (b"\xff", b"identity\xc3", b"x" * 1025):
        talk.load(name)
    assert errnos(pair, talk) == [INVALID] * 3


def test_a_bad_graph_handle(pair: Pair) -> None:
    talk = Talk()
    talk.context(0)
    talk.load("identity_f32")
    for graph in (1, 2**31, 2**32 - 1):
        talk.context(graph)
    assert errnos(pair, talk) == [INVALID, OK, INVALID, INVALID, INVALID]


def test_a_bad_context_handle(pair: Pair) -> None:
    talk = Talk().open("identity_f32")
    for context in (1, 2**32 - 1):
        talk.set_input(context, 0, (1,), F32, floats(1))
        talk.compute(context)
        talk.get_output(context)
    assert errnos(pair, talk) == [OK, OK] + [INVALID] * 6


def test_an_index_out_of_range(pair: Pair) -> None:
    talk = Talk().open("identity_f32")
    for index in (1, 2**32 - 1):
        talk.set_input(0, index, (1,), F32, floats(1))
        talk.get_output(0, index)
    assert errnos(pair, talk) == [OK, OK] + [INVALID] * 4


@pytest.mark.parametrize(
    ("dims", "kind", "content"),
    [
        pytest.param((6,), F32, bytes(24), id="rank"),
        pytest.param((3, 2), F32, bytes(24), id="dimensions"),
        pytest.param((2, 3), ElementType.I32, bytes(24), id="type"),
        pytest.param((2, 3), ElementType.F64, bytes(48), id="wider type"),
        pytest.param((2, 3), 6, bytes(24), id="a type that does not exist"),
        pytest.param((2, 3), 255, bytes(24), id="the last type"),
        pytest.param((), F32, bytes(4), id="a scalar"),
        pytest.param((1,) * (MAX_RANK + 1), F32, bytes(4), id="too many dimensions"),
        pytest.param((2, 3), F32, bytes(20), id="too few bytes"),
        pytest.param((2, 3), F32, bytes(28), id="too many bytes"),
        pytest.param((2, 2**32 - 1), F32, bytes(24), id="a product past 32 bits"),
    ],
)
def test_a_tensor_that_the_model_does_not_take(pair: Pair, dims: tuple[int, ...], kind: int, content: bytes) -> None:
    talk = Talk().open("static_2x3")
    talk.set_input(0, 0, dims, kind, content)
    talk.set_input(0, 0, (2, 3), F32, bytes(24))
    assert errnos(pair, talk, "static_2x3") == [OK, OK, INVALID, OK]


def test_an_input_that_is_missing(pair: Pair) -> None:
    talk = Talk().open("two_io")
    talk.compute()
    talk.set_input(0, 1, (2, 2), F32, bytes(16))
    talk.compute()
    assert errnos(pair, talk, "two_io") == [OK, OK, RUNTIME, OK, RUNTIME]


def test_an_output_before_it_was_computed(pair: Pair) -> None:
    talk = Talk().open("identity_f32")
    talk.set_input(0, 0, (1,), F32, floats(1))
    talk.get_output()
    assert errnos(pair, talk)[-1] == RUNTIME


def test_a_buffer_that_is_too_small_is_told_how_much_it_takes(pair: Pair) -> None:
    talk = Talk().open("identity_f32")
    talk.set_input(0, 0, (3,), F32, floats(1, 2, 3))
    talk.compute()
    for room, size in ((0, OUT + 8), (11, OUT + 12), (12, OUT + 16)):
        talk.get_output(room=room, size=size, at=BUFFER + 64 * room)
    told = pair.play(talk, "identity_f32")
    assert told.errnos[-3:] == [TOO_LARGE, TOO_LARGE, OK]
    assert [told.u32(OUT + at) for at in (8, 12, 16)] == [12, 12, 12]
    assert told.at(BUFFER + 64 * 11, 11) == bytes(11)
    assert told.at(BUFFER + 64 * 12, 12) == floats(1, 2, 3)


def test_a_pointer_out_of_bounds(pair: Pair) -> None:
    talk = Talk().open("identity_f32")
    talk.set_input(0, 0, (1,), F32, floats(1))
    talk.compute()
    good = talk.words(1)
    before = len(talk.steps)
    for record in (END, END - 19, 2**32 - 20, good + 1):
        talk.call("set_input", 0, 0, record)
    for dims, rank, data, length in (
        (END, 1, SCRATCH, 4), (2**32 - 4, 1, SCRATCH, 4), (good + 2, 1, SCRATCH, 4), (good, 1, END - 3, 4),
        (good, 2**32 - 1, SCRATCH, 4), (good, 1, 2**32 - 1, 4),
    ):  # fmt: skip
        talk.call("set_input", 0, 0, talk.words(dims, rank, F32, data, length))
    for at, room, size in (
        (END, 4, OUT),
        (END - 3, 4, OUT),
        (BUFFER, 2**32 - 1, OUT),
        (BUFFER, 4, END),
        (BUFFER, 4, OUT + 2),
    ):
        talk.get_output(at=at, room=room, size=size)
    talk.call("load_by_name", END, 12, OUT)
    talk.call("load_by_name", SCRATCH, 2**32 - 1, OUT)
    talk.call("load_by_name", SCRATCH, 4, END - 2)
    talk.call("init_execution_context", 0, END)
    talk.call("load", END, 1, 1, 0, OUT)
    talk.call("load", talk.words(END, 1), 1, 1, 0, OUT)
    got = errnos(pair, talk)[before:]
    assert got == [INVALID] * len(got)


def test_more_inferences_than_the_policy_gives(pair: Pair) -> None:
    talk = Talk().open("identity_f32")
    talk.set_input(0, 0, (1,), F32, floats(1))
    for _ in range(4):
        talk.compute()
    assert errnos(pair, talk, max_inferences=3)[-4:] == [OK, OK, OK, BUSY]


def test_functions_for_language_models_are_not_offered(pair: Pair) -> None:
    talk = Talk().open("identity_f32")
    talk.call("compute_single", 0)
    talk.call("fini_single", 0)
    talk.call("get_output_single", 0, 0, BUFFER, 4, OUT)
    assert errnos(pair, talk)[-3:] == [UNSUPPORTED] * 3


def test_a_name_with_an_empty_configuration_is_a_name(pair: Pair) -> None:
    talk = Talk()
    name = talk.data(b"identity_f32")
    talk.call("load_by_name_with_config", name, 12, SCRATCH, 0, OUT)
    talk.call("load_by_name_with_config", name, 12, SCRATCH, 2, OUT)
    talk.call("load_by_name_with_config", name, 12, END, 1, OUT)
    assert errnos(pair, talk) == [OK, UNSUPPORTED, INVALID]


# wasi-nn.md §1.5


def test_an_unloaded_graph_lets_its_contexts_be_drained(pair: Pair) -> None:
    talk = Talk().open("identity_f32")
    talk.set_input(0, 0, (1,), F32, floats(1))
    talk.compute()
    talk.call("unload", 0)
    talk.call("unload", 0)
    talk.get_output()
    talk.compute()
    talk.context(0)
    assert errnos(pair, talk)[4:] == [OK, INVALID, OK, INVALID, INVALID]


def test_a_finalized_context_is_gone_and_its_graph_is_not(pair: Pair) -> None:
    talk = Talk().open("identity_f32")
    talk.call("finalize_execution_context", 0)
    talk.call("finalize_execution_context", 0)
    talk.get_output(0)
    talk.context(0)
    told = pair.play(talk, "identity_f32")
    assert told.errnos[2:] == [OK, INVALID, INVALID, OK]
    assert told.u32(OUT + 4) == 1


def test_rule_8_contexts_are_bounded_and_come_back_with_those_that_end(pair: Pair) -> None:
    talk = Talk(MAX_CONTEXTS + 5)
    talk.load("identity_f32")
    for _ in range(MAX_CONTEXTS + 1):
        talk.context()
    talk.call("finalize_execution_context", 5)
    talk.context()
    assert errnos(pair, talk)[-3:] == [BUSY, OK, OK]


def test_rule_8_tensors_are_bounded_by_their_segment_and_room_comes_back(pair: Pair) -> None:
    """Half of the segment of 1 MiB is for inputs; contexts that come and go must not use it up."""
    values = 50_000
    content = bytes(4 * values)
    talk = Talk(40)
    talk.load("identity_f32")
    record = talk.tensor((values,), F32, content)
    for context in range(4):
        talk.context()
        talk.call("set_input", context, 0, record)
    for context in range(4):
        talk.call("finalize_execution_context", context)
    for context in range(4, 12):
        talk.context()
        talk.call("set_input", context, 0, record)
        talk.call("finalize_execution_context", context)
    got = errnos(pair, talk)
    assert got[1:9] == [OK, OK, OK, OK, OK, TOO_LARGE, OK, TOO_LARGE]
    assert set(got[9:]) == {OK}


def test_rule_8_outputs_that_do_not_fit_are_too_large(pair: Pair) -> None:
    talk = Talk().open("grow")
    for count in (10, 1 << 20, 20):
        talk.set_input(0, 0, (1,), ElementType.I64, struct.pack("<q", count))
        talk.compute()
    talk.get_output()
    told = pair.play(talk, "grow")
    assert told.errnos[2:] == [OK, OK, OK, TOO_LARGE, OK, OK, OK]
    assert told.u32(OUT) == 80


# What goes wrong behind the door


def test_a_model_that_fails_is_a_runtime_error_and_the_next_compute_works(pair: Pair) -> None:
    talk = Talk().open("fails")
    for value in (5, 0):
        talk.set_input(0, 0, (1,), ElementType.I64, struct.pack("<q", value))
        talk.compute()
    assert errnos(pair, talk, "fails")[2:] == [OK, RUNTIME, OK, OK]


def test_rule_7_an_inference_ends_with_the_deadline(pair: Pair) -> None:
    talk = Talk().open("endless")
    talk.set_input(0, 0, (1,), F32, floats(1))
    talk.compute()
    ending = pair.run(puppet(), talk.body(), "endless", timeout_s=0.1)
    assert ending.outcome is Outcome.INFERENCE_TIMEOUT
    assert "endless" in ending.detail
    pair.join()  # as the router does: the host may still be writing to the old line
    assert pair.run(puppet(), Talk().open("identity_f32").body(), "identity_f32").outcome is Outcome.OK


def test_rule_7_an_inference_ends_with_its_models_time(pair: Pair) -> None:
    talk = Talk().open("endless")
    talk.set_input(0, 0, (1,), F32, floats(1))
    talk.compute()
    talk.get_output()
    assert errnos(pair, talk, "endless", max_time_ms=30)[-2:] == [RUNTIME, RUNTIME]


def test_an_invocation_that_the_router_did_not_open_is_not_inferred(pair: Pair) -> None:
    talk = Talk().open("identity_f32")
    talk.set_input(0, 0, (1,), F32, floats(1))
    talk.compute()
    function = pair.child.link(puppet(), models=(model("identity_f32"),))
    pair.child.number += 1
    ending = pair.child.result(pair.child.send(function, talk.body(), number=pair.child.number))
    assert read(ending, 4).errnos[-1] == RUNTIME


def test_without_a_host_everything_but_the_inference_works(bench: Bench) -> None:
    talk = Talk().open("identity_f32")
    talk.set_input(0, 0, (1,), F32, floats(1))
    talk.compute()
    ending = bench.run(puppet(), talk.body(), models=(model("identity_f32"),))
    assert read(ending, 4).errnos == [OK, OK, RUNTIME, RUNTIME]


def test_a_host_killed_in_an_inference_is_a_runtime_error_and_the_next_host_works(own_pair: Pair) -> None:
    pair = own_pair
    talk = Talk().open("endless")
    talk.set_input(0, 0, (1,), F32, floats(1))
    talk.compute()
    number = pair.start(puppet(), talk.body(), "endless")
    pair.host.process.send_signal(signal.SIGKILL)
    ending = pair.child.result(number)
    assert read(ending, 4).errnos == [OK, OK, OK, RUNTIME]
    assert b"inference host lost" in ending.logs
    # Until there is another, every inference says so at once.
    again = Talk().open("identity_f32")
    again.set_input(0, 0, (1,), F32, floats(1))
    again.compute()
    function = pair.child.link(puppet(), models=(model("identity_f32"),))
    pair.child.number += 1
    ending = pair.child.result(pair.child.send(function, again.body(), number=pair.child.number))
    assert read(ending, 4).errnos[-1] == RUNTIME
    pair.replace_host()
    again.get_output()
    told = pair.play(again, "identity_f32")
    assert set(told.errnos) == {OK}
    assert told.at(BUFFER, 4) == floats(1)

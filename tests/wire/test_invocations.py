"""The frames between router and sandbox. What a sandbox answers is hostile: its guest may have taken it over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.errors import InvalidFrame
from wisp.wire.channel import MAX_FRAME_BYTES
from wisp.wire.invocations import (
    INLINE_BYTES,
    MAX_DENIAL_CHARS,
    MAX_DENIALS,
    MAX_DETAIL_BYTES,
    MAX_NUMBER,
    RESULT_HEAD,
    FunctionLink,
    ModelLink,
    bytes_in_segment,
    decode_result,
    encode_result,
)
from wisp.wire.outcome import CODES, NUMBERS, Denial, Ending, Outcome, Receipt
from wisp.wire.tensors import ElementType, TensorSpec

NOTHING = memoryview(b"")
SHORT = st.integers(0, 2**32 - 1)
LONG = st.integers(0, MAX_NUMBER)
receipts = st.builds(
    Receipt,
    fuel=LONG, memory_peak_bytes=LONG, store_ns=LONG, guest_ns=LONG, nn_ns=LONG, tensor_bytes=LONG,
    host_calls=SHORT, inferences=SHORT,
    nn_fuel=st.just(0), cpu_ns=st.just(0), queue_ns=st.just(0), bytes_in=st.just(0), bytes_out=st.just(0),
)  # fmt: skip
details = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=200)
denials = st.builds(Denial, what=details, allow=details)
endings = st.builds(
    Ending,
    outcome=st.sampled_from(Outcome),
    receipt=receipts,
    response=st.binary(max_size=300),
    logs=st.binary(max_size=300),
    lines=st.binary(max_size=50),
    detail=details,
    denials=st.lists(denials, max_size=2).map(tuple),
)


def head(**changes: int) -> bytes:
    fields = {
        "invocation": 7, "outcome": 0, "in_segment": 0, "detail": 0, "logs": 0, "response": 0, "host_calls": 0,
        "inferences": 0, "fuel": 0, "memory": 0, "store": 0, "guest": 0, "nn": 0, "tensors": 0, "lines": 0,
    }  # fmt: skip
    assert changes.keys() <= fields.keys()
    return RESULT_HEAD.pack(*(fields | changes).values())


@given(st.integers(0, 2**64 - 1), endings)
def test_a_result_survives_the_round_trip_inline(invocation: int, ending: Ending) -> None:
    assert decode_result(encode_result(invocation, ending), NOTHING) == (invocation, ending)


@given(st.integers(0, 2**64 - 1), endings, st.binary(max_size=20))
def test_a_result_survives_the_round_trip_by_segment(invocation: int, ending: Ending, rest: bytes) -> None:
    answer = memoryview(b"".join((ending.response, ending.logs, ending.lines, rest)))
    payload = encode_result(invocation, ending, len(ending.response))
    assert decode_result(payload, answer) == (invocation, ending)
    used = len(ending.response) + len(ending.logs) + len(ending.lines)
    assert bytes_in_segment(payload, used) == (invocation, used)
    with pytest.raises(InvalidFrame):
        bytes_in_segment(payload, used - 1)
    assert len(payload) <= RESULT_HEAD.size + MAX_DETAIL_BYTES


def test_the_largest_inline_result_fits_a_frame() -> None:
    response, detail = b"x" * (INLINE_BYTES - 10), "d" * (2 * MAX_DETAIL_BYTES)
    ending = Ending(outcome=Outcome.OK, receipt=Receipt(), response=response, logs=b"l" * 10, detail=detail)
    assert len(encode_result(1, ending)) < MAX_FRAME_BYTES


@given(st.binary(max_size=300), st.binary(max_size=50))
def test_arbitrary_bytes_are_a_result_within_bounds_or_an_invalid_frame(payload: bytes, answer: bytes) -> None:
    try:
        _, ending = decode_result(payload, memoryview(answer))
    except InvalidFrame:
        return
    assert len(ending.response) + len(ending.logs) <= max(len(payload), len(answer))


@given(st.data())
def test_a_hostile_head_is_a_result_within_bounds_or_an_invalid_frame(data: st.DataObject) -> None:
    names = {
        "outcome": 8, "in_segment": 8, "detail": 16, "logs": 32, "response": 64, "fuel": 64, "guest": 64, "lines": 32,
    }  # fmt: skip
    fields = {
        name: data.draw(st.integers(0, 2**bits - 1) | st.integers(0, 30), label=name) for name, bits in names.items()
    }
    try:
        invocation, ending = decode_result(head(**fields) + bytes(20), memoryview(bytes(10)))
    except InvalidFrame:
        return
    assert invocation == 7
    assert len(ending.response) + len(ending.logs) <= 20
    assert ending.receipt.fuel <= MAX_NUMBER


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(head()[:-1], id="a head cut off"),
        pytest.param(head(outcome=len(CODES)), id="an outcome that does not exist"),
        pytest.param(head(outcome=255), id="the last outcome"),
        pytest.param(head(detail=1), id="a detail past the end"),
        pytest.param(head(response=1), id="a response past the end"),
        pytest.param(head(logs=1), id="logs past the end"),
        pytest.param(head(response=2**64 - 1, logs=1) + b"x", id="a sum that wraps"),
        pytest.param(head(in_segment=1, response=11), id="a response past the answer segment"),
        pytest.param(head(in_segment=1, response=10, logs=1), id="logs past the answer segment"),
        pytest.param(head(lines=1), id="more lines than logs"),
        pytest.param(head(fuel=MAX_NUMBER + 1), id="more fuel than can be counted"),
        pytest.param(head(guest=2**64 - 1), id="more time than can be counted"),
    ],
)
def test_a_lying_result_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidFrame):
        decode_result(payload, memoryview(bytes(10)))


def test_a_detail_is_one_printable_line_whatever_the_sandbox_says() -> None:
    hostile = "a\nok: \x1b[2Jb\x00\u2028c\u202e".encode() + b"\xff"
    _, ending = decode_result(head(detail=len(hostile)) + hostile, NOTHING)
    assert ending.detail.isprintable()
    assert ending.detail.startswith(r"a\nok: \x1b[2Jb\x00")


def test_what_was_decoded_does_not_change_with_the_segment() -> None:
    answer = bytearray(b"response-logs")
    _, ending = decode_result(head(in_segment=1, response=8, logs=5), memoryview(answer))
    answer[:] = bytes(len(answer))
    assert (ending.response, ending.logs) == (b"response", b"-logs")


def test_every_outcome_has_its_number() -> None:
    assert [CODES[NUMBERS[outcome]] for outcome in Outcome] == list(Outcome)
    assert len(CODES) < 256


def test_a_link_survives_the_round_trip() -> None:
    tensor = TensorSpec(name="x", dtype=ElementType.F16, shape=(-1, 3))
    model = ModelLink(
        name="m", target="cpu", max_inferences=3, max_time_ns=10**9, inputs=(tensor,), outputs=(tensor, tensor)
    )
    link = FunctionLink(
        handle=2**32 - 1, module="sha256:00", abi="handler", entrypoint="", fuel=2**63 - 1, memory_bytes=2**32,
        response_bytes=1, log_bytes=2, environment=(("NAME", "wörth\n"),), models=(model,), clock="coarse",
        random="frozen", trap_on_violation=True,
    )  # fmt: skip
    decoded = FunctionLink.decode(link.encode())
    assert decoded == link
    assert isinstance(decoded.models[0].inputs[0].dtype, ElementType)


@given(st.text(max_size=3000), st.lists(st.builds(Denial, what=st.text(), allow=st.text(max_size=400)), max_size=9))
def test_denials_are_bounded_printable_and_never_taken_for_one_another(detail: str, told: list[Denial]) -> None:
    receipt = Receipt()
    ending = Ending(
        outcome=Outcome.OK,
        receipt=receipt,
        response=bytes(INLINE_BYTES),
        logs=b"",
        detail=detail,
        denials=tuple(told),
    )
    frame = encode_result(1, ending)
    assert len(frame) < MAX_FRAME_BYTES
    _, decoded = decode_result(frame, NOTHING)
    assert decoded.response == ending.response
    assert decoded.detail.isprintable()
    assert len(decoded.denials) <= min(len(told), MAX_DENIALS)
    for denial in decoded.denials:
        assert (denial.what + denial.allow).isprintable()
        assert max(len(denial.what), len(denial.allow)) <= MAX_DENIAL_CHARS


def test_a_flood_of_denials_in_a_hostile_frame_is_cut() -> None:
    detail = b"d" + b"\x1ewhat\x1fallow" * 100
    _, ending = decode_result(head(detail=len(detail)) + detail, NOTHING)
    assert len(ending.denials) == MAX_DENIALS
    assert ending.denials[0] == Denial(what="what", allow="allow")
    assert ending.detail == "d"
    assert ending.denials[-1].allow.isprintable()

"""The protocol's messages as bytes: counts and sizes agree, or it is said which do not."""

from __future__ import annotations

import contextlib
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.errors import InvalidRequest, RequestTooLarge
from wisp.oip import messages
from wisp.oip.datatypes import BY_NAME, NAMES, pack, unpack
from wisp.oip.messages import MAX_JSON_BYTES, Object, Tensor
from wisp.wire.tensors import ElementType, tensor_bytes


def one(**fields: object) -> Object:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]} | fields]}


def parse(message: object, behind: bytes = b"") -> messages.Inference:
    text = json.dumps(message).encode()
    return messages.parse_inference(text + behind, len(text) if behind else None)


def test_json_becomes_bytes_however_it_is_nested() -> None:
    flat = parse(one(shape=[2, 2], data=[1, 2, 3, 4])).inputs[0]
    nested = parse(one(shape=[2, 2], data=[[1, 2], [3, 4]])).inputs[0]
    assert flat == nested
    assert flat.data == struct.pack("<4f", 1, 2, 3, 4)


@pytest.mark.parametrize("element", ElementType)
def test_each_type_there_and_back(element: ElementType) -> None:
    assert unpack(element, pack(element, [0, 1, 2], "x"), "x") == [0, 1, 2]
    assert BY_NAME[NAMES[element]] is element


def test_binary_tensors_lie_behind_one_another() -> None:
    first = {"name": "a", "datatype": "INT32", "shape": [1], "parameters": {"binary_data_size": 4}}
    second = {"name": "b", "datatype": "UINT8", "shape": [3], "parameters": {"binary_data_size": 3}}
    parsed = parse({"inputs": [first, second], "parameters": {"binary_data_output": True}}, b"\1\0\0\0abc")
    assert [bytes(tensor.data) for tensor in parsed.inputs] == [b"\1\0\0\0", b"abc"]
    assert parsed.binary
    assert parsed.outputs is None


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ([], "not a JSON object"),
        ({"inputs": {}}, "list of 64 objects"),
        ({"inputs": [1]}, "list of 64 objects"),
        (one(datatype="BOOL"), "datatype 'BOOL' is not one of"),
        (one(datatype="BYTES", data=["a", "b"]), "datatype 'BYTES' is not one of"),
        (one(datatype=["FP32"]), "is not one of"),
        (one(shape=[3]), "2 values, its shape [3] has 3"),
        (one(shape=[-1]), "impossible dimension"),
        (one(shape=[True]), "impossible dimension"),
        (one(shape=[1] * 17), "list of 16 numbers"),
        (one(shape=[2**32]), "impossible dimension"),
        (one(shape=[2**31, 2**31, 2**31]), "2 values"),
        (one(data=["1", "2"]), "something else than numbers"),
        (one(data=[None, 1]), "something else than numbers"),
        (one(data=[[1], 2]), "lists beside values"),
        (one(data=[True, False]), "something else than numbers"),
        (one(data=[10**400, 1]), "none of type FP32"),
        (one(datatype="INT64", data=[2**63, 0]), "none of type INT64"),
        (one(datatype="UINT8", data=[-1, 0]), "none of type UINT8"),
        (one(datatype="INT32", data=[1.5, 2]), "something else than numbers"),
        (one(data=None), "no list of data"),
        (one(name=""), "a name has"),
        (one(parameters={"binary_data_size": 8}), "data beside binary_data_size"),
        (one(parameters=[]), "parameters are an object"),
        (one(parameters={"shared_memory_region": "r"}), "not offered"),
        (one() | {"id": 5}, "id is a text"),
        (one() | {"parameters": {"timeout": -1}}, "timeout"),
        (one() | {"parameters": {"sequence_id": 7}}, "not offered"),
        (one() | {"outputs": [{"name": "y", "parameters": {"classification": 3}}]}, "not offered"),
        (one() | {"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "true or false"),
        ({"inputs": [*one()["inputs"], *one()["inputs"]]}, "name one tensor twice"),  # type: ignore[misc]
    ],
)
def test_what_is_refused_is_named(message: object, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(message)
    assert said in refused.value.message


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b'{"a":1,"a":2}', b'{"x": NaN}', b"\xff", b"1" * 5000])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest):
        messages.parse_inference(text, None)


@pytest.mark.parametrize(("size", "behind"), [(8, b"1234567"), (8, b"123456789"), (7, b"1234567"), (-8, b"12345678")])
def test_binary_sizes_agree(size: int, behind: bytes) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": size}}
    with pytest.raises(InvalidRequest):
        parse({"inputs": [tensor]}, behind)


def test_json_has_its_bound_and_bytes_do_not() -> None:
    with pytest.raises(RequestTooLarge) as refused:
        parse(one(data=[1] * MAX_JSON_BYTES))
    assert refused.value.limit == MAX_JSON_BYTES
    size = 4 * MAX_JSON_BYTES
    tensor = {"name": "x", "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}}
    assert len(parse({"inputs": [tensor]}, bytes(size)).inputs[0].data) == size


def test_a_header_longer_than_the_body_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        messages.parse_inference(b"{}", 3)


def test_an_answer_that_json_cannot_say_is_refused() -> None:
    nan = Tensor(name="y", dtype=ElementType.F32, shape=(1,), data=struct.pack("<f", float("nan")))
    large = Tensor(name="y", dtype=ElementType.U8, shape=(40_000,), data=bytes(40_000))
    for tensor in (nan, large):
        with pytest.raises(InvalidRequest, match="binary_data"):
            messages.encode_answer(model="m", version="1", identity="", outputs=((tensor, False),))
        text, blobs = messages.encode_answer(model="m", version="1", identity="", outputs=((tensor, True),))
        assert json.loads(text)["outputs"][0]["parameters"] == {"binary_data_size": len(tensor.data)}
        assert blobs == [tensor.data]


@given(
    st.sampled_from(ElementType),
    st.lists(st.integers(0, 4), max_size=4),
    st.binary(min_size=2048, max_size=2048),
)
def test_what_is_sent_as_bytes_is_read_as_sent(element: ElementType, shape: list[int], noise: bytes) -> None:
    size = tensor_bytes(element, tuple(shape))
    tensor = Tensor(name="x", dtype=element, shape=tuple(shape), data=(noise * 2)[:size])
    text, blobs = messages.encode_inference((tensor,), ("y",))
    parsed = messages.parse_inference(text + b"".join(blobs), len(text))
    assert parsed.inputs == (tensor,)
    assert parsed.outputs is not None
    assert parsed.outputs[0].binary


@given(st.binary(max_size=400), st.one_of(st.none(), st.integers(0, 500)))
def test_no_bytes_raise_anything_else(body: bytes, json_length: int | None) -> None:
    with contextlib.suppress(InvalidRequest, RequestTooLarge):
        messages.parse_inference(body, json_length)

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.errors import InvalidFrame
from wisp.wire.tensors import (
    BY_NUMPY_NAME,
    ELEMENT_BYTES,
    HEAD,
    MAX_RANK,
    MAX_TENSORS,
    NUMPY_NAMES,
    ElementType,
    TensorRef,
    TensorSpec,
    pack_tensors,
    tensor_bytes,
    unpack_tensors,
)

SEGMENT = 1 << 20


@st.composite
def tensors(draw: st.DrawFn) -> TensorRef:
    dtype = draw(st.sampled_from(ElementType))
    dims = tuple(draw(st.lists(st.integers(0, 4), max_size=MAX_RANK).filter(lambda d: sum(x > 1 for x in d) < 6)))
    length = tensor_bytes(dtype, dims)
    offset = draw(st.integers(0, SEGMENT - length))
    return TensorRef(index=draw(st.integers(0, 2**32 - 1)), dtype=dtype, dims=dims, offset=offset, length=length)


@given(st.lists(tensors(), max_size=5), st.binary(max_size=9))
def test_tensors_survive_the_round_trip(refs: list[TensorRef], before: bytes) -> None:
    assert unpack_tensors(before + pack_tensors(refs), len(before), len(refs), SEGMENT) == refs


@given(st.binary(max_size=200), st.integers(0, 2**16 - 1), st.integers(0, 2**33))
def test_whatever_is_unpacked_lies_inside_its_segment(data: bytes, count: int, segment_bytes: int) -> None:
    try:
        refs = unpack_tensors(data, 0, count, segment_bytes)
    except InvalidFrame:
        return
    for ref in refs:
        assert 0 <= ref.offset <= ref.offset + ref.length <= segment_bytes
        assert ref.length == tensor_bytes(ref.dtype, ref.dims)


@pytest.mark.parametrize(
    ("dtype", "rank", "offset", "length", "dims"),
    [
        pytest.param(6, 1, 0, 4, (1,), id="an element type that does not exist"),
        pytest.param(255, 1, 0, 4, (1,), id="the last byte"),
        pytest.param(1, MAX_RANK + 1, 0, 4, (1,) * (MAX_RANK + 1), id="rank"),
        pytest.param(1, 1, 0, 5, (1,), id="length above the product"),
        pytest.param(1, 1, 0, 0, (1,), id="length below the product"),
        pytest.param(1, 1, SEGMENT - 3, 4, (1,), id="end"),
        pytest.param(1, 1, 2**64 - 4, 4, (1,), id="offset that wraps"),
        pytest.param(1, 1, SEGMENT, 4, (1,), id="offset past the end"),
        pytest.param(5, 2, 0, 0, (2**32 - 1, 2**32 - 1), id="product past 64 bits"),
        pytest.param(5, 2, 0, 2**63, (2**30, 2**30), id="product of 2**63"),
        pytest.param(1, 4, 0, 0, (2**16, 2**16, 2**16, 2**16), id="product that wraps to 0"),
        pytest.param(1, 3, 0, 4, (1,), id="dimensions cut off"),
    ],
)
def test_a_hostile_tensor_is_refused(dtype: int, rank: int, offset: int, length: int, dims: tuple[int, ...]) -> None:
    data = HEAD.pack(dtype, rank, 0, 0, offset, length) + struct.pack(f"<{len(dims)}I", *dims)
    with pytest.raises(InvalidFrame):
        unpack_tensors(data, 0, 1, SEGMENT)


def test_too_many_tensors_are_refused_before_any_is_read() -> None:
    with pytest.raises(InvalidFrame, match="at most"):
        unpack_tensors(b"", 0, MAX_TENSORS + 1, SEGMENT)


def test_every_element_type_has_a_size_and_a_numpy_name() -> None:
    assert ELEMENT_BYTES.keys() == NUMPY_NAMES.keys() == set(ElementType)
    assert {BY_NUMPY_NAME[name] for name in NUMPY_NAMES.values()} == set(ElementType)


def test_a_spec_accepts_its_type_its_rank_and_any_size_where_it_is_open() -> None:
    spec = TensorSpec(name="x", dtype=ElementType.F32, shape=(-1, 3))
    assert spec.accepts(ElementType.F32, (7, 3))
    assert spec.accepts(ElementType.F32, (0, 3))
    assert not spec.accepts(ElementType.F32, (7, 4))
    assert not spec.accepts(ElementType.F32, (7, 3, 1))
    assert not spec.accepts(ElementType.I32, (7, 3))

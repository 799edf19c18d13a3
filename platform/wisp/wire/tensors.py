"""Tensors between the processes: a type, dimensions, and where the bytes lie in a segment.

The element types are those that wasi-nn's current dialect names (wasi-nn.md §1.3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from wisp.errors import InvalidFrame

MAX_RANK = 16
MAX_TENSORS = 64

HEAD = struct.Struct("<BBHIQQ")
"""Element type, rank, padding, index, offset, length; then `rank` u32 dimensions."""
DIMS: Final = tuple(struct.Struct(f"<{rank}I") for rank in range(MAX_RANK + 1))


class ElementType(IntEnum):
    F16 = 0
    F32 = 1
    F64 = 2
    U8 = 3
    I32 = 4
    I64 = 5


ELEMENT_BYTES: dict[ElementType, int] = {
    ElementType.F16: 2,
    ElementType.F32: 4,
    ElementType.F64: 8,
    ElementType.U8: 1,
    ElementType.I32: 4,
    ElementType.I64: 8,
}
NUMPY_NAMES: dict[ElementType, str] = {
    ElementType.F16: "float16",
    ElementType.F32: "float32",
    ElementType.F64: "float64",
    ElementType.U8: "uint8",
    ElementType.I32: "int32",
    ElementType.I64: "int64",
}
BY_NUMPY_NAME: dict[str, ElementType] = {name: element for element, name in NUMPY_NAMES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output of a model. A dimension is -1 where the model leaves it open."""

    name: str
    dtype: ElementType
    shape: tuple[int, ...]

    def accepts(self, dtype: ElementType, dims: tuple[int, ...]) -> bool:
        return (
            dtype is self.dtype
            and len(dims) == len(self.shape)
            and all(want in (-1, have) for want, have in zip(self.shape, dims, strict=True))
        )


class TensorRef(NamedTuple):
    """A tensor lying in a segment: `length` bytes from `offset`. `index` is its position among inputs or outputs."""

    index: int  # type: ignore[assignment]  # hides tuple's method
    dtype: ElementType
    dims: tuple[int, ...]
    offset: int
    length: int


def tensor_bytes(dtype: ElementType, dims: tuple[int, ...]) -> int:
    """The exact size in bytes; Python's integers cannot overflow, so a hostile product is only a large number."""
    size = ELEMENT_BYTES[dtype]
    for dim in dims:
        size *= dim
    return size


def pack_tensors(tensors: list[TensorRef]) -> bytes:
    parts = []
    for tensor in tensors:
        rank = len(tensor.dims)
        parts.append(HEAD.pack(tensor.dtype, rank, 0, tensor.index, tensor.offset, tensor.length))
        parts.append(DIMS[rank].pack(*tensor.dims))
    return b"".join(parts)


def unpack_tensors(data: bytes, at: int, count: int, segment_bytes: int) -> list[TensorRef]:
    """Reads `count` tensors; raises `InvalidFrame` unless each lies inside the segment and its sizes agree."""
    if count > MAX_TENSORS:
        raise InvalidFrame(f"{count} tensors in one frame, at most {MAX_TENSORS}")
    tensors = []
    try:
        for _ in range(count):
            dtype, rank, _pad, index, offset, length = HEAD.unpack_from(data, at)
            at += HEAD.size
            if rank > MAX_RANK:
                raise InvalidFrame(f"a tensor of rank {rank}, at most {MAX_RANK}")
            dims = DIMS[rank].unpack_from(data, at)
            at += 4 * rank
            element = ElementType(dtype)
            if offset + length > segment_bytes or tensor_bytes(element, dims) != length:
                raise InvalidFrame("a tensor does not lie inside its segment")
            tensors.append(TensorRef(index, element, dims, offset, length))
    except (struct.error, ValueError) as error:
        raise InvalidFrame("a tensor is malformed") from error
    return tensors

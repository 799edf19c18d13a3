"""Element types by the protocol's names, and their values between JSON and little-endian bytes.

Only what wasi-nn can name is spoken: BOOL, BYTES and the types without an `ElementType` are refused by name. Numbers go
through `array` and `struct`, whose own range checks are the checks.
"""

from __future__ import annotations

import array
import math
import struct
from typing import Final, cast

from wisp.errors import InvalidRequest
from wisp.wire.tensors import ELEMENT_BYTES, MAX_RANK, ElementType

NAMES: Final[dict[ElementType, str]] = {
    ElementType.F16: "FP16",
    ElementType.F32: "FP32",
    ElementType.F64: "FP64",
    ElementType.U8: "UINT8",
    ElementType.I32: "INT32",
    ElementType.I64: "INT64",
}
BY_NAME: Final[dict[str, ElementType]] = {name: element for element, name in NAMES.items()}
_CODES: Final[dict[ElementType, str]] = {
    ElementType.F32: "f",
    ElementType.F64: "d",
    ElementType.U8: "B",
    ElementType.I32: "i",
    ElementType.I64: "q",
}
_FLOATS: Final = frozenset({ElementType.F16, ElementType.F32, ElementType.F64})
_NUMBERS: Final = frozenset({int, float})
_WHOLE: Final = frozenset({int})


def parse_datatype(value: object) -> ElementType:
    """Raises `InvalidRequest` with the names that are spoken."""
    element = BY_NAME.get(value) if isinstance(value, str) else None
    if element is None:
        shown = ascii(value)[:40]
        raise InvalidRequest(f"datatype {shown} is not one of {', '.join(sorted(BY_NAME))}")
    return element


def flat(data: list[object], what: str) -> list[object]:
    """The values of nested lists, row by row, however they are nested: the shape says what they mean."""
    for _ in range(MAX_RANK):
        if not data or type(data[0]) is not list:
            break
        if set(map(type, data)) != {list}:
            raise InvalidRequest(f"{what}: data holds lists beside values")
        data = [value for row in data for value in row]  # type: ignore[attr-defined]  # each is a list
    return data


def pack(element: ElementType, values: list[object], what: str) -> bytes:
    """Raises `InvalidRequest` for what is no number, or none of this type's."""
    kinds = set(map(type, values))
    allowed = _NUMBERS if element in _FLOATS else _WHOLE
    if not kinds <= allowed:
        raise InvalidRequest(f"{what}: data holds something else than numbers of type {NAMES[element]}")
    try:
        if element is ElementType.F16:
            return struct.pack(f"<{len(values)}e", *values)
        packed = array.array(_CODES[element], cast("list[float]", values))
    except (OverflowError, struct.error, ValueError) as error:
        raise InvalidRequest(f"{what}: data holds a number that is none of type {NAMES[element]}") from error
    return packed.tobytes()


def unpack(element: ElementType, data: bytes | memoryview, what: str) -> list[int] | list[float]:
    """Raises `InvalidRequest` for a value that JSON cannot say."""
    if element is ElementType.F16:
        values: list[int] | list[float] = list(struct.unpack(f"<{len(data) // 2}e", data))
    else:
        unpacked = array.array(_CODES[element])
        unpacked.frombytes(data)
        values = unpacked.tolist()
    if element in _FLOATS and not all(map(math.isfinite, values)):
        raise InvalidRequest(f"{what} holds NaN or an infinity, which JSON cannot say: ask for binary_data")
    return values


def elements(element: ElementType, data: bytes | memoryview) -> int:
    return len(data) // ELEMENT_BYTES[element]

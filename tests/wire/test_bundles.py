"""A bundle's segment: its index and where the bytes lie."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.errors import InvalidFrame
from wisp.wire.bundles import decode_index, encode_index


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.binary(max_size=50), max_size=8))
def test_every_file_lies_where_the_index_says(files: dict[str, bytes]) -> None:
    index = encode_index((path, len(content)) for path, content in files.items())
    segment = memoryview(b"".join((index, *files.values())))
    found = {entry.path: bytes(segment[entry.offset : entry.offset + entry.length]) for entry in decode_index(segment)}
    assert found == files


def raw(index: bytes, rest: bytes = b"") -> bytes:
    return struct.pack("<I", len(index)) + index + rest


@pytest.mark.parametrize(
    "segment",
    [
        b"", b"\1", raw(b""), raw(b"{"), raw(b"[1]"), raw(b"[[1]]"), raw(b'[["a", 0]]'), raw(b'[["a", "x", 1]]'),
        raw(b'[["a", 0, 1]]'), raw(b'[["a", -1, 1]]', b"xx"), raw(b'[["a", 0, -1]]', b"xx"),
        raw(b'[["a", 1, 2]]', b"xx"), raw(b'[["a", 0, 9223372036854775808]]', b"xx"),
    ],
)  # fmt: skip
def test_what_does_not_lie_inside_is_refused(segment: bytes) -> None:
    with pytest.raises(InvalidFrame):
        decode_index(memoryview(segment))

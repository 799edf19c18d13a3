"""An inference of a model that another machine serves, on its way from the sandbox to the router and back.

Both directions ride in `wire.outbound`'s frames (REMOTE, INBOUND): `REMOTE_HEAD`, that many packed tensors, then their
bytes, at offsets from where the bytes begin.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from wisp.errors import InvalidFrame
from wisp.wire.tensors import HEAD, TensorRef, pack_tensors, unpack_tensors

REMOTE_HEAD = struct.Struct("<HHQ")
"""model number, tensors, time spent (ns; 0 on the way there)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """`data` begins where the tensors' offsets do."""

    model: int
    spent_ns: int
    tensors: tuple[TensorRef, ...]
    data: memoryview


def encode_carried(
    model: int, spent_ns: int, tensors: Sequence[TensorRef], parts: Sequence[bytes | memoryview]
) -> bytes:
    """The tensors lie one behind the other, as their parts do; their own offsets are of no account."""
    refs, offset = [], 0
    for tensor, part in zip(tensors, parts, strict=True):
        refs.append(
            TensorRef(index=tensor.index, dtype=tensor.dtype, dims=tensor.dims, offset=offset, length=len(part))
        )
        offset += len(part)
    return b"".join((REMOTE_HEAD.pack(model, len(refs), spent_ns), pack_tensors(refs), *parts))


def decode_carried(content: bytes) -> Carried:
    """Raises `InvalidFrame` for what does not lie inside, or is of another size than its shape."""
    try:
        model, count, spent_ns = REMOTE_HEAD.unpack_from(content)
    except struct.error as error:
        raise InvalidFrame("a remote inference without its head") from error
    refs = unpack_tensors(content, REMOTE_HEAD.size, count, len(content))
    begin = REMOTE_HEAD.size + sum(HEAD.size + 4 * len(ref.dims) for ref in refs)
    data = memoryview(content)[begin:]
    if any(ref.offset + ref.length > len(data) for ref in refs):
        raise InvalidFrame("a tensor does not lie inside its message")
    return Carried(model=model, spent_ns=spent_ns, tensors=tuple(refs), data=data)

"""The `handler` ABI: `wisp_alloc` for room, the exchange request copied in, `wisp_handle`, the response copied out.

One copy each way: the request's head and body go straight from their frame or segment into guest memory, a large
response straight from guest memory into the answer segment.
"""

from __future__ import annotations

import ctypes
from typing import Final

from wisp.sandbox import memory
from wisp.sandbox.capi import EXTERN_FUNC, EXTERN_MEMORY, RAW_BYTES
from wisp.sandbox.invocation import Invocation
from wisp.sandbox.store import Export, Store
from wisp.wire.exchange import MAX_HEADER_BYTES, MAX_HEADERS
from wisp.wire.invocations import INLINE_BYTES
from wisp.wire.outcome import Outcome

ENVELOPE_BYTES: Final = 12 + 8 * MAX_HEADERS + MAX_HEADER_BYTES
"""What a response message may take beside its body."""

_values = (ctypes.c_uint64 * (2 * RAW_BYTES // 8))()
_values_at = ctypes.addressof(_values)
_SECOND: Final = RAW_BYTES // 8


Answer = tuple[bytes, int]
"""A response message: inline, or so many bytes at the start of the answer segment."""
EMPTY: Final[Answer] = (b"", 0)


class MissingExport(Exception):
    """Admission has seen the export; its absence in the sandbox is the platform's fault, not the guest's."""


def required(store: Store, name: bytes, kind: int) -> Export:
    export = store.export(name)
    if export is None or export.kind != kind:
        raise MissingExport(f"the module has no export {name.decode()} of the right kind")
    return export


def initialize(store: Store) -> None:
    """What a reactor runs once before anything else. Raises `Trapped`."""
    start = store.export(b"_initialize")
    if start is not None and start.kind == EXTERN_FUNC:
        store.call(start, _values_at, 0)


def check_exports(store: Store) -> None:
    required(store, b"memory", EXTERN_MEMORY)
    required(store, b"wisp_alloc", EXTERN_FUNC)
    required(store, b"wisp_handle", EXTERN_FUNC)


def handle(store: Store, call: Invocation, head: bytes, body: bytes | memoryview, answer: memoryview) -> Answer:
    """Raises `Trapped`. A response that leaves memory or its limit stops the invocation instead of being returned."""
    initialize(store)
    alloc = required(store, b"wisp_alloc", EXTERN_FUNC)
    entry = required(store, b"wisp_handle", EXTERN_FUNC)
    length = len(head) + len(body)
    _values[0] = length
    store.call(alloc, _values_at, 1)
    pointer = _values[0] & 0xFFFFFFFF
    try:
        room = memory.view(call.arena, pointer, length)
    except memory.BadPointer:
        call.stop(
            Outcome.INVALID_GUEST_RESPONSE, f"wisp_alloc({length}) returned {pointer}, which does not lie in memory"
        )
        return EMPTY
    room[: len(head)] = head
    if body:
        room[len(head) :] = body
    _values[0], _values[_SECOND] = pointer, length
    store.call(entry, _values_at, 2)
    packed = _values[0]
    length, pointer = packed & 0xFFFFFFFF, packed >> 32
    if length > min(call.link.response_bytes + ENVELOPE_BYTES, len(answer) - call.link.log_bytes):
        call.stop(Outcome.RESPONSE_TOO_LARGE, f"a response of {length} bytes, {call.link.response_bytes} are allowed")
        return EMPTY
    try:
        view = memory.view(call.arena, pointer, length)
    except memory.BadPointer:
        call.stop(Outcome.INVALID_GUEST_RESPONSE, f"a response of {length} bytes at {pointer} does not lie in memory")
        return EMPTY
    if length > INLINE_BYTES:
        answer[:length] = view
        return b"", length
    return view.tobytes(), 0

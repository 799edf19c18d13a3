"""Host functions as the engine calls them: linked once per engine, one raw callback each, and none ever raises.

A callback reads its arguments in one go, calls the capability's function with the current invocation, and writes the
errno back; a `Stop` or anything unforeseen becomes a trap whose cause is noted on the invocation. An exception that
left a ctypes callback would be printed and taken for success.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from wisp.policy.capabilities import CAPABILITIES, NN_MODULE, OWN_MODULE, WASI_MODULE
from wisp.sandbox import capi, http, nn, wasi
from wisp.sandbox.engine import Engine, Linker
from wisp.sandbox.invocation import Invocation, Stop
from wisp.sandbox.memory import BadPointer
from wisp.wire.outcome import Outcome

HostFunction = Callable[..., "int | Stop"]

FRONTS: dict[str, tuple[dict[str, HostFunction], int]] = {
    WASI_MODULE: (wasi.FUNCTIONS, int(wasi.FAULT)),
    NN_MODULE: (nn.FUNCTIONS, int(nn.FAULT)),
    OWN_MODULE: (http.FUNCTIONS, int(http.FAULT)),
}
"""Per import module: its functions, and the errno of a bad pointer."""

_CELL = {"i32": "I12x", "i64": "Q8x"}
PLACES: Final = 64
"""On the engine's stack where one host function's arguments lie: few, since a guest calls in the same way each time."""


class Current:
    """The invocation that is running; a sandbox has one at a time."""

    __slots__ = ("invocation",)

    def __init__(self) -> None:
        self.invocation: Invocation | None = None


def raw_callback(
    current: Current, function: HostFunction, params: tuple[str, ...], has_result: bool, fault: int
) -> Callable[[int, int, int, int], int]:
    cells = struct.Struct("<" + "".join(_CELL[param] for param in params))
    unpack_from = cells.unpack_from
    kind = ctypes.c_uint64 * (max(len(params), 1) * capi.RAW_BYTES // 8)
    values_at = lru_cache(maxsize=PLACES)(kind.from_address)

    def callback(_env: int, _caller: int, address: int, _count: int) -> int:
        call = current.invocation
        try:
            assert call is not None
            call.host_calls += 1
            values = values_at(address)
            try:
                result = function(call, *unpack_from(values))
            except BadPointer:
                result = fault
            if isinstance(result, Stop):
                return capi.make_trap(b"stopped by the host")
            if has_result:
                values[0] = result
        except BaseException as error:  # noqa: BLE001 - nothing may leave a ctypes callback
            if call is not None:
                call.stop(Outcome.CHILD_LOST, f"{type(error).__name__} in a host function")
            with contextlib.suppress(BaseException):  # whoever reads standard error may be gone
                traceback.print_exc(file=sys.stderr)
            return capi.make_trap(b"a host function failed")
        return 0

    return callback


def link(engine: Engine, current: Current) -> Linker:
    """All capabilities' functions. What a function may import was judged when it was deployed; whether it may use what
    it imports is judged by each call against the grants."""
    linker = Linker(engine)
    for module, (functions, fault) in FRONTS.items():
        for name, function in functions.items():
            params, results = CAPABILITIES[module].functions[name]
            callback = capi.HostCallback(raw_callback(current, function, params, bool(results), fault))
            linker.define(module, name, params, results, callback)
    return linker

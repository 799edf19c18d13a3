"""One invocation's store, with what it may use: the calls into the engine that every request makes.

Arguments are converted once for the process, and the rooms for what the engine tells are made once: either would cost
each request more than the calls themselves.
"""

from __future__ import annotations

import ctypes
from typing import Final

from wisp.policy.facts import MAX_TABLE_ELEMENTS, MAX_TABLES
from wisp.sandbox.capi import (
    EXTERN_BYTES,
    EXTERN_FUNC,
    EXTERN_OF,
    P,
    check,
    raise_trap,
    wasmtime_context_get_fuel,
    wasmtime_context_set_epoch_deadline,
    wasmtime_context_set_fuel,
    wasmtime_func_call_unchecked,
    wasmtime_instance_export_get,
    wasmtime_instance_pre_instantiate,
    wasmtime_store_context,
    wasmtime_store_delete,
    wasmtime_store_limiter,
    wasmtime_store_new,
)

UNLIMITED: Final = -1

_instance = ctypes.byref((ctypes.c_char * 16)())
_trap = P()
_trap_at = ctypes.byref(_trap)
_fuel = ctypes.c_uint64()
_fuel_at = ctypes.byref(_fuel)
_engine, _prepared, _length, _values, _count, _ticks = P(), P(), P(), P(), P(), ctypes.c_uint64()
"""Arguments of the calls below, filled in before each."""
# Memory is bounded by the arena, which also notes a refused growth; everything else is bounded here.
_LIMITS: Final = tuple(ctypes.c_int64(most) for most in (UNLIMITED, MAX_TABLE_ELEMENTS, 1, MAX_TABLES, 1))


class Export:
    """Room for one wasmtime_extern_t. Those that a store finds are valid until the next store is made."""

    __slots__ = ("at", "cells", "function", "kind", "of")

    def __init__(self) -> None:
        self.cells = (ctypes.c_uint8 * EXTERN_BYTES)()
        self.at = ctypes.byref(self.cells)
        self.function = ctypes.byref(self.cells, EXTERN_OF)
        self.of = ctypes.addressof(self.cells) + EXTERN_OF
        self.kind = EXTERN_FUNC


_exports = tuple(Export() for _ in range(8))
"""More than any invocation looks up; making them anew would cost each request as much as the lookups themselves."""


class Store:
    """One invocation's store. `close` frees it and all that the guest allocated; it must run on every path.

    The out-parameters are shared by all stores of the process, which is sound because one thread runs one guest at a
    time; nothing here may be called from a second thread.
    """

    __slots__ = ("_context", "_pointer", "_rooms")

    def __init__(self, engine: int, *, fuel: int, epoch_ticks: int) -> None:
        self._rooms = iter(_exports)
        _engine.value = engine
        self._pointer = pointer = P(wasmtime_store_new(_engine, None, None))
        context = self._context = P(wasmtime_store_context(pointer))
        wasmtime_store_limiter(pointer, *_LIMITS)
        _fuel.value = fuel
        error = wasmtime_context_set_fuel(context, _fuel)
        if error:
            check(error)
        _ticks.value = epoch_ticks
        wasmtime_context_set_epoch_deadline(context, _ticks)

    @property
    def pointer(self) -> int:
        """0 once closed."""
        return self._pointer.value

    @property
    def context(self) -> int:
        return self._context.value

    def instantiate(self, prepared: int) -> None:
        """Runs the start function too. Raises `Trapped` or `EngineError`."""
        _prepared.value = prepared
        error = wasmtime_instance_pre_instantiate(_prepared, self._context, _instance, _trap_at)
        if error:
            check(error)
        if _trap.value:
            _raise_pending_trap()

    def export(self, name: bytes) -> Export | None:
        """The instance's export of that name, if there is one."""
        item = next(self._rooms)
        _length.value = len(name)
        if not wasmtime_instance_export_get(self._context, _instance, name, _length, item.at):
            return None
        item.kind = item.cells[0]
        return item

    def call(self, function: Export, values: int, count: int) -> None:
        """Arguments and results share `count` cells of `RAW_BYTES` at `values`. Raises `Trapped` or `EngineError`."""
        _values.value = values
        _count.value = count
        error = wasmtime_func_call_unchecked(self._context, function.function, _values, _count, _trap_at)
        if error:
            check(error)
        if _trap.value:
            _raise_pending_trap()

    def fuel_left(self) -> int:
        error = wasmtime_context_get_fuel(self._context, _fuel_at)
        if error:
            check(error)
        return _fuel.value

    def set_fuel(self, fuel: int) -> None:
        """Also while the guest waits in a host call: what it then has to go on with."""
        _fuel.value = fuel
        check(wasmtime_context_set_fuel(self._context, _fuel))

    def close(self) -> None:
        pointer = self._pointer
        if pointer.value:
            wasmtime_store_delete(pointer)
            pointer.value = 0


def _raise_pending_trap() -> None:
    trap, _trap.value = _trap.value, 0
    raise_trap(trap)

"""The one file that knows wasmtime's C API. Everything above it sees integers, bytes and the classes below.

Why not wasmtime-py's public classes: they cost ten times as much a request, a host function's exception may reach
another thread's guest, and a refused `memory.grow` cannot be seen through them. The shared library that the `wasmtime`
wheel carries is loaded by its path, so that neither the wheel's Python modules nor their generated signatures matter:
the declarations here follow the C headers of the one major version that `pyproject.toml` pins.

Pointers are plain integers (`c_size_t`): no ctypes pointer object is built per call. What a store calls for each
request takes arguments that were converted once (`_prompt`). Errors and traps are owned by whoever receives them and
are freed here.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from wisp.policy.facts import MAX_TABLE_ELEMENTS, MAX_TABLES
from wisp.wire.outcome import one_line

MAJOR: Final = "50"
P = ctypes.c_size_t
U64 = ctypes.c_uint64

RAW_BYTES: Final = 16
"""sizeof(wasmtime_val_raw_t): a union that holds a v128."""
EXTERN_BYTES: Final = 32
EXTERN_OF: Final = 8
"""Offset of the union in wasmtime_extern_t."""
EXTERN_FUNC: Final = 0
EXTERN_MEMORY: Final = 3
UNLIMITED: Final = -1

MAX_MESSAGE_BYTES: Final = 512


class TrapCode(IntEnum):
    """wasmtime/trap.h, wasmtime_trap_code_enum."""

    STACK_OVERFLOW = 0
    MEMORY_OUT_OF_BOUNDS = 1
    HEAP_MISALIGNED = 2
    TABLE_OUT_OF_BOUNDS = 3
    INDIRECT_CALL_TO_NULL = 4
    BAD_SIGNATURE = 5
    INTEGER_OVERFLOW = 6
    INTEGER_DIVISION_BY_ZERO = 7
    BAD_CONVERSION_TO_INTEGER = 8
    UNREACHABLE = 9
    INTERRUPT = 10
    OUT_OF_FUEL = 11


class EngineError(Exception):
    """The engine refused: the text is wasmtime's own, bounded and with control characters escaped."""


class Trapped(Exception):
    """The guest stopped: `code` is wasmtime's trap code, or None for a trap that a host function made."""

    def __init__(self, code: int | None, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def version() -> str:
    return importlib.metadata.version("wasmtime")


def _path() -> str:
    found = version()
    if found.partition(".")[0] != MAJOR:
        raise ImportError(f"wasmtime {MAJOR} is needed for its C API, {found} is installed")
    spec = importlib.util.find_spec("wasmtime")
    if spec is None or spec.origin is None:
        raise ImportError("the wasmtime package is not installed")
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    return str(Path(spec.origin).parent / f"linux-{machine}" / "_libwasmtime.so")


_library = ctypes.CDLL(_path())
_holding = ctypes.PyDLL(_library._name)
"""The same library, for calls that return at once: the interpreter's lock stays held."""


def _function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = _library[name]  # indexing gives a private object whose signature may be set
    function.restype = result
    function.argtypes = arguments
    return function


def _prompt(name: str, result: Any = None, *, library: ctypes.CDLL = _holding) -> Callable[..., Any]:
    """To be called with ctypes objects of the exact types alone. To convert an integer by a declared signature costs
    each call more than the engine's own work does."""
    function = library[name]
    function.restype = result
    return function


class _ByteVec(ctypes.Structure):
    _fields_ = (("size", P), ("data", P))


class _MemoryCreator(ctypes.Structure):
    _fields_ = (("env", P), ("new_memory", P), ("finalizer", P))


class _LinearMemory(ctypes.Structure):
    _fields_ = (("env", P), ("get_memory", P), ("grow_memory", P), ("finalizer", P))


_bool, _i64, _char_p = ctypes.c_bool, ctypes.c_int64, ctypes.c_char_p

_config_new = _function("wasm_config_new", P)
_engine_new = _function("wasm_engine_new_with_config", P, P)
_engine_delete = _function("wasm_engine_delete", None, P)
_creator_set = _function("wasmtime_config_host_memory_creator_set", None, P, P)
_error_new = _function("wasmtime_error_new", P, _char_p)
_error_delete = _function("wasmtime_error_delete", None, P)
_error_message = _function("wasmtime_error_message", None, P, P)
_trap_new = _function("wasmtime_trap_new", P, _char_p, P)
_trap_code = _function("wasmtime_trap_code", _bool, P, P)
_trap_message = _function("wasm_trap_message", None, P, P)
_trap_delete = _function("wasm_trap_delete", None, P)
_byte_vec_delete = _function("wasm_byte_vec_delete", None, P)
_module_new = _function("wasmtime_module_new", P, P, _char_p, P, P)
_module_serialize = _function("wasmtime_module_serialize", P, P, P)
_module_deserialize_file = _function("wasmtime_module_deserialize_file", P, P, _char_p, P)
_module_delete = _function("wasmtime_module_delete", None, P)
_linker_new = _function("wasmtime_linker_new", P, P)
_linker_delete = _function("wasmtime_linker_delete", None, P)
_linker_define = _function("wasmtime_linker_define_func_unchecked", P, P, _char_p, P, _char_p, P, P, P, P, P)
_linker_pre = _function("wasmtime_linker_instantiate_pre", P, P, P, P)
_pre_delete = _function("wasmtime_instance_pre_delete", None, P)
_pre_instantiate = _prompt("wasmtime_instance_pre_instantiate", P, library=_library)
_valtype_new = _function("wasm_valtype_new", P, ctypes.c_uint8)
_valtype_vec_new = _function("wasm_valtype_vec_new", None, P, P, P)
_functype_new = _function("wasm_functype_new", P, P, P)
_functype_delete = _function("wasm_functype_delete", None, P)
_store_new = _prompt("wasmtime_store_new", P)
_store_context = _prompt("wasmtime_store_context", P)
_store_limiter = _prompt("wasmtime_store_limiter")
_store_delete = _prompt("wasmtime_store_delete")
_set_fuel = _prompt("wasmtime_context_set_fuel", P)
_get_fuel = _prompt("wasmtime_context_get_fuel", P)
_set_epoch_deadline = _prompt("wasmtime_context_set_epoch_deadline")
_export_get = _prompt("wasmtime_instance_export_get", _bool)
_func_call = _prompt("wasmtime_func_call_unchecked", P, library=_library)

_increment_epoch = _function("wasmtime_engine_increment_epoch", None, P)
INCREMENT_EPOCH: Final[int] = ctypes.cast(_library["wasmtime_engine_increment_epoch"], ctypes.c_void_p).value or 0
"""Address of `void wasmtime_engine_increment_epoch(wasm_engine_t*)`, for a native timer to call."""

CONFIGURATION: Final[dict[str, bool]] = {
    "consume_fuel": True,
    "epoch_interruption": True,
    "wasm_simd": True,
    "wasm_bulk_memory": True,
    "wasm_multi_value": True,
    "wasm_reference_types": True,  # today's compilers emit its table encoding for every indirect call
    "wasm_relaxed_simd": False,  # answers that differ between machines
    "wasm_threads": False,
    "shared_memory": False,
    "wasm_tail_call": False,
    "wasm_function_references": False,
    "wasm_gc": False,
    "wasm_multi_memory": False,
    "wasm_memory64": False,
    "wasm_wide_arithmetic": False,
    "wasm_exceptions": False,
    "wasm_custom_page_sizes": False,
    "wasm_stack_switching": False,
    "wasm_component_model": False,
    "memory_init_cow": False,  # memories come from `arena`, which copies data segments in
}


def configuration_fingerprint() -> str:
    """What a compiled module depends on beside its source; part of every AOT cache key."""
    settings = ",".join(f"{name}={value:d}" for name, value in sorted(CONFIGURATION.items()))
    return f"wasmtime {version()} {platform.machine()} {settings}"


def _take_bytes(vec: _ByteVec) -> bytes:
    data = ctypes.string_at(vec.data, vec.size) if vec.size else b""
    _byte_vec_delete(ctypes.addressof(vec))
    return data


def _printable(text: bytes) -> str:
    return one_line(text.rstrip(b"\0")[:MAX_MESSAGE_BYTES].decode("utf-8", "replace"))


def _check(error: int) -> None:
    if error:
        vec = _ByteVec()
        _error_message(error, ctypes.addressof(vec))
        _error_delete(error)
        raise EngineError(_printable(_take_bytes(vec)))


def make_trap(message: bytes) -> int:
    """A trap for a host function to return; whoever calls the guest receives it as `Trapped` without a code."""
    trap: int = _trap_new(message, len(message))
    return trap


def make_error(message: bytes) -> int:
    error: int = _error_new(message)
    return error


def _raise_trap(trap: int) -> None:
    code = ctypes.c_uint8()
    known = _trap_code(trap, ctypes.addressof(code))
    vec = _ByteVec()
    _trap_message(trap, ctypes.addressof(vec))
    message = _printable(_take_bytes(vec))
    _trap_delete(trap)
    raise Trapped(code.value if known else None, message)


HostCallback = ctypes.CFUNCTYPE(P, P, P, P, P)
"""(env, caller, args and results, count) -> trap or 0."""
NewMemory = ctypes.CFUNCTYPE(P, P, P, P, P, P, P, P)
"""(env, type, minimum, maximum, reserved, guard, out) -> error or 0; sizes in bytes."""
GetMemory = ctypes.CFUNCTYPE(P, P, P, P)
"""(env, out size, out capacity) -> base."""
GrowMemory = ctypes.CFUNCTYPE(P, P, P)
"""(env, new size) -> error or 0."""
Finalizer = ctypes.CFUNCTYPE(None, P)


def address_of(callback: Any) -> int:
    return ctypes.cast(callback, ctypes.c_void_p).value or 0


def linear_memory(get_memory: Any, grow_memory: Any, finalizer: Any) -> bytes:
    """Of these three callbacks, which it does not keep alive."""
    return bytes(_LinearMemory(0, address_of(get_memory), address_of(grow_memory), address_of(finalizer)))


@lru_cache(maxsize=16)
def _linear_memory_at(address: int) -> Any:
    return (ctypes.c_char * ctypes.sizeof(_LinearMemory)).from_address(address)


def fill_linear_memory(out: int, memory: bytes) -> None:
    _linear_memory_at(out).raw = memory


class Engine:
    """One engine. `new_memory` is the address of a `NewMemory` callback, or 0 for wasmtime's own memories."""

    def __init__(self, new_memory: int = 0) -> None:
        config = _config_new()
        for name, value in CONFIGURATION.items():
            _function(f"wasmtime_config_{name}_set", None, P, _bool)(config, value)
        if new_memory:
            creator = _MemoryCreator(0, new_memory, 0)
            _creator_set(config, ctypes.addressof(creator))
        self.pointer: int = _engine_new(config)  # takes the configuration over
        if not self.pointer:
            raise EngineError("the engine's configuration was refused")

    def increment_epoch(self) -> None:
        """From any thread."""
        _increment_epoch(self.pointer)

    def compile(self, wasm: bytes) -> bytes:
        """Native code for these module bytes, in wasmtime's serialized form. Raises `EngineError`."""
        module = P()
        _check(_module_new(self.pointer, wasm, len(wasm), ctypes.addressof(module)))
        try:
            vec = _ByteVec()
            _check(_module_serialize(module.value, ctypes.addressof(vec)))
            return _take_bytes(vec)
        finally:
            _module_delete(module.value)

    def map_module(self, path: str) -> int:
        """A module from a file of serialized code, mapped: the bytes must be authentic and must never change."""
        module = P()
        _check(_module_deserialize_file(self.pointer, path.encode(), ctypes.addressof(module)))
        return module.value

    def close(self) -> None:
        if self.pointer:
            _engine_delete(self.pointer)
            self.pointer = 0


_KINDS = {"i32": 0, "i64": 1, "f32": 2, "f64": 3}


def _value_types(names: tuple[str, ...]) -> _ByteVec:
    values = (P * len(names))(*(_valtype_new(_KINDS[name]) for name in names))
    vec = _ByteVec()
    _valtype_vec_new(ctypes.addressof(vec), len(names), ctypes.addressof(values))
    return vec


class Linker:
    """Host functions by name. The callbacks are kept alive as long as it is."""

    def __init__(self, engine: Engine) -> None:
        self.pointer: int = _linker_new(engine.pointer)
        self.callbacks: list[Any] = []

    def define(self, module: str, name: str, params: tuple[str, ...], results: tuple[str, ...], callback: Any) -> None:
        param_vec, result_vec = _value_types(params), _value_types(results)
        kind = _functype_new(ctypes.addressof(param_vec), ctypes.addressof(result_vec))  # takes both over
        try:
            raw_module, raw_name = module.encode(), name.encode()
            function = address_of(callback)
            _check(
                _linker_define(self.pointer, raw_module, len(raw_module), raw_name, len(raw_name), kind, function, 0, 0)
            )
        finally:
            _functype_delete(kind)
        self.callbacks.append(callback)

    def prepare(self, module: int) -> int:
        """The module with its imports resolved (an InstancePre). Raises `EngineError` for what is not defined."""
        prepared = P()
        _check(_linker_pre(self.pointer, module, ctypes.addressof(prepared)))
        return prepared.value

    def close(self) -> None:
        if self.pointer:
            _linker_delete(self.pointer)
            self.pointer = 0


def delete_module(module: int) -> None:
    _module_delete(module)


def delete_prepared(prepared: int) -> None:
    _pre_delete(prepared)


_instance = ctypes.byref((ctypes.c_char * 16)())
_trap = P()
_trap_at = ctypes.byref(_trap)
_fuel = U64()
_fuel_at = ctypes.byref(_fuel)
_engine, _prepared, _length, _values, _count, _ticks = P(), P(), P(), P(), P(), U64()
"""Arguments of the calls below, filled in before each."""
# Memory is bounded by the arena, which also notes a refused growth; everything else is bounded here.
_LIMITS: Final = tuple(_i64(most) for most in (UNLIMITED, MAX_TABLE_ELEMENTS, 1, MAX_TABLES, 1))


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
        self._pointer = pointer = P(_store_new(_engine, None, None))
        context = self._context = P(_store_context(pointer))
        _store_limiter(pointer, *_LIMITS)
        _fuel.value = fuel
        error = _set_fuel(context, _fuel)
        if error:
            _check(error)
        _ticks.value = epoch_ticks
        _set_epoch_deadline(context, _ticks)

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
        error = _pre_instantiate(_prepared, self._context, _instance, _trap_at)
        if error:
            _check(error)
        if _trap.value:
            _raise_pending_trap()

    def export(self, name: bytes) -> Export | None:
        """The instance's export of that name, if there is one."""
        item = next(self._rooms)
        _length.value = len(name)
        if not _export_get(self._context, _instance, name, _length, item.at):
            return None
        item.kind = item.cells[0]
        return item

    def call(self, function: Export, values: int, count: int) -> None:
        """Arguments and results share `count` cells of `RAW_BYTES` at `values`. Raises `Trapped` or `EngineError`."""
        _values.value = values
        _count.value = count
        error = _func_call(self._context, function.function, _values, _count, _trap_at)
        if error:
            _check(error)
        if _trap.value:
            _raise_pending_trap()

    def fuel_left(self) -> int:
        error = _get_fuel(self._context, _fuel_at)
        if error:
            _check(error)
        return _fuel.value

    def set_fuel(self, fuel: int) -> None:
        """Also while the guest waits in a host call: what it then has to go on with."""
        _fuel.value = fuel
        _check(_set_fuel(self._context, _fuel))

    def close(self) -> None:
        pointer = self._pointer
        if pointer.value:
            _store_delete(pointer)
            pointer.value = 0


def _raise_pending_trap() -> None:
    trap, _trap.value = _trap.value, 0
    _raise_trap(trap)

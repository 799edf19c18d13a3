"""The one file that knows wasmtime's C API: the library, its functions under their own names, its errors and traps.

`engine` and `store` call them; everything above sees integers, bytes and their classes.

Why not wasmtime-py's public classes: they cost ten times as much a request, a host function's exception may reach
another thread's guest, and a refused `memory.grow` cannot be seen through them. The shared library that the `wasmtime`
wheel carries is loaded by its path, so that neither the wheel's Python modules nor their generated signatures matter:
the declarations here follow the C headers of the one major version that `pyproject.toml` pins.

Pointers are plain integers (`c_size_t`): no ctypes pointer object is built per call. What a store calls for each
request takes arguments that were converted once (`prompt`). Errors and traps are owned by whoever receives them and
are freed here.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from wisp.sandbox.traps import EngineError, Trapped
from wisp.wire.outcome import one_line

MAJOR: Final = "50"
P = ctypes.c_size_t

RAW_BYTES: Final = 16
"""sizeof(wasmtime_val_raw_t): a union that holds a v128."""
EXTERN_BYTES: Final = 32
EXTERN_OF: Final = 8
"""Offset of the union in wasmtime_extern_t."""
EXTERN_FUNC: Final = 0
EXTERN_MEMORY: Final = 3

MAX_MESSAGE_BYTES: Final = 512


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


def declared(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = _library[name]  # indexing gives a private object whose signature may be set
    function.restype = result
    function.argtypes = arguments
    return function


def prompt(name: str, result: Any = None, *, library: ctypes.CDLL = _holding) -> Callable[..., Any]:
    """To be called with ctypes objects of the exact types alone. To convert an integer by a declared signature costs
    each call more than the engine's own work does."""
    function = library[name]
    function.restype = result
    return function


class ByteVec(ctypes.Structure):
    _fields_ = (("size", P), ("data", P))


class MemoryCreator(ctypes.Structure):
    _fields_ = (("env", P), ("new_memory", P), ("finalizer", P))


class _LinearMemory(ctypes.Structure):
    _fields_ = (("env", P), ("get_memory", P), ("grow_memory", P), ("finalizer", P))


_bool, _char_p = ctypes.c_bool, ctypes.c_char_p

wasm_config_new = declared("wasm_config_new", P)
wasm_engine_new_with_config = declared("wasm_engine_new_with_config", P, P)
wasm_engine_delete = declared("wasm_engine_delete", None, P)
wasmtime_config_host_memory_creator_set = declared("wasmtime_config_host_memory_creator_set", None, P, P)
wasmtime_error_new = declared("wasmtime_error_new", P, _char_p)
wasmtime_error_delete = declared("wasmtime_error_delete", None, P)
wasmtime_error_message = declared("wasmtime_error_message", None, P, P)
wasmtime_trap_new = declared("wasmtime_trap_new", P, _char_p, P)
wasmtime_trap_code = declared("wasmtime_trap_code", _bool, P, P)
wasm_trap_message = declared("wasm_trap_message", None, P, P)
wasm_trap_delete = declared("wasm_trap_delete", None, P)
wasm_byte_vec_delete = declared("wasm_byte_vec_delete", None, P)
wasmtime_module_new = declared("wasmtime_module_new", P, P, _char_p, P, P)
wasmtime_module_serialize = declared("wasmtime_module_serialize", P, P, P)
wasmtime_module_deserialize_file = declared("wasmtime_module_deserialize_file", P, P, _char_p, P)
wasmtime_module_delete = declared("wasmtime_module_delete", None, P)
wasmtime_linker_new = declared("wasmtime_linker_new", P, P)
wasmtime_linker_delete = declared("wasmtime_linker_delete", None, P)
wasmtime_linker_define_func_unchecked = declared(
    "wasmtime_linker_define_func_unchecked", P, P, _char_p, P, _char_p, P, P, P, P, P
)
wasmtime_linker_instantiate_pre = declared("wasmtime_linker_instantiate_pre", P, P, P, P)
wasmtime_instance_pre_delete = declared("wasmtime_instance_pre_delete", None, P)
wasmtime_instance_pre_instantiate = prompt("wasmtime_instance_pre_instantiate", P, library=_library)
wasm_valtype_new = declared("wasm_valtype_new", P, ctypes.c_uint8)
wasm_valtype_vec_new = declared("wasm_valtype_vec_new", None, P, P, P)
wasm_functype_new = declared("wasm_functype_new", P, P, P)
wasm_functype_delete = declared("wasm_functype_delete", None, P)
wasmtime_store_new = prompt("wasmtime_store_new", P)
wasmtime_store_context = prompt("wasmtime_store_context", P)
wasmtime_store_limiter = prompt("wasmtime_store_limiter")
wasmtime_store_delete = prompt("wasmtime_store_delete")
wasmtime_context_set_fuel = prompt("wasmtime_context_set_fuel", P)
wasmtime_context_get_fuel = prompt("wasmtime_context_get_fuel", P)
wasmtime_context_set_epoch_deadline = prompt("wasmtime_context_set_epoch_deadline")
wasmtime_instance_export_get = prompt("wasmtime_instance_export_get", _bool)
wasmtime_func_call_unchecked = prompt("wasmtime_func_call_unchecked", P, library=_library)

wasmtime_engine_increment_epoch = declared("wasmtime_engine_increment_epoch", None, P)
INCREMENT_EPOCH: Final[int] = ctypes.cast(_library["wasmtime_engine_increment_epoch"], ctypes.c_void_p).value or 0
"""Address of `void wasmtime_engine_increment_epoch(wasm_engine_t*)`, for a native timer to call."""


def take_bytes(vec: ByteVec) -> bytes:
    data = ctypes.string_at(vec.data, vec.size) if vec.size else b""
    wasm_byte_vec_delete(ctypes.addressof(vec))
    return data


def _printable(text: bytes) -> str:
    return one_line(text.rstrip(b"\0")[:MAX_MESSAGE_BYTES].decode("utf-8", "replace"))


def check(error: int) -> None:
    if error:
        vec = ByteVec()
        wasmtime_error_message(error, ctypes.addressof(vec))
        wasmtime_error_delete(error)
        raise EngineError(_printable(take_bytes(vec)))


def make_trap(message: bytes) -> int:
    """A trap for a host function to return; whoever calls the guest receives it as `Trapped` without a code."""
    trap: int = wasmtime_trap_new(message, len(message))
    return trap


def make_error(message: bytes) -> int:
    error: int = wasmtime_error_new(message)
    return error


def raise_trap(trap: int) -> None:
    code = ctypes.c_uint8()
    known = wasmtime_trap_code(trap, ctypes.addressof(code))
    vec = ByteVec()
    wasm_trap_message(trap, ctypes.addressof(vec))
    message = _printable(take_bytes(vec))
    wasm_trap_delete(trap)
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

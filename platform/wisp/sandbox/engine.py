"""wasmtime's engine as wisp configures it, the modules that it compiles and maps, and the linker of host functions."""

from __future__ import annotations

import ctypes
import platform
from typing import Any, Final

from wisp.sandbox.capi import (
    ByteVec,
    MemoryCreator,
    P,
    address_of,
    check,
    declared,
    take_bytes,
    version,
    wasm_config_new,
    wasm_engine_delete,
    wasm_engine_new_with_config,
    wasm_functype_delete,
    wasm_functype_new,
    wasm_valtype_new,
    wasm_valtype_vec_new,
    wasmtime_config_host_memory_creator_set,
    wasmtime_engine_increment_epoch,
    wasmtime_instance_pre_delete,
    wasmtime_linker_define_func_unchecked,
    wasmtime_linker_delete,
    wasmtime_linker_instantiate_pre,
    wasmtime_linker_new,
    wasmtime_module_delete,
    wasmtime_module_deserialize_file,
    wasmtime_module_new,
    wasmtime_module_serialize,
)
from wisp.sandbox.traps import EngineError

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


class Engine:
    """One engine. `new_memory` is the address of a `NewMemory` callback, or 0 for wasmtime's own memories."""

    def __init__(self, new_memory: int = 0) -> None:
        config = wasm_config_new()
        for name, value in CONFIGURATION.items():
            declared(f"wasmtime_config_{name}_set", None, P, ctypes.c_bool)(config, value)
        if new_memory:
            creator = MemoryCreator(0, new_memory, 0)
            wasmtime_config_host_memory_creator_set(config, ctypes.addressof(creator))
        self.pointer: int = wasm_engine_new_with_config(config)  # takes the configuration over
        if not self.pointer:
            raise EngineError("the engine's configuration was refused")

    def increment_epoch(self) -> None:
        """From any thread."""
        wasmtime_engine_increment_epoch(self.pointer)

    def compile(self, wasm: bytes) -> bytes:
        """Native code for these module bytes, in wasmtime's serialized form. Raises `EngineError`."""
        module = P()
        check(wasmtime_module_new(self.pointer, wasm, len(wasm), ctypes.addressof(module)))
        try:
            vec = ByteVec()
            check(wasmtime_module_serialize(module.value, ctypes.addressof(vec)))
            return take_bytes(vec)
        finally:
            wasmtime_module_delete(module.value)

    def map_module(self, path: str) -> int:
        """A module from a file of serialized code, mapped: the bytes must be authentic and must never change."""
        module = P()
        check(wasmtime_module_deserialize_file(self.pointer, path.encode(), ctypes.addressof(module)))
        return module.value

    def close(self) -> None:
        if self.pointer:
            wasm_engine_delete(self.pointer)
            self.pointer = 0


_KINDS = {"i32": 0, "i64": 1, "f32": 2, "f64": 3}


def _value_types(names: tuple[str, ...]) -> ByteVec:
    values = (P * len(names))(*(wasm_valtype_new(_KINDS[name]) for name in names))
    vec = ByteVec()
    wasm_valtype_vec_new(ctypes.addressof(vec), len(names), ctypes.addressof(values))
    return vec


class Linker:
    """Host functions by name. The callbacks are kept alive as long as it is."""

    def __init__(self, engine: Engine) -> None:
        self.pointer: int = wasmtime_linker_new(engine.pointer)
        self.callbacks: list[Any] = []

    def define(self, module: str, name: str, params: tuple[str, ...], results: tuple[str, ...], callback: Any) -> None:
        param_vec, result_vec = _value_types(params), _value_types(results)
        kind = wasm_functype_new(ctypes.addressof(param_vec), ctypes.addressof(result_vec))  # takes both over
        try:
            raw_module, raw_name = module.encode(), name.encode()
            function = address_of(callback)
            check(
                wasmtime_linker_define_func_unchecked(
                    self.pointer, raw_module, len(raw_module), raw_name, len(raw_name), kind, function, 0, 0
                )
            )
        finally:
            wasm_functype_delete(kind)
        self.callbacks.append(callback)

    def prepare(self, module: int) -> int:
        """The module with its imports resolved (an InstancePre). Raises `EngineError` for what is not defined."""
        prepared = P()
        check(wasmtime_linker_instantiate_pre(self.pointer, module, ctypes.addressof(prepared)))
        return prepared.value

    def close(self) -> None:
        if self.pointer:
            wasmtime_linker_delete(self.pointer)
            self.pointer = 0


def delete_module(module: int) -> None:
    wasmtime_module_delete(module)


def delete_prepared(prepared: int) -> None:
    wasmtime_instance_pre_delete(prepared)

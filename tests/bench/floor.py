"""The same request without wisp: through the engine's bare C API with no host functions, and through wasmtime-py.

Both run a `handler`: a fresh store with fuel, an epoch deadline and limits, instantiate, `_initialize`, `wisp_alloc`,
the request copied in, `wisp_handle`, the answer copied out, drop. For the C API the engine gets what suits it best, the
pooling allocator and copy-on-write images of memory, and the imports are traps; wasmtime-py is used as its
documentation shows it, with its own WASI; there the guest's output is taken as well, as whoever keeps logs must. A
program of the `command` ABI is compared with wasmtime-py alone: its request is its environment, its answer its output.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import wasmtime
from wasmtime._instance import InstanceExports

from wisp.sandbox import capi
from wisp.sandbox.capi import RAW_BYTES, check, declared
from wisp.sandbox.engine import CONFIGURATION, Engine
from wisp.sandbox.store import Export, Store

P = ctypes.c_size_t
FUEL = 10_000_000
MEMORY_BYTES = 32 << 20
INSTANCES = 4

_pooling_new = declared("wasmtime_pooling_allocation_config_new", P)
_pooling_delete = declared("wasmtime_pooling_allocation_config_delete", None, P)
_pooling_set = declared("wasmtime_pooling_allocation_strategy_set", None, P, P)
_as_traps = declared("wasmtime_linker_define_unknown_imports_as_traps", P, P, P)
_memory_data = declared("wasmtime_memory_data", P, P, P)
_limiter = declared("wasmtime_store_limiter", None, P, *[ctypes.c_int64] * 5)


def pooling_engine() -> int:
    config, pool = capi.wasm_config_new(), _pooling_new()
    for name, value in CONFIGURATION.items():
        declared(f"wasmtime_config_{name}_set", None, P, ctypes.c_bool)(config, value or name == "memory_init_cow")
    for name, most in (
        ("total_memories", INSTANCES),
        ("total_core_instances", INSTANCES),
        ("total_tables", INSTANCES),
        ("max_memory_size", MEMORY_BYTES),
    ):
        declared(f"wasmtime_pooling_allocation_config_{name}_set", None, P, P)(pool, most)
    _pooling_set(config, pool)
    _pooling_delete(pool)
    return int(capi.wasm_engine_new_with_config(config))


def bare_c_api(wasm: bytes, request: bytes) -> Callable[[], bytes]:
    """One request through the C API alone, as a call without arguments."""
    engine = Engine.__new__(Engine)
    engine.pointer = pooling_engine()
    module, prepared = P(), P()
    check(capi.wasmtime_module_new(engine.pointer, wasm, len(wasm), ctypes.addressof(module)))
    linker = capi.wasmtime_linker_new(engine.pointer)
    check(_as_traps(linker, module.value))
    check(capi.wasmtime_linker_instantiate_pre(linker, module.value, ctypes.addressof(prepared)))
    values = (ctypes.c_uint64 * (2 * RAW_BYTES // 8))()
    at, second = ctypes.addressof(values), RAW_BYTES // 8

    def export(store: Store, name: bytes) -> Export:
        found = store.export(name)
        assert found is not None
        return found

    def once() -> bytes:
        store = Store(engine.pointer, fuel=FUEL, epoch_ticks=1)
        _limiter(store.pointer, MEMORY_BYTES, 10_000, 1, 1, 1)
        store.instantiate(prepared.value)
        store.call(export(store, b"_initialize"), at, 0)
        values[0] = len(request)
        store.call(export(store, b"wisp_alloc"), at, 1)
        pointer = values[0] & 0xFFFFFFFF
        memory = export(store, b"memory")
        base = _memory_data(store.context, memory.of)
        ctypes.memmove(base + pointer, request, len(request))
        values[0], values[second] = pointer, len(request)
        store.call(export(store, b"wisp_handle"), at, 2)
        answer = ctypes.string_at(base + (values[0] >> 32), values[0] & 0xFFFFFFFF)
        store.fuel_left()
        store.close()
        return answer

    return once


class _Public:
    """wasmtime-py's public classes around one module."""

    def __init__(self, wasm: bytes, environment: dict[str, str]) -> None:
        config = wasmtime.Config()
        config.consume_fuel = True
        config.epoch_interruption = True
        self._engine = wasmtime.Engine(config)
        self._module = wasmtime.Module(self._engine, wasm)
        self._linker = wasmtime.Linker(self._engine)
        self._linker.define_wasi()
        self._environment = list(environment.items())
        self.printed: list[bytes] = []

    def _print(self, data: bytes) -> None:
        self.printed.append(bytes(data))

    def store(self) -> wasmtime.Store:
        self.printed.clear()
        store = wasmtime.Store(self._engine)
        wasi = wasmtime.WasiConfig()
        wasi.env = self._environment
        wasi.stdout_custom = self._print
        wasi.stderr_custom = self._print
        store.set_wasi(wasi)
        store.set_fuel(FUEL)
        store.set_epoch_deadline(1)
        store.set_limits(memory_size=MEMORY_BYTES, memories=1, instances=1)
        return store

    def exports(self, store: wasmtime.Store) -> InstanceExports:
        return self._linker.instantiate(store, self._module).exports(store)


def public_api(wasm: bytes, request: bytes, environment: dict[str, str]) -> Callable[[], bytes]:
    """One request of a handler through wasmtime-py's public classes."""
    public = _Public(wasm, environment)

    def once() -> bytes:
        store = public.store()
        exports = public.exports(store)
        initialize, alloc, handle = exports["_initialize"], exports["wisp_alloc"], exports["wisp_handle"]
        memory = exports["memory"]
        assert isinstance(initialize, wasmtime.Func)
        assert isinstance(alloc, wasmtime.Func)
        assert isinstance(handle, wasmtime.Func)
        assert isinstance(memory, wasmtime.Memory)
        initialize(store)
        pointer = alloc(store, len(request))
        memory.write(store, request, pointer)
        packed = handle(store, pointer, len(request)) & 0xFFFFFFFFFFFFFFFF
        answer = bytes(memory.read(store, packed >> 32, (packed >> 32) + (packed & 0xFFFFFFFF)))
        store.get_fuel()
        store.close()
        return answer

    return once


def public_command(wasm: bytes, environment: dict[str, str]) -> Callable[[], bytes]:
    """One request of a program; its answer is what it prints."""
    public = _Public(wasm, environment)

    def once() -> bytes:
        store = public.store()
        start = public.exports(store)["_start"]
        assert isinstance(start, wasmtime.Func)
        start(store)
        store.get_fuel()
        store.close()
        return b"".join(public.printed)

    return once

"""The tables are held against independent readings: wasmtime's own linker, and the wasi-nn table in words."""

from __future__ import annotations

import pytest
import wasmtime

from wisp.policy.capabilities import CAPABILITIES, NN_MODULE, WASI_MODULE, print_signature


def test_preview_1_is_whole_and_wasmtime_agrees_with_each_signature() -> None:
    functions = CAPABILITIES[WASI_MODULE].functions
    assert len(functions) == 46
    imports = "\n".join(
        f'(import "{WASI_MODULE}" "{name}" (func (param {" ".join(params)}) (result {" ".join(results)})))'
        for name, (params, results) in functions.items()
    )
    engine = wasmtime.Engine()
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    store.set_wasi(wasmtime.WasiConfig())
    linker.instantiate(store, wasmtime.Module(engine, f'(module {imports} (memory (export "memory") 1))'))


@pytest.mark.parametrize(
    ("name", "arity"),
    [
        ("load", 5),
        ("load_by_name", 3),
        ("init_execution_context", 2),
        ("set_input", 3),
        ("compute", 1),
        ("get_output", 5),
        ("load_by_name_with_config", 5),
        ("get_output_single", 5),
        ("compute_single", 1),
        ("fini_single", 1),
        ("unload", 1),
        ("finalize_execution_context", 1),
    ],
)
def test_wasi_nn_takes_and_answers_i32_only(name: str, arity: int) -> None:
    assert CAPABILITIES[NN_MODULE].functions[name] == (("i32",) * arity, ("i32",))


def test_wasi_nn_has_no_more() -> None:
    assert len(CAPABILITIES[NN_MODULE].functions) == 12


def test_printed_signatures() -> None:
    assert print_signature(("i32", "i32"), ("i64",)) == "(i32, i32) -> i64"
    assert print_signature((), ()) == "() -> ()"
    assert print_signature((), ("i32", "i32")) == "() -> (i32, i32)"

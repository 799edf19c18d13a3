"""What WebAssembly costs a guest's own work: classify's preprocessing, natively and in a guest, the same Rust code.

640x480 RGBA to a normalised f32[1,3,224,224] (`tenants/globex/classify/examples/preprocess.rs`), 200 times a round, the
best of several rounds, natively and in wasm in turn. The guest's engine counts fuel and epochs as the platform's does.
Needs Rust with the target wasm32-wasip1. Run: .venv/bin/python tests/bench/bench_preprocess.py
"""

from __future__ import annotations

import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import wasmtime

SDK = Path(__file__).parents[2] / "sdk-rust"
TARGET = "wasm32-wasip1"
ROUNDS, TIMES = 7, 220
"""`TIMES`: how often the program preprocesses in one round, its warm-up included."""
BUILD_S, RUN_S = 600, 60
PLENTY = 2**62


def build(*options: str) -> Path:
    command = ["cargo", "build", "--release", "--locked", "--package", "globex-classify", "--example", "preprocess"]
    subprocess.run([*command, *options], cwd=SDK, check=True, timeout=BUILD_S)
    folder = SDK / "target" / (TARGET if options else "") / "release" / "examples"
    return folder / ("preprocess.wasm" if options else "preprocess")


def engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.consume_fuel = True
    config.epoch_interruption = True
    return wasmtime.Engine(config)


def run_guest(linker: wasmtime.Linker, module: wasmtime.Module) -> tuple[float, int]:
    """Milliseconds of one preprocessing, and the fuel of the whole program."""
    store = wasmtime.Store(linker.engine)
    store.set_fuel(PLENTY)
    store.set_epoch_deadline(2**40)
    wasi = wasmtime.WasiConfig()
    with tempfile.NamedTemporaryFile() as output:
        wasi.stdout_file = output.name
        store.set_wasi(wasi)
        start = linker.instantiate(store, module).exports(store)["_start"]
        assert isinstance(start, wasmtime.Func)
        start(store)
        return float(output.read()), PLENTY - store.get_fuel()


def run_native(program: Path) -> float:
    return float(subprocess.run([program], capture_output=True, text=True, check=True, timeout=RUN_S).stdout)


def main() -> None:
    program, wasm = build(), build("--target", TARGET)
    linker = wasmtime.Linker(engine())
    linker.define_wasi()
    module = wasmtime.Module(linker.engine, wasm.read_bytes())
    native, guest = [], []
    fuel = 0
    for _ in range(ROUNDS):
        native.append(run_native(program))
        milliseconds, fuel = run_guest(linker, module)
        guest.append(milliseconds)
    print(
        f"native {min(native):.3f} ms, guest {min(guest):.3f} ms: {min(guest) / min(native):.2f} times as long;",
        end=" ",
    )
    print(f"{fuel / TIMES / 1e6:.2f} M fuel each; wasmtime {version('wasmtime')}")


if __name__ == "__main__":
    main()

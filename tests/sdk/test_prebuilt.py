"""The committed guests: built from the sources beside them, small, and asking for nothing unusual."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import wasmtime

ROOT = Path(__file__).parents[2]
BUILD = "sdk-rust/build.py"
GUESTS = sorted(json.loads((ROOT / "tenants" / "guests.lock").read_text())["guests"])
IN_RUST = [guest for guest in GUESTS if (ROOT / guest / "Cargo.toml").is_file()]
HANDLER_EXPORTS = {"memory", "wisp_alloc", "wisp_handle"}
# What Rust's standard library asks for in a guest that only reads its environment and may panic.
HANDLER_WASI = {"environ_get", "environ_sizes_get", "fd_write", "proc_exit"}
# And what it asks for beside that where it reads or appends to a file; classify reads the clock, too.
FILE_WASI = {"fd_close", "fd_fdstat_get", "fd_prestat_dir_name", "fd_prestat_get", "fd_read", "path_open"}
MORE_WASI = {"tenants/globex/classify": FILE_WASI | {"clock_time_get", "fd_filestat_get"}}
BYTES_MAX = {
    "tenants/acme/hello": 40_000,
    "tenants/globex/hello": 40_000,
    "tenants/acme/digits": 150_000,
    "tenants/globex/classify": 320_000,
}


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / BUILD), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of all that the check reads."""
    ignored = shutil.ignore_patterns("target", "__pycache__", "*.onnx", "*.png")
    for folder in ("sdk-rust", "tenants", "tests/guests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    return tmp_path


def test_the_committed_modules_were_built_from_the_committed_sources() -> None:
    done = check(ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("changed", "blamed"),
    [
        ("tenants/acme/hello/src/lib.rs", ["tenants/acme/hello: its sources have changed"]),
        ("tenants/acme/hello/module.wasm", ["tenants/acme/hello: module.wasm is not the one"]),
        ("sdk-rust/wisp-guest/src/sys.rs", [f"{guest}: its sources have changed" for guest in IN_RUST]),
        ("sdk-rust/Cargo.lock", [f"{guest}: its sources have changed" for guest in IN_RUST]),
        ("tests/guests/nnraw/handler.c", ["tests/guests/nnraw: its sources have changed"]),
    ],
)
def test_a_change_is_blamed_on_the_guests_that_it_touches(tree: Path, changed: str, blamed: list[str]) -> None:
    with (tree / changed).open("ab") as file:
        file.write(b"\n")
    done = check(tree)
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert len(lines) == len(blamed)
    assert all(line.startswith(start) for line, start in zip(lines, blamed, strict=True))


def test_a_new_and_a_removed_guest_are_noticed(tree: Path) -> None:
    (tree / "tenants/acme/hello").rename(tree / "tenants/acme/hullo")
    assert check(tree).stderr.splitlines() == [
        "tenants/acme/hello: in guests.lock, but there is no such crate",
        "tenants/acme/hullo: not in guests.lock",
    ]


@pytest.fixture(scope="module")
def engine() -> wasmtime.Engine:
    return wasmtime.Engine()


@pytest.mark.parametrize("guest", GUESTS)
def test_a_guest_imports_only_what_it_uses_and_exports_its_abi(guest: str, engine: wasmtime.Engine) -> None:
    module = wasmtime.Module(engine, (ROOT / guest / "module.wasm").read_bytes())
    imports = {(entry.module, entry.name) for entry in module.imports}
    exports = {entry.name for entry in module.exports}
    own = {"wisp"} if guest == "tests/guests/fetch" else set()
    assert {module_name for module_name, _ in imports} <= {"wasi_snapshot_preview1", "wasi_ephemeral_nn"} | own
    if exports >= HANDLER_EXPORTS:
        assert exports - HANDLER_EXPORTS == ({"_initialize"} if guest in IN_RUST else set())
        wasi = {name for module_name, name in imports if module_name == "wasi_snapshot_preview1"}
        assert wasi <= HANDLER_WASI | MORE_WASI.get(guest, set())
    else:
        assert {"memory", "_start"} <= exports


@pytest.mark.parametrize(("guest", "bytes_max"), BYTES_MAX.items())
def test_the_example_guests_stay_small(guest: str, bytes_max: int) -> None:
    assert (ROOT / guest / "module.wasm").stat().st_size <= bytes_max


@pytest.mark.parametrize("guest", GUESTS)
def test_a_module_does_not_tell_where_it_was_built(guest: str) -> None:
    content = (ROOT / guest / "module.wasm").read_bytes()
    assert b"/.cargo/" not in content
    assert b"/sdk-rust/target" not in content
    assert str(ROOT).encode() not in content

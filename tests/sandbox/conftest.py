from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.children import SandboxChild
from sandbox.guests import Bench
from sandbox.programs import CompileC

LIBC = Path("/usr/lib/wasm32-wasi")


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    """Guests in this process: one engine, used again by every test as a sandbox is by every request."""
    made = Bench()
    yield made
    made.close()


@pytest.fixture
def child(tmp_path: Path) -> Iterator[SandboxChild]:
    """A sandbox of its own, for tests that end it or count what it holds."""
    made = SandboxChild(tmp_path)
    yield made
    made.finish()


@pytest.fixture
def compile_c(tmp_path: Path) -> CompileC:
    """Compiles C to WebAssembly, where clang and WASI's C library are installed."""
    clang = shutil.which("clang")
    missing = next(
        (
            name
            for name, there in (("clang", clang), ("wasm-ld", shutil.which("wasm-ld")), ("wasi-libc", LIBC.is_dir()))
            if not there
        ),
        None,
    )
    if missing is not None:
        if os.environ.get("CI"):
            pytest.fail(f"{missing} is not installed (apt-get install clang lld wasi-libc libclang-rt-14-dev-wasm32)")
        pytest.skip(f"{missing} is not installed")

    def build(source: str, *flags: str) -> Path:
        program, module = tmp_path / "main.c", tmp_path / "module.wasm"
        program.write_text(source)
        command = [str(clang), "--target=wasm32-wasi", "-Os", "-s", *flags, str(program), "-o", str(module)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return module

    return build

#!/usr/bin/env python3
"""Builds every guest to WebAssembly, or checks without Rust that the committed modules are up to date.

    build.py                      build with rustup's target where it is installed, else with Debian's packages
    build.py --toolchain debian   say which
    build.py --out DIR            leave the tree alone and write DIR/tenants/<tenant>/<function>/module.wasm ...
    build.py --check              compare modules and sources with tenants/guests.lock; exit 1 names what differs

A guest is a folder tenants/<tenant>/<function>/ or tests/guests/<name>/ with a Cargo.toml or, in C, a main.c (a program
on wasi-libc) or a handler.c (a handler without a library); its module.wasm is committed beside it. guests.lock holds
each module's digest and size and the digest of all that it was built from: its C, or its crate, wisp-guest, the
workspace and the lock file. Needs the standard library only.

rustup: `rustup target add wasm32-wasip1`. Debian: `apt-get install rustc-web cargo-web rust-web-src wasi-libc lld`,
which brings no prebuilt standard library, so that it is built along (about a minute).
C: `apt-get install clang lld wasi-libc libclang-rt-14-dev-wasm32`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SDK = Path(__file__).resolve().parent
TARGET = "wasm32-wasip1"
BUILD_S = 1200
SYSROOT = Path("/usr/lib/wasm32-wasi")
LOCK = Path("tenants/guests.lock")
CLANG = ("clang", "--target=wasm32-wasi", "-Os", "-s", "-Wall", "-Wextra")
CLANG_FLAGS = {"main.c": (), "handler.c": ("-nostdlib", "-Wl,--no-entry")}
"""By the name of the source, which says what is to become of it."""


def guests(root: Path) -> dict[str, Path]:
    """The path of each guest that is built here, as it stands in guests.lock, and its folder."""
    folders = sorted([*root.glob("tenants/*/*"), *root.glob("tests/guests/*")])
    return {
        folder.relative_to(root).as_posix(): folder
        for folder in folders
        if (folder / "Cargo.toml").is_file() or c_source(folder) is not None
    }


def c_source(guest: Path) -> Path | None:
    return next((guest / name for name in CLANG_FLAGS if (guest / name).is_file()), None)


def sources(guest: Path, root: Path) -> Iterator[Path]:
    """All that decides what a guest's module is: its C, or its crate, the SDK's, the workspace and the lock file."""
    in_c = c_source(guest)
    if in_c is not None:
        yield in_c
        return
    sdk = root / "sdk-rust"
    yield from (sdk / "Cargo.toml", sdk / "Cargo.lock")
    for crate in (sdk / "wisp-guest", guest):
        yield crate / "Cargo.toml"
        yield from (path for path in (crate / "src").rglob("*") if path.is_file())


def source_digest(guest: Path, root: Path) -> str:
    """SHA-256 over `<sha256>  <path>` lines, sorted by path: what `sha256sum | sort -k 2` would give to be hashed."""
    paths = sorted(path.relative_to(root).as_posix() for path in sources(guest, root))
    lines = (f"{hashlib.sha256((root / path).read_bytes()).hexdigest()}  {path}\n" for path in paths)
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def module_facts(module: Path) -> dict[str, Any]:
    content = module.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def check(root: Path) -> list[str]:
    """What differs between the tree and guests.lock, one line each; nothing when all is up to date."""
    locked = json.loads((root / LOCK).read_text())["guests"]
    found = guests(root)
    faults = [f"{name}: in guests.lock, but there is no such crate" for name in sorted(locked.keys() - found.keys())]
    for name, guest in found.items():
        module = guest / "module.wasm"
        if name not in locked:
            faults.append(f"{name}: not in guests.lock")
        elif not module.is_file():
            faults.append(f"{name}: module.wasm is missing")
        elif module_facts(module) != {key: locked[name][key] for key in ("sha256", "bytes")}:
            faults.append(f"{name}: module.wasm is not the one that was built")
        elif source_digest(guest, root) != locked[name]["sources"]:
            faults.append(f"{name}: its sources have changed since module.wasm was built")
    return faults


def has_rustup_target() -> bool:
    rustup = shutil.which("rustup")
    if rustup is None:
        return False
    listing = subprocess.run(
        [rustup, "target", "list", "--installed"], cwd=SDK, capture_output=True, text=True, check=False, timeout=60
    )
    return TARGET in listing.stdout.split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """How to call cargo: its command, the environment it needs, flags for every crate, and flags for programs only."""

    name: str
    cargo: tuple[str, ...]
    compiler: str
    environment: dict[str, str]
    flags: tuple[str, ...]
    program_flags: tuple[str, ...]

    @property
    def version(self) -> str:
        asked = subprocess.run(
            [self.compiler, "--version"], cwd=SDK, capture_output=True, text=True, check=True, timeout=60
        )
        return f"{asked.stdout.strip()}, {self.name}, {TARGET}"


def choose(name: str) -> Toolchain:
    if name == "auto":
        name = "rustup" if has_rustup_target() else "debian"
    home = os.environ.get("CARGO_HOME", str(Path.home() / ".cargo"))
    # Panic messages carry source paths: a module must not tell where it was built.
    remap = (f"--remap-path-prefix={SDK.parent}=/wisp", f"--remap-path-prefix={home}=/cargo")
    if name == "rustup":
        return Toolchain(name=name, cargo=("cargo",), compiler="rustc", environment={}, flags=remap, program_flags=())
    if not Path("/usr/bin/cargo").is_file():
        sys.exit(
            f"build.py: neither rustup's {TARGET} nor Debian's /usr/bin/cargo is there;"
            f" `rustup target add {TARGET}`, or `apt-get install rustc-web cargo-web rust-web-src wasi-libc lld`"
        )
    return Toolchain(
        name=name,
        cargo=("/usr/bin/cargo", "-Zbuild-std=std,panic_abort"),
        compiler="/usr/bin/rustc",
        # -Zbuild-std is unstable; the first variable lets Debian's stable compiler use it.
        environment={"RUSTC_BOOTSTRAP": "1", "RUSTC": "/usr/bin/rustc"},
        flags=(*remap, "-Clinker=wasm-ld", "-Clink-self-contained=no", f"-Clink-arg=-L{SYSROOT}", "-Clink-arg=-lc"),
        program_flags=(f"-Clink-arg={SYSROOT / 'crt1-command.o'}",),
    )


def compile_guest(guest: Path, toolchain: Toolchain) -> Path:
    """Compiles one guest; gives its module in the target directory."""
    package = tomllib.loads((guest / "Cargo.toml").read_text())["package"]["name"]
    program = (guest / "src" / "main.rs").is_file()
    target = SDK / "target" / toolchain.name
    command = [*toolchain.cargo, "rustc", "--release", "--locked", "--target", TARGET, "--target-dir", str(target)]
    command += ["--package", package, "--bins" if program else "--lib"]
    subprocess.run(
        [*command, "--", *(toolchain.program_flags if program else ())],
        cwd=SDK,
        env={**os.environ, **toolchain.environment, "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(toolchain.flags)},
        check=True,
        timeout=BUILD_S,
    )
    return target / TARGET / "release" / f"{package if program else package.replace('-', '_')}.wasm"


def compile_c(source: Path, destination: Path) -> None:
    command = [*CLANG, *CLANG_FLAGS[source.name], "-o", str(destination), source.name]
    subprocess.run(command, cwd=source.parent, check=True, timeout=BUILD_S)
    destination.chmod(0o644)


def clang_version() -> str:
    asked = subprocess.run([CLANG[0], "--version"], capture_output=True, text=True, check=True, timeout=60)
    return asked.stdout.splitlines()[0].strip()


def build(root: Path, toolchain: Toolchain, out: Path) -> None:
    locked: dict[str, Any] = {}
    for name, guest in guests(root).items():
        destination = out / name / "module.wasm"
        destination.parent.mkdir(parents=True, exist_ok=True)
        in_c = c_source(guest)
        if in_c is not None:
            compile_c(in_c, destination)
        else:
            shutil.copyfile(compile_guest(guest, toolchain), destination)
        locked[name] = {**module_facts(destination), "sources": source_digest(guest, root)}
    lock = {"toolchains": {"rust": toolchain.version, "c": clang_version()}, "guests": locked}
    (out / LOCK).write_text(json.dumps(lock, indent=2) + "\n")
    for name, facts in locked.items():
        sys.stdout.write(f"{name:28} {facts['bytes']:>8} bytes\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toolchain", choices=["auto", "rustup", "debian"], default="auto")
    parser.add_argument("--out", type=Path, default=SDK.parent, help="where to write; default: the tree itself")
    parser.add_argument("--check", action="store_true", help="build nothing; compare with guests.lock")
    arguments = parser.parse_args()
    if arguments.check:
        faults = check(SDK.parent)
        print("\n".join(faults) or "guests: up to date", file=sys.stderr if faults else sys.stdout)
        return 1 if faults else 0
    build(SDK.parent, choose(arguments.toolchain), arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

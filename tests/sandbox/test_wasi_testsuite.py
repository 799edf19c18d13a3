"""The public conformance suite WebAssembly/wasi-testsuite, preview 1: its prebuilt C, Rust and AssemblyScript modules.

Nothing of it is in this repository. WASI_TESTSUITE names a checkout of its branch `prod/testsuite-base`; without that
`../shared/wasi-testsuite` is looked at, and without either the tests are skipped by name.

A program runs as the suite means it: arguments, environment, and its directory preopened as `/`, which here is a
scratch mount filled anew. So it is run without the variables and the answer of the `command` ABI, and without a policy
that could be violated; everything else is what a sandbox runs.
"""

from __future__ import annotations

import ctypes
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.guests import ROOT, SECOND_NS, Bench, link, to_wasm
from wisp.sandbox.capi import EXTERN_FUNC, RAW_BYTES
from wisp.sandbox.clocks import REALTIME, now_ns
from wisp.sandbox.filesystem import FileTree
from wisp.sandbox.habits import Habit
from wisp.sandbox.handler import required
from wisp.sandbox.invocation import Invocation
from wisp.sandbox.nodes import ScratchFile
from wisp.sandbox.preview1 import ROOT as PREOPENED
from wisp.sandbox.preview1 import STDERR, STDIN, STDOUT
from wisp.sandbox.store import Store
from wisp.sandbox.streams import Input, Output
from wisp.sandbox.timer import EPOCH_TICKS
from wisp.sandbox.traps import EngineError, Trapped
from wisp.wire.invocations import MountLink
from wisp.wire.outcome import Outcome

VARIABLE = "WASI_TESTSUITE"
SUITE = Path(os.environ.get(VARIABLE) or ROOT.parent / "shared/wasi-testsuite")
FOLDERS = [f"tests/{language}/testsuite/wasm32-wasip1" for language in ("assemblyscript", "c", "rust")]
PROGRAMS = sorted(path for folder in FOLDERS for path in (SUITE / folder).glob("*.wasm"))
OUTPUT_BYTES = 1 << 20
QUOTA_BYTES = 8 << 20

DOES_NOT_APPLY: dict[str, str] = {}
"""Programs of the suite that wisp does not run, `language/name`, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What stands in the .json beside a program; all of it may be left out."""

    root: Path | None
    args: tuple[str, ...]
    env: dict[str, str]
    exit_code: int
    stdout: str | None
    stderr: str | None

    @classmethod
    def of(cls, program: Path) -> Scenario:
        described = program.with_suffix(".json")
        fields: dict[str, Any] = json.loads(described.read_text()) if described.exists() else {}
        unknown = fields.keys() - {"root", "dirs", "args", "env", "exit_code", "stdout", "stderr"}
        assert not unknown, f"{described}: unknown keys {unknown}"
        roots = [fields["root"]] if "root" in fields else fields.get("dirs", [])
        assert len(roots) <= 1, f"{described}: more than one directory"
        return cls(
            root=program.parent / roots[0] if roots else None,
            args=tuple(fields.get("args", ())),
            env=fields.get("env", {}),
            exit_code=fields.get("exit_code", 0),
            stdout=fields.get("stdout"),
            stderr=fields.get("stderr"),
        )


class FilledTree(FileTree):
    """A scratch mount as the root, with the content of a real directory at each start."""

    def __init__(self, source: Path) -> None:
        super().__init__((MountLink(mount="/", source="scratch", quota_bytes=QUOTA_BYTES),))
        self.source = source

    def begin(self, now_ns: int = 0) -> None:
        super().begin(now_ns)
        for path in sorted(self.source.rglob("*")):
            name = str(path.relative_to(self.source))
            if path.is_dir():
                self.make_directory(self.root, name)
            else:
                made = self.create_file(self.find(self.root, name))
                assert isinstance(made, ScratchFile)
                made.write(0, path.read_bytes())


def run(bench: Bench, program: Path, scenario: Scenario) -> tuple[int | str, str, str]:
    """(exit code, or the outcome that took its place; standard output; standard error)."""
    prepared, runner = bench.prepare(to_wasm(program)), bench.runner
    files = FileTree() if scenario.root is None else FilledTree(scenario.root)
    call = Invocation(
        number=1,
        link=link(abi="command", entrypoint="_start", trap_on_violation=False),
        deadline_ns=time.monotonic_ns() + 20 * SECOND_NS,
        arena=runner.arena,
        files=files,
    )
    files.begin(now_ns(call, REALTIME))
    call.arguments = [f"{text}\0".encode() for text in (program.name, *scenario.args)]
    call.environment = [f"{name}={value}\0".encode() for name, value in scenario.env.items()]
    printed, said = Output(OUTPUT_BYTES, bytearray()), Output(OUTPUT_BYTES, bytearray())
    for number, stream in ((STDIN, Input(b"")), (STDOUT, printed), (STDERR, said)):
        call.descriptors.set_stream(number, stream)
    if scenario.root is None:
        call.descriptors.close(PREOPENED)  # such a program expects the number to be free
    runner.arena.begin(64 << 20, Habit())
    store = Store(runner.engine.pointer, fuel=10_000_000_000, epoch_ticks=EPOCH_TICKS)
    values = (ctypes.c_char * RAW_BYTES)()
    ended: int | str = 0
    try:
        runner.current.invocation = call
        store.instantiate(prepared)
        store.call(required(store, b"_start", EXTERN_FUNC), ctypes.addressof(values), 0)
    except (Trapped, EngineError) as trap:
        ended = f"{call.stopped} {call.detail} {trap}"
        if call.stopped is Outcome.GUEST_EXIT and call.exit_code is not None:
            ended = call.exit_code
    finally:
        runner.current.invocation = None
        store.close()
    return ended, printed.data.decode(), said.data.decode("utf-8", "replace")


def name_of(program: Path) -> str:
    return f"{program.relative_to(SUITE / 'tests').parts[0]}/{program.stem}"


@pytest.mark.skipif(not PROGRAMS, reason=f"wasi-testsuite is not there: set {VARIABLE} to a checkout of it")
def test_the_suite_has_all_its_languages() -> None:
    assert {name_of(program).split("/")[0] for program in PROGRAMS} == {"assemblyscript", "c", "rust"}
    assert DOES_NOT_APPLY.keys() <= {name_of(program) for program in PROGRAMS}


@pytest.mark.parametrize(
    "program",
    PROGRAMS or [pytest.param(SUITE, marks=pytest.mark.skip(reason=f"wasi-testsuite is not there: set {VARIABLE}"))],
    ids=lambda path: name_of(path) if path != SUITE else "absent",
)
def test_a_program_of_the_suite_ends_as_it_must(bench: Bench, program: Path) -> None:
    reason = DOES_NOT_APPLY.get(name_of(program))
    if reason is not None:
        pytest.skip(reason)
    scenario = Scenario.of(program)
    ended, printed, said = run(bench, program, scenario)
    assert ended == scenario.exit_code, said
    if scenario.stdout is not None:
        assert printed == scenario.stdout
    if scenario.stderr is not None:
        assert said == scenario.stderr

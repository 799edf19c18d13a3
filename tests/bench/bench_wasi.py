"""What a WASI call costs: one process, one guest that makes the same call many times, against `sched_yield`.

    python tests/bench/bench_wasi.py

Prints µs a call, the best of five runs of 20,000, the engine's and the callback's part included; the loop itself is a
few nanoseconds. Where a call needs another beside it to be repeated, the line names both.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sandbox.guests import ANSWER, Bench, handler, link
from sandbox.programs import tree
from wisp.wire.outcome import Outcome

CALLS, RUNS = 20_000, 5
NS = 1_000_000_000
SIGNATURES = {
    "sched_yield": "",
    "path_open": "i32 i32 i32 i32 i32 i64 i64 i32 i32",
    "path_filestat_get": "i32 i32 i32 i32 i32",
    "fd_close": "i32",
    "fd_read": "i32 i32 i32 i32",
    "fd_write": "i32 i32 i32 i32",
    "fd_seek": "i32 i64 i32 i32",
    "fd_readdir": "i32 i32 i32 i64 i32",
    "clock_time_get": "i32 i64 i32",
}
IMPORTS = "\n".join(
    f'(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {types}) (result i32)))'
    for name, types in SIGNATURES.items()
)
DATA = '(data (i32.const 512) "data/labels.txt") (data (i32.const 528) "data") (data (i32.const 536) "tmp/f")'
VECTOR = "(i32.store (i32.const 600) (i32.const 8192)) (i32.store (i32.const 604) (i32.const {size}))"
FILES = {"labels.txt": bytes(4096)} | {f"{number}.txt": b"x" for number in range(9)}


def opening(path: int, length: int, oflags: int = 0, rights: str = "0x4066") -> str:
    return (
        f"(call $path_open (i32.const 3) (i32.const 1) (i32.const {path}) (i32.const {length}) (i32.const {oflags})"
        f" (i64.const {rights}) (i64.const 0) (i32.const 0) (i32.const 1024))"
    )


READ = opening(512, 15, rights="0x26")
LIST = opening(528, 4, 2, rights="0x4000")
SEEK = "(call $fd_seek (i32.const 4) (i64.const 0) (i32.const 0) (i32.const 1024))"
CASES: dict[str, tuple[str, str]] = {
    "sched_yield": ("", "(call $sched_yield)"),
    "clock_time_get": ("", "(call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 1024))"),
    "path_open + fd_close": ("", f"(i32.or {READ} (call $fd_close (i32.const 4)))"),
    "path_filestat_get": (
        "",
        "(call $path_filestat_get (i32.const 3) (i32.const 1) (i32.const 512) (i32.const 15) (i32.const 1024))",
    ),
    "fd_seek": (f"(drop {READ})", SEEK),
    "fd_seek + fd_read 4 KiB": (
        f"(drop {READ}) {VECTOR.format(size=4096)}",
        f"(i32.or {SEEK} (call $fd_read (i32.const 4) (i32.const 600) (i32.const 1) (i32.const 1024)))",
    ),
    "fd_seek + fd_write 4 KiB, scratch": (
        f"(drop {opening(536, 5, 1)}) {VECTOR.format(size=4096)}",
        f"(i32.or {SEEK} (call $fd_write (i32.const 4) (i32.const 600) (i32.const 1) (i32.const 1024)))",
    ),
    "fd_readdir of 12 entries": (
        f"(drop {LIST})",
        "(call $fd_readdir (i32.const 4) (i32.const 8192) (i32.const 4096) (i64.const 0) (i32.const 1024))",
    ),
}


def program(before: str, call: str) -> str:
    body = f"""(local $left i32) {before} (local.set $left (i32.const {CALLS}))
      (loop $again
        (if {call} (then unreachable))
        (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
      {ANSWER}"""
    return handler(body, before=IMPORTS).replace("(data", f"{DATA} (data", 1)


def best_us(bench: Bench, guest: str) -> float:
    files = tree(("/data", "bundle", ["**"]), ("/tmp", "scratch", 1 << 20), files=FILES)
    times = []
    for _ in range(RUNS):
        ending, _ = bench.runner.run(
            number=1, function=link(), prepared=bench.prepare(guest), deadline_ns=time.monotonic_ns() + 60 * NS,
            head=b"", body=b"", line=None, answer=bench.answer.view, files=files,
        )  # fmt: skip
        assert ending.outcome is Outcome.OK, ending.detail
        times.append(ending.receipt.guest_ns / CALLS / 1000)
    files.close()
    return min(times)


def main() -> None:
    bench = Bench()
    for name, (before, call) in CASES.items():
        print(f"{name:36} {best_us(bench, program(before, call)):7.2f} µs")
    bench.close()


if __name__ == "__main__":
    main()

"""The `command` ABI: ordinary programs, from their variables to their answer, and every way that goes wrong."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterator

import pytest

from sandbox.guests import Bench
from sandbox.programs import CGI, PROBE, CompileC, ask, tree
from wat import escaped
from wisp.sandbox.filesystem import FileTree
from wisp.wire.invocations import INLINE_BYTES
from wisp.wire.outcome import Outcome

REACTOR = """
#include <stdio.h>
#include <stdlib.h>
static int built;
__attribute__((constructor)) static void build(void) { built = 42; }
__attribute__((export_name("serve"))) void serve(void) {
    printf("Content-Type: text/plain\\n\\n%s %d", getenv("PATH_INFO"), built);
    fflush(stdout);
}
"""


def printing(output: bytes, *, then: str = "", before: str = "", vector: tuple[int, int] | None = None) -> str:
    """A program that writes these bytes to standard output in one go, or what `vector` (pointer, length) says."""
    pointer, length = vector or (1024, len(output))
    return f"""(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 8)
      (data (i32.const 0) "{escaped(struct.pack("<II", pointer, length))}")
      (data (i32.const 1024) "{escaped(output)}")
      (func $print (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))))
      (func (export "_start") {before} (call $print) {then}))"""


HELLO = b"Content-Type: text/plain\n\nhello"


@pytest.fixture(scope="module")
def files() -> Iterator[FileTree]:
    made = tree(
        ("/data", "bundle", ["*.txt"]), ("/log", "log"), ("/tmp", "scratch", 1 << 20),
        files={"a.txt": b"one\ntwo\n", "b.bin": b"hidden"},
    )  # fmt: skip
    yield made
    made.close()


class TestRust:
    def test_a_program_sees_its_request(self, bench: Bench) -> None:
        headers = ((b"x-name", b"a"), (b"cookie", b"one=1"), (b"cookie", b"two=2"))
        reply = ask(bench, PROBE, "/env", query="q=1", headers=headers, environment=(("LEVEL", "info"),))
        assert reply.body.decode().splitlines() == [
            "GATEWAY_INTERFACE=CGI/1.1", "HTTP_COOKIE=one=1; two=2", "HTTP_X_NAME=a", "LEVEL=info", "PATH_INFO=/env",
            "QUERY_STRING=q=1", "REQUEST_METHOD=GET", "SCRIPT_NAME=/t/acme/fn", "SERVER_PROTOCOL=HTTP/1.1",
            "WISP_FUNCTION=fn", "WISP_REQUEST_ID=r-1", "WISP_TENANT=acme",
        ]  # fmt: skip

    @pytest.mark.parametrize("size", [0, 1, INLINE_BYTES - 200, INLINE_BYTES, 200_000])
    def test_a_body_comes_through_whole(self, bench: Bench, size: int) -> None:
        sent = os.urandom(size)
        reply = ask(bench, PROBE, "/echo", sent)
        assert (reply.status, reply.body == sent) == (200, True)

    @pytest.mark.parametrize(
        ("path", "status", "body"),
        [
            ("/read/data/a.txt", 200, b"one\ntwo\n"),
            ("/list/", 200, b"data\nlog\ntmp\n"),
            ("/list/data", 200, b"a.txt\n"),
            ("/stat/data", 200, b"true 0\n"),
            ("/stat/data/a.txt", 200, b"false 8\n"),
            ("/read/data/none.txt", 404, b"NotFound\n"),
            ("/write/data/a.txt", 500, b"ReadOnlyFilesystem\n"),
            ("/write/tmp/f", 200, b"BODY"),
            ("/append/tmp/f", 200, b""),
            ("/remove/data/a.txt", 500, b"ReadOnlyFilesystem\n"),
            ("/remove/log/x", 404, b"NotFound\n"),
        ],
    )
    def test_files_are_what_the_standard_library_expects(
        self, bench: Bench, files: FileTree, path: str, status: int, body: bytes
    ) -> None:
        reply = ask(bench, PROBE, path, b"BODY", files=files)
        assert (reply.status, reply.body) == (status, body)

    def test_what_is_appended_to_a_log_mount_becomes_lines(self, bench: Bench, files: FileTree) -> None:
        reply = ask(bench, PROBE, "/append/log/requests", b"one line\n", files=files)
        assert (reply.status, reply.ending.lines, reply.ending.logs) == (200, b"one line\n", b"")

    @pytest.mark.parametrize("path", ["/read/data/b.bin", "/read/etc/passwd", "/stat/home", "/write/x", "/list/var"])
    def test_a_refused_path_ends_the_program_with_the_line_that_would_allow_it(
        self, bench: Bench, files: FileTree, path: str
    ) -> None:
        reply = ask(bench, PROBE, path, files=files)
        assert reply.outcome is Outcome.CAPABILITY_DENIED
        assert "files: [{mount: /" in reply.detail
        softer = ask(bench, PROBE, path, files=files, trap_on_violation=False)
        assert softer.status == 500
        assert "files: [{mount: /" in softer.detail

    def test_repeated_headers_stay_repeated(self, bench: Bench) -> None:
        reply = ask(bench, PROBE, "/cookies")
        assert (reply.status, reply.headers) == (201, ((b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")))

    @pytest.mark.parametrize(
        ("path", "outcome", "said"),
        [
            ("/exit/3", Outcome.GUEST_EXIT, "code 3"),
            ("/exit/0", Outcome.INVALID_GUEST_RESPONSE, "nothing on standard output"),
            ("/silent", Outcome.INVALID_GUEST_RESPONSE, "nothing on standard output"),
            ("/headless", Outcome.INVALID_GUEST_RESPONSE, "line 1"),
            ("/panic", Outcome.GUEST_TRAP, "backtrace"),
            ("/stdout/300000", Outcome.RESPONSE_TOO_LARGE, "limits.response_body"),
            ("/stdout/262200", Outcome.RESPONSE_TOO_LARGE, "limits.response_body"),
            ("/memory/64", Outcome.MEMORY_EXCEEDED, "memory limit"),
        ],
    )
    def test_every_bad_ending_has_its_name(self, bench: Bench, path: str, outcome: Outcome, said: str) -> None:
        reply = ask(bench, PROBE, path)
        assert (reply.outcome, said in reply.detail) == (outcome, True)
        assert ask(bench, PROBE, "/echo", b"after").body == b"after"

    def test_a_large_answer_goes_by_the_segment(self, bench: Bench) -> None:
        assert ask(bench, PROBE, "/stdout/262144").body == b"x" * 262144

    def test_standard_error_is_the_log(self, bench: Bench) -> None:
        assert ask(bench, PROBE, "/stderr/160").ending.logs == b"." * 79 + b"\n" + b"." * 79 + b"\n"
        assert len(ask(bench, PROBE, "/stderr/100000").ending.logs) <= 4096

    def test_a_sleep_ends_with_the_deadline(self, bench: Bench) -> None:
        assert ask(bench, PROBE, "/sleep/1").body == b"slept\n"
        assert ask(bench, PROBE, "/sleep/100000", timeout_s=0.05).outcome is Outcome.DEADLINE_EXCEEDED

    def test_nothing_is_left_for_the_next_request(self, bench: Bench, files: FileTree) -> None:
        assert ask(bench, PROBE, "/write/tmp/secret", b"of another request", files=files).status == 200
        assert ask(bench, PROBE, "/read/tmp/secret", files=files).status == 404
        seeds = {ask(bench, PROBE, "/random").body for _ in range(5)}
        assert len(seeds) == 5


class TestC:
    @pytest.mark.parametrize("entrypoint", ["_start", "run"])
    def test_a_c_program_answers_through_its_entrypoint(self, bench: Bench, files: FileTree, entrypoint: str) -> None:
        def get(path: str, body: bytes = b"", query: str = "") -> tuple[int, bytes]:
            reply = ask(bench, CGI, path, body, query=query, files=files, entrypoint=entrypoint)
            return reply.status, reply.body

        assert b"PATH_INFO=/\nQUERY_STRING=a=b\n" in get("/", query="a=b")[1]
        assert get("/count/a.txt") == (200, b"2 lines, 8 bytes\n")
        assert get("/count/none.txt")[0] == 404
        assert get("/list") == (200, b"a.txt\n")
        assert get("/keep", b"kept" * 5000) == (200, b"kept" * 5000)
        assert get("/echo", bytes(range(256)) * 300) == (200, bytes(range(256)) * 300)
        assert get("/log", query="one+two") == (204, b"")
        reply = ask(bench, CGI, "/away", files=files, entrypoint=entrypoint)
        assert (reply.status, reply.headers) == (303, ((b"location", b"/elsewhere"),))
        left = ask(bench, CGI, "/exit", entrypoint=entrypoint)
        assert (left.outcome, left.ending.logs) == (Outcome.GUEST_EXIT, b"leaving\n")

    def test_a_reactor_is_initialised_before_its_entrypoint(self, bench: Bench, compile_c: CompileC) -> None:
        module = compile_c(REACTOR, "-mexec-model=reactor")
        reply = ask(bench, module, "/here", entrypoint="serve")
        assert (reply.status, reply.body) == (200, b"/here 42")

    def test_the_committed_files_are_those_that_its_readme_lists(self) -> None:
        listed = dict(
            re.findall(r"^\| `(\S+)` \| `([0-9a-f]{64})` \|$", (CGI.parent / "README.md").read_text(), re.MULTILINE)
        )
        found = {
            name: hashlib.sha256((CGI.parent / name).read_bytes()).hexdigest() for name in ("main.c", "module.wasm")
        }
        assert listed == found

    def test_the_committed_program_is_the_one_beside_it(self, bench: Bench, compile_c: CompileC) -> None:
        """Not byte for byte: another compiler makes another module that answers the same."""
        module = compile_c((CGI.parent / "main.c").read_text())
        for path in ("/", "/away", "/nothing"):
            assert ask(bench, module, path).body == ask(bench, CGI, path).body


class TestWat:
    @pytest.mark.parametrize(
        ("program", "outcome"),
        [
            (printing(HELLO), Outcome.OK),
            (printing(HELLO, then="(call $exit (i32.const 0))"), Outcome.OK),
            (printing(HELLO, then="(call $exit (i32.const 1))"), Outcome.GUEST_EXIT),
            (printing(HELLO, then="(call $exit (i32.const -1))"), Outcome.GUEST_EXIT),
            (printing(HELLO, then="unreachable"), Outcome.GUEST_TRAP),
            (printing(HELLO, then="(loop $again (br $again))"), Outcome.FUEL_EXHAUSTED),
            (printing(b"A: b\r\nB: c"), Outcome.INVALID_GUEST_RESPONSE),
            (printing(HELLO, before="(loop $again (call $print) (br $again))"), Outcome.RESPONSE_TOO_LARGE),
        ],
    )
    def test_an_answer_counts_only_if_the_program_ends_well(self, bench: Bench, program: str, outcome: Outcome) -> None:
        reply = ask(bench, program, fuel=10_000_000)
        assert reply.outcome is outcome
        assert reply.body == (b"hello" if outcome is Outcome.OK else b"")

    def test_rule_8_one_huge_write_is_refused_before_it_is_copied(self, bench: Bench) -> None:
        module = printing(HELLO, vector=(0, 8 * 65536))
        reply = ask(bench, module, response_bytes=1000)
        assert reply.outcome is Outcome.RESPONSE_TOO_LARGE

    def test_a_trial_instantiates_and_runs_nothing(self, bench: Bench) -> None:
        assert ask(bench, printing(HELLO, then="unreachable"), probe=True).outcome is Outcome.OK
        started = printing(HELLO).replace("(func $print", "(start $begin) (func $begin unreachable) (func $print")
        assert ask(bench, started, probe=True).outcome is Outcome.GUEST_TRAP

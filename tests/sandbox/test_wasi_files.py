"""Descriptors and paths of WASI preview 1 as a guest sees them, call by call, over mounted files."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.guests import SECOND_NS, Bench, link
from sandbox.programs import ask, open_descriptors, play, tree
from sandbox.puppet import MEMORY_BYTES, NAMES, SCRATCH, Script, Told, puppet
from wisp.sandbox.descriptors import MAX_OPEN
from wisp.sandbox.filesystem import MAX_PATH_BYTES, FileTree
from wisp.sandbox.preview1 import ALL_RIGHTS, DIRENT, Errno, Fdflag, Filetype, Oflag, Right
from wisp.wire.outcome import Ending, Outcome

OK, ROOT, FIRST = Errno.SUCCESS, 3, 4
"""`FIRST` is the number of the first file that a guest opens."""
OUT, OUT2, BUFFER = SCRATCH, SCRATCH + 8, SCRATCH + 64
READ, WRITE, SEEK, TELL = Right.FD_READ, Right.FD_WRITE, Right.FD_SEEK, Right.FD_TELL
CONTENT = b"cat\ndog\nbird\n"
FILES = {"labels.txt": CONTENT, "words/a.txt": b"a", "words/b.txt": b"bb", "secret.key": b"k"}


@pytest.fixture(scope="module")
def files() -> Iterator[FileTree]:
    made = tree(
        ("/data", "bundle", ["*.txt", "words/*"]), ("/log", "log"), ("/tmp", "scratch", 4096), files=FILES
    )  # fmt: skip
    yield made
    made.close()


def path_open(
    script: Script,
    path: str,
    *,
    rights: int = READ | SEEK | TELL | Right.FD_READDIR | Right.PATH_OPEN,
    oflags: int = 0,
    flags: int = 0,
    fd: int = ROOT,
    out: int = OUT,
) -> None:
    name = path.encode()
    script.call("path_open", fd, 0, script.data(name), len(name), oflags, rights, ALL_RIGHTS, flags, out)


def on_path(script: Script, function: str, path: str, *arguments: int, fd: int = ROOT) -> None:
    script.call(function, fd, script.data(path.encode()), len(path.encode()), *arguments)


def entries(told: Told, address: int, used: int) -> list[tuple[int, bytes, int]]:
    """(cookie, name, filetype) of what lies whole in the buffer."""
    raw, found, at = told.at(address, used), [], 0
    while at + DIRENT.size <= len(raw):
        cookie, _, length, filetype = DIRENT.unpack_from(raw, at)
        name = raw[at + DIRENT.size : at + DIRENT.size + length]
        at += DIRENT.size + length
        if len(name) == length:
            found.append((cookie, name, filetype))
    return found


class TestReading:
    def test_a_file_is_read_from_where_its_descriptor_stands(self, bench: Bench, files: FileTree) -> None:
        script = Script(8)
        path_open(script, "data/labels.txt")
        script.call("fd_read", FIRST, script.words(BUFFER, 3, BUFFER + 8, 1), 2, OUT)
        script.call("fd_tell", FIRST, OUT2)
        script.call("fd_pread", FIRST, script.words(BUFFER + 16, 4), 1, 8, OUT2 + 8)
        script.call("fd_seek", FIRST, -5, 2, OUT2 + 16)
        script.call("fd_read", FIRST, script.words(BUFFER + 32, 100), 1, OUT2 + 24)
        script.call("fd_read", FIRST, script.words(BUFFER + 32, 100), 1, OUT2 + 32)
        script.call("fd_pread", FIRST, script.words(BUFFER + 32, 100), 1, 2**64 - 1, OUT2 + 40)
        _, told = play(bench, script, files)
        assert told.errnos == [OK] * 8
        assert told.at(BUFFER, 3) + told.at(BUFFER + 8, 1) == b"cat\n"
        assert (told.u32(OUT), told.u64(OUT2), told.u32(OUT2 + 8), told.u64(OUT2 + 16)) == (4, 4, 4, 8)
        assert told.at(BUFFER + 16, 4) == b"bird"
        assert (told.u32(OUT2 + 24), told.u32(OUT2 + 32), told.u32(OUT2 + 40)) == (5, 0, 0)
        assert told.at(BUFFER + 32, 5) == b"bird\n"

    @pytest.mark.parametrize(
        ("offset", "whence", "errno"),
        [
            (-1, 0, Errno.INVAL), (-14, 2, Errno.INVAL), (2**63 - 1, 0, OK), (2**63 - 1, 2, Errno.INVAL),
            (2**63, 0, Errno.INVAL), (0, 3, Errno.INVAL), (0, 255, Errno.INVAL),
        ],
    )  # fmt: skip
    def test_a_position_stays_within_63_bits(
        self, bench: Bench, files: FileTree, offset: int, whence: int, errno: Errno
    ) -> None:
        script = Script(3)
        path_open(script, "data/labels.txt")
        script.call("fd_seek", FIRST, offset, whence, OUT)
        script.call("fd_read", FIRST, script.words(BUFFER, 3), 1, OUT2)
        _, told = play(bench, script, files)
        assert told.errnos == [OK, errno, OK]
        assert told.u32(OUT2) == (0 if errno == OK else 3)

    def test_what_a_descriptor_lacks_the_right_for_is_a_bad_one(self, bench: Bench, files: FileTree) -> None:
        script = Script(9)
        path_open(script, "data/labels.txt", rights=READ)
        script.call("fd_seek", FIRST, 1, 0, OUT)
        script.call("fd_write", FIRST, script.words(BUFFER, 1), 1, OUT)
        script.call("fd_fdstat_set_rights", FIRST, ALL_RIGHTS, 0)
        script.call("fd_fdstat_set_rights", FIRST, 0, 0)
        script.call("fd_read", FIRST, script.words(BUFFER, 1), 1, OUT)
        script.call("fd_read", ROOT, script.words(BUFFER, 1), 1, OUT)
        script.call("fd_seek", ROOT, 0, 0, OUT)
        script.call("fd_filestat_set_size", FIRST, 0)
        _, told = play(bench, script, files)
        bad = Errno.BADF
        assert told.errnos == [OK, bad, bad, Errno.NOTCAPABLE, OK, bad, bad, bad, bad]


class TestPaths:
    @pytest.mark.parametrize(
        ("path", "oflags", "rights", "errno"),
        [
            ("data", Oflag.DIRECTORY, READ, OK),
            ("data/", 0, READ, OK),
            ("data/words/../labels.txt", 0, READ, OK),
            ("data/none.txt", 0, READ, Errno.NOENT),
            ("data/words/none", 0, READ, Errno.NOENT),
            ("data/labels.txt", Oflag.DIRECTORY, READ, Errno.NOTDIR),
            ("data/labels.txt", Oflag.CREAT | Oflag.EXCL, READ, Errno.EXIST),
            ("data/labels.txt", Oflag.CREAT, READ, OK),
            ("data/labels.txt", 0, WRITE, Errno.ROFS),
            ("data/labels.txt", Oflag.TRUNC, READ, Errno.ROFS),
            ("data/new.txt", Oflag.CREAT, WRITE, Errno.ROFS),
            ("data", 0, WRITE, Errno.ISDIR),
            ("tmp/new/", Oflag.CREAT, WRITE, Errno.INVAL),
            ("tmp/new", Oflag.CREAT | Oflag.DIRECTORY, READ, Errno.INVAL),
            ("..", 0, READ, Errno.NOTCAPABLE),
            ("/data/labels.txt", 0, READ, Errno.NOTCAPABLE),
            ("data/\0", 0, READ, Errno.INVAL),
            ("x" * (MAX_PATH_BYTES + 1), 0, READ, Errno.NAMETOOLONG),
            ("data/secret.key", 0, READ, Errno.NOTCAPABLE),
            ("etc/passwd", 0, READ, Errno.NOTCAPABLE),
            ("new", Oflag.CREAT, WRITE, Errno.NOTCAPABLE),
        ],
    )
    def test_opening_ends_with_the_errno_of_preview_1(
        self, bench: Bench, files: FileTree, path: str, oflags: int, rights: int, errno: Errno
    ) -> None:
        script = Script(1)
        path_open(script, path, oflags=oflags, rights=rights)
        _, told = play(bench, script, files, trap_on_violation=False)
        assert told.errnos == [errno]

    def test_a_path_that_is_no_text_is_refused(self, bench: Bench, files: FileTree) -> None:
        script = Script(1)
        script.call("path_open", ROOT, 0, script.data(b"data/\xff"), 6, 0, READ, 0, 0, OUT)
        assert play(bench, script, files)[1].errnos == [Errno.ILSEQ]

    def test_a_path_begins_at_a_directory(self, bench: Bench, files: FileTree) -> None:
        script = Script(5)
        path_open(script, "data/words", oflags=Oflag.DIRECTORY)
        path_open(script, "a.txt", fd=FIRST, out=OUT2)
        path_open(script, "x", fd=FIRST + 1)
        path_open(script, "x", fd=0)
        path_open(script, "../labels.txt", fd=FIRST)
        _, told = play(bench, script, files)
        assert told.errnos == [OK, OK, Errno.NOTDIR, Errno.NOTDIR, Errno.NOTCAPABLE]
        assert told.u32(OUT2) == FIRST + 1

    def test_a_refusal_ends_the_guest_or_is_noted_with_its_line(self, bench: Bench, files: FileTree) -> None:
        line = 'files: [{mount: /data, from: bundle, allow: ["secret.key"]}]'
        name = b"data/secret.key"
        for function, before, after in (
            ("path_open", (0,), (0, READ, 0, 0, OUT)),
            ("path_filestat_get", (0,), (BUFFER,)),
            ("path_readlink", (), (BUFFER, 8, OUT)),
        ):
            script = Script(1)
            script.call(function, ROOT, *before, script.data(name), len(name), *after)
            stopped = bench_run(bench, script, files)
            assert (stopped.outcome, line in stopped.detail) == (Outcome.CAPABILITY_DENIED, True)
            ending, told = play(bench, script, files, trap_on_violation=False)
            assert told.errnos == [Errno.NOTCAPABLE]
            assert line in ending.detail

    def test_what_no_policy_could_grant_never_ends_the_guest(self, bench: Bench, files: FileTree) -> None:
        script = Script(5)
        path_open(script, "../../etc/passwd")
        on_path(script, "path_unlink_file", "data/labels.txt")
        on_path(script, "path_create_directory", "data/d")
        name = script.data(b"data/labels.txt")
        script.call("path_symlink", name, 15, ROOT, script.data(b"data/x"), 6)
        script.call("path_link", ROOT, 0, name, 15, ROOT, script.data(b"tmp/x"), 5)
        _, told = play(bench, script, files)
        assert told.errnos == [Errno.NOTCAPABLE, Errno.ROFS, Errno.ROFS, Errno.ROFS, Errno.XDEV]

    def test_without_mounts_the_root_is_there_and_empty(self, bench: Bench) -> None:
        script = Script(5)
        script.call("fd_prestat_get", ROOT, OUT)
        script.call("fd_prestat_dir_name", ROOT, BUFFER, 1)
        script.call("fd_prestat_dir_name", ROOT, BUFFER, 0)
        script.call("fd_prestat_get", FIRST, OUT2)
        script.call("fd_readdir", ROOT, BUFFER + 64, 1000, 0, OUT2)
        _, told = play(bench, script)
        assert told.errnos == [OK, OK, Errno.NAMETOOLONG, Errno.BADF, OK]
        assert (told.at(OUT, 8), told.at(BUFFER, 1)) == (struct.pack("<II", 0, 1), b"/")
        assert [name for _, name, _ in entries(told, BUFFER + 64, told.u32(OUT2))] == [b".", b".."]

    @given(data=st.data())
    def test_no_path_reads_what_the_globs_hold_back(self, bench: Bench, files: FileTree, data: st.DataObject) -> None:
        parts = st.sampled_from(["data", "secret.key", "words", "..", ".", "", "labels.txt", "tmp", "a.txt"])
        path = "/".join(data.draw(st.lists(parts, max_size=8)))
        script = Script(2)
        path_open(script, path, rights=READ)
        script.call("fd_read", FIRST, script.words(BUFFER, 64), 1, OUT2)
        _, told = play(bench, script, files, trap_on_violation=False)
        if told.errnos == [OK, OK]:
            assert told.at(BUFFER, told.u32(OUT2)) in (CONTENT, b"a", b"bb")


def bench_run(bench: Bench, script: Script, files: FileTree) -> Ending:
    ending, _ = bench.runner.run(
        number=1,
        function=link(),
        prepared=bench.prepare(puppet()),
        deadline_ns=time.monotonic_ns() + 20 * SECOND_NS,
        head=b"",
        body=script.body(),
        line=None,
        answer=bench.answer.view,
        files=files,
    )
    return ending


class TestStats:
    def test_files_and_directories_say_what_they_are(self, bench: Bench, files: FileTree) -> None:
        script = Script(4)
        for index, path in enumerate(("data/labels.txt", "data/words")):
            name = path.encode()
            script.call("path_filestat_get", ROOT, 0, script.data(name), len(name), BUFFER + 64 * index)
        path_open(script, "data/labels.txt", flags=Fdflag.NONBLOCK)
        script.call("fd_fdstat_get", FIRST, BUFFER + 128)
        _, told = play(bench, script, files)
        assert told.errnos == [OK] * 4
        assert (told.at(BUFFER + 16, 1)[0], told.u64(BUFFER + 32)) == (Filetype.REGULAR_FILE, len(CONTENT))
        assert (told.at(BUFFER + 80, 1)[0], told.u64(BUFFER + 96)) == (Filetype.DIRECTORY, 0)
        assert told.u64(BUFFER + 8) != told.u64(BUFFER + 72)
        stat = struct.unpack("<BxHxxxxQQ", told.at(BUFFER + 128, 24))
        assert stat == (Filetype.REGULAR_FILE, Fdflag.NONBLOCK, READ | SEEK | TELL, 0)

    def test_the_root_passes_all_rights_on(self, bench: Bench) -> None:
        """C libraries ask for no right that the directory does not pass on."""
        script = Script(1)
        script.call("fd_fdstat_get", ROOT, BUFFER)
        _, told = play(bench, script)
        assert told.u64(BUFFER + 16) == ALL_RIGHTS


NEEDED = {
    "path_create_directory": Right.PATH_CREATE_DIRECTORY,
    "path_unlink_file": Right.PATH_UNLINK_FILE,
    "path_remove_directory": Right.PATH_REMOVE_DIRECTORY,
}


class TestRights:
    @pytest.mark.parametrize("function", NEEDED)
    def test_a_function_demands_its_right_of_the_directory(self, bench: Bench, files: FileTree, function: str) -> None:
        script = Script(6)
        path_open(script, "tmp", oflags=Oflag.DIRECTORY, rights=ALL_RIGHTS & ~int(WRITE | NEEDED[function]))
        path_open(script, "tmp", oflags=Oflag.DIRECTORY, rights=int(NEEDED[function]), out=OUT2)
        on_path(script, function, "d", fd=FIRST)
        on_path(script, function, "d", fd=FIRST + 1)
        _, told = play(bench, script, files)
        assert told.errnos[:3] == [OK, OK, Errno.NOTCAPABLE]
        assert told.errnos[3] == (OK if function == "path_create_directory" else Errno.NOENT)

    def test_nothing_below_a_directory_has_more_than_it_passes_on(self, bench: Bench, files: FileTree) -> None:
        script = Script(6)
        name = script.data(b"tmp")
        some = int(READ | Right.PATH_OPEN | Right.PATH_CREATE_FILE)
        script.call("path_open", ROOT, 0, name, 3, Oflag.DIRECTORY, some, READ, 0, OUT)
        path_open(script, "f", fd=FIRST, oflags=Oflag.CREAT, rights=int(READ), out=OUT2)
        path_open(script, "f", fd=FIRST, rights=int(READ | WRITE))
        script.call("fd_fdstat_get", FIRST, BUFFER)
        script.call("fd_fdstat_set_rights", FIRST, Right.PATH_OPEN, READ | WRITE)
        script.call("fd_fdstat_set_rights", FIRST, Right.PATH_OPEN, 0)
        _, told = play(bench, script, files)
        assert told.errnos == [OK, OK, Errno.NOTCAPABLE, OK, Errno.NOTCAPABLE, OK]
        assert (told.u64(BUFFER + 8), told.u64(BUFFER + 16)) == (some & ~int(READ), READ)

    def test_truncating_by_path_takes_its_own_right(self, bench: Bench, files: FileTree) -> None:
        script = Script(4)
        path_open(script, "tmp", oflags=Oflag.DIRECTORY, rights=int(Right.PATH_OPEN | Right.PATH_CREATE_FILE))
        path_open(script, "f", fd=FIRST, oflags=Oflag.CREAT, rights=0)
        path_open(script, "f", fd=FIRST, oflags=Oflag.TRUNC, rights=0)
        path_open(script, "tmp/f", oflags=Oflag.TRUNC, rights=0)
        assert play(bench, script, files)[1].errnos == [OK, OK, Errno.NOTCAPABLE, OK]


class TestDirectories:
    @pytest.mark.parametrize("size", [24, 25, 26, 31, 40, 64, 100, 1000])
    def test_a_listing_goes_on_from_its_cookie_however_small_the_buffer(
        self, bench: Bench, files: FileTree, size: int
    ) -> None:
        found: list[bytes] = []
        cookie = 0
        for _ in range(20):
            script = Script(2)
            path_open(script, "data", oflags=Oflag.DIRECTORY)
            script.call("fd_readdir", FIRST, BUFFER, size, cookie, OUT2)
            _, told = play(bench, script, files)
            assert told.errnos == [OK, OK]
            used = told.u32(OUT2)
            assert used <= size
            whole = entries(told, BUFFER, used)
            if used < size and not whole:
                break
            if not whole:
                size += 16  # as a C library does for a name that does not fit
                continue
            found += [name for _, name, _ in whole]
            cookie = whole[-1][0]
        assert found == [b".", b"..", b"labels.txt", b"words"]

    def test_a_listing_is_what_it_was_when_it_began(self, bench: Bench, files: FileTree) -> None:
        script = Script(6)
        path_open(script, "tmp/a", oflags=Oflag.CREAT, rights=WRITE)
        path_open(script, "tmp", oflags=Oflag.DIRECTORY)
        script.call("fd_readdir", FIRST + 1, BUFFER, 24 + 1 + 24 + 2, 0, OUT)
        on_path(script, "path_unlink_file", "tmp/a")
        script.call("fd_readdir", FIRST + 1, BUFFER + 64, 200, 2, OUT2)
        script.call("fd_readdir", FIRST + 1, BUFFER + 512, 200, 0, OUT2 + 8)
        _, told = play(bench, script, files)
        assert told.errnos == [OK] * 6
        assert [name for _, name, _ in entries(told, BUFFER + 64, told.u32(OUT2))] == [b"a"]
        assert len(entries(told, BUFFER + 512, told.u32(OUT2 + 8))) == 2

    @pytest.mark.parametrize("cookie", [5, 2**32, 2**64 - 1])
    def test_a_cookie_past_the_end_lists_nothing(self, bench: Bench, files: FileTree, cookie: int) -> None:
        script = Script(2)
        script.call("fd_readdir", ROOT, BUFFER, 500, cookie, OUT)
        script.call("fd_readdir", 1, BUFFER, 500, 0, OUT2)
        _, told = play(bench, script, files)
        assert told.errnos == [OK, Errno.NOTDIR]
        assert told.u32(OUT) == 0


class TestWriting:
    def test_scratch_is_written_read_and_gone_with_the_request(self, bench: Bench, files: FileTree) -> None:
        script = Script(9)
        text = script.data(b"0123456789")
        path_open(script, "tmp/f", oflags=Oflag.CREAT, rights=READ | WRITE | SEEK)
        script.call("fd_write", FIRST, script.words(text, 10), 1, OUT)
        script.call("fd_pwrite", FIRST, script.words(text, 2), 1, 12, OUT)
        script.call("fd_seek", FIRST, 0, 0, OUT2)
        script.call("fd_read", FIRST, script.words(BUFFER, 64), 1, OUT2 + 8)
        script.call("fd_close", FIRST)
        path_open(script, "tmp/f", rights=WRITE, flags=Fdflag.APPEND)
        script.call("fd_write", FIRST, script.words(text, 3), 1, OUT)
        script.call("path_filestat_get", ROOT, 0, script.data(b"tmp/f"), 5, BUFFER + 64)
        _, told = play(bench, script, files)
        assert told.errnos == [OK] * 9
        assert told.at(BUFFER, told.u32(OUT2 + 8)) == b"0123456789\0\x0001"
        assert told.u64(BUFFER + 96) == 17
        again = Script(1)
        path_open(again, "tmp/f")
        assert play(bench, again, files)[1].errnos == [Errno.NOENT]

    def test_the_quota_ends_writing_and_nothing_else(self, bench: Bench, files: FileTree) -> None:
        script = Script(6)
        path_open(script, "tmp/f", oflags=Oflag.CREAT, rights=WRITE | Right.FD_FILESTAT_SET_SIZE | Right.FD_ALLOCATE)
        script.call("fd_write", FIRST, script.words(0, 4000, 0, 4000), 2, OUT)
        script.call("fd_write", FIRST, script.words(0, 1), 1, OUT2)
        script.call("fd_filestat_set_size", FIRST, 2**63 - 1)
        script.call("fd_allocate", FIRST, 2**62, 2**62 - 1)
        script.call("fd_allocate", FIRST, 2**63, 2**63)
        _, told = play(bench, script, files)
        assert told.errnos == [OK, OK, Errno.NOSPC, Errno.NOSPC, Errno.NOSPC, Errno.FBIG]
        assert told.u32(OUT) == 4096

    def test_a_log_mount_makes_log_lines_within_the_limit(self, bench: Bench, files: FileTree) -> None:
        script = Script(5)
        path_open(script, "log/a", oflags=Oflag.CREAT, rights=WRITE, flags=Fdflag.APPEND)
        path_open(script, "log/b", oflags=Oflag.CREAT | Oflag.TRUNC, rights=READ | WRITE, out=OUT2)
        script.call("fd_write", FIRST, script.words(script.data(b"one\n"), 4), 1, OUT)
        script.call("fd_write", FIRST + 1, script.words(script.data(b"two\n"), 4), 1, OUT)
        script.call("fd_write", 2, script.words(script.data(b"err\n"), 4), 1, OUT)
        ending, told = play(bench, script, files)
        assert told.errnos == [OK] * 5
        assert (ending.lines, ending.logs) == (b"one\ntwo\n", b"err\n")

    def test_rule_8_a_log_mount_and_standard_error_share_one_limit(self, bench: Bench, files: FileTree) -> None:
        script = Script(3)
        path_open(script, "log/a", oflags=Oflag.CREAT, rights=WRITE)
        script.call("fd_write", FIRST, script.words(*[0, MEMORY_BYTES] * 1000), 1000, OUT)
        script.call("fd_write", 2, script.words(0, MEMORY_BYTES), 1, OUT)
        ending, told = play(bench, script, files, log_bytes=3000)
        assert told.errnos == [OK] * 3
        assert len(ending.logs) + len(ending.lines) <= 3000
        assert b"bytes over limits.logs were dropped" in ending.logs


class TestDescriptors:
    def test_rule_8_their_number_is_bounded_and_closing_gives_back(self, bench: Bench, files: FileTree) -> None:
        script = Script(MAX_OPEN)
        for _ in range(MAX_OPEN - 3):
            path_open(script, "data/labels.txt")
        script.call("fd_close", 100)
        path_open(script, "data/labels.txt", out=OUT2)
        before = open_descriptors()
        _, told = play(bench, script, files)
        assert told.errnos == [OK] * (MAX_OPEN - 4) + [Errno.MFILE, OK, OK]
        assert told.u32(OUT2) == 100
        assert open_descriptors() == before

    def test_a_full_table_creates_nothing(self, bench: Bench, files: FileTree) -> None:
        script = Script(MAX_OPEN)
        for _ in range(MAX_OPEN - 4):
            path_open(script, "data/labels.txt")
        path_open(script, "tmp/f", oflags=Oflag.CREAT, rights=WRITE)
        name = b"tmp/f"
        script.call("path_filestat_get", ROOT, 0, script.data(name), len(name), BUFFER)
        _, told = play(bench, script, files)
        assert told.errnos[-2:] == [Errno.MFILE, Errno.NOENT]

    def test_renumbering_moves_one_over_another(self, bench: Bench, files: FileTree) -> None:
        script = Script(6)
        path_open(script, "data/labels.txt")
        path_open(script, "data/words/a.txt")
        script.call("fd_renumber", FIRST, FIRST + 1)
        script.call("fd_read", FIRST + 1, script.words(BUFFER, 3), 1, OUT)
        script.call("fd_read", FIRST, script.words(BUFFER, 3), 1, OUT)
        script.call("fd_renumber", FIRST + 1, 99)
        _, told = play(bench, script, files)
        assert told.errnos == [OK, OK, OK, OK, Errno.BADF, Errno.BADF]
        assert told.at(BUFFER, 3) == b"cat"

    def test_a_closed_standard_output_takes_nothing_and_an_unfinished_one_is_no_answer(self, bench: Bench) -> None:
        program = """(module
          (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
          (memory (export "memory") 1)
          (func (export "_start") (drop (call $close (i32.const 1)))))"""
        assert ask(bench, program).outcome is Outcome.INVALID_GUEST_RESPONSE


END = MEMORY_BYTES
BAD_POINTERS = [
    ("fd_readdir", ROOT, END - 8, 100, 0, OUT), ("fd_readdir", ROOT, BUFFER, 100, 0, END),
    ("fd_readdir", ROOT, BUFFER, 2**32 - 1, 0, OUT), ("fd_readdir", ROOT, BUFFER, 100, 0, OUT + 1),
    ("fd_prestat_get", ROOT, END - 4), ("fd_prestat_get", ROOT, OUT + 2), ("fd_prestat_dir_name", ROOT, END, 1),
    ("path_open", ROOT, 0, END - 2, 5, 0, READ, 0, 0, OUT), ("path_open", ROOT, 0, 0, 1, 0, READ, 0, 0, END - 2),
    ("path_filestat_get", ROOT, 0, END, 4, BUFFER), ("path_filestat_get", ROOT, 0, 0, 1, END - 60),
    ("path_create_directory", ROOT, 2**32 - 1, 4096), ("path_rename", ROOT, END, 1, ROOT, 0, 1),
    ("fd_fdstat_get", ROOT, END - 8), ("fd_filestat_get", ROOT, END - 32), ("path_unlink_file", ROOT, END - 1, 2),
]  # fmt: skip


@pytest.mark.parametrize("step", BAD_POINTERS, ids=str)
def test_rule_3_a_bad_pointer_is_a_fault(bench: Bench, files: FileTree, step: tuple[str, int]) -> None:
    script = Script(1)
    script.steps.append(step)
    assert play(bench, script, files)[1].errnos == [Errno.FAULT]


@given(data=st.data())
def test_rule_3_no_number_gets_past_a_file_function(bench: Bench, files: FileTree, data: st.DataObject) -> None:
    names = sorted(name for name in NAMES if name.startswith(("fd_", "path_")))
    number = st.sampled_from([0, 1, 3, 4, SCRATCH, END - 1, END, 2**31, 2**32 - 1, 2**63, 2**64 - 1]) | st.integers(
        0, 64
    )
    script = Script(4)
    path_open(script, "tmp/f", oflags=Oflag.CREAT, rights=ALL_RIGHTS)
    # They may write over the script itself, which then is another one or traps; nothing but that may happen.
    for _ in range(3):
        script.steps.append((data.draw(st.sampled_from(names)), *data.draw(st.lists(number, min_size=9, max_size=9))))
    ending = bench_run(bench, script, files)
    assert ending.outcome in {Outcome.OK, Outcome.CAPABILITY_DENIED, Outcome.GUEST_TRAP, Outcome.GUEST_EXIT}, (
        ending.detail
    )

"""The operator's directories as a function may see them: what is packed, and above all what is not."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from wisp.errors import Unavailable
from wisp.scheduling import hostfiles
from wisp.scheduling.bundlecache import BundleSegment
from wisp.scheduling.hostfiles import HostMount, pack, survey
from wisp.wire.bundles import decode_index
from wisp.wire.segments import Segment

NOBODY = 65534


def mount(root: Path, *below: str, allow: tuple[str, ...] = ("**",)) -> HostMount:
    return HostMount(root=str(root), below=below, allow=allow)


def content(segment: BundleSegment) -> dict[str, bytes]:
    with Segment(os.dup(segment.fd), writable=False) as mapped:
        entries = decode_index(mapped.view)
        return {entry.path: bytes(mapped.view[entry.offset : entry.offset + entry.length]) for entry in entries}


def shown(*mounts: HostMount) -> dict[str, bytes]:
    files, segment = pack(mounts)
    packed = content(segment)
    assert [file.path for file in files] == list(packed)
    assert survey(mounts) == files
    return packed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with a secret beside it."""
    (tmp_path / "secret").write_bytes(b"secret")
    made = tmp_path / "shown"
    (made / "sub" / "deep").mkdir(parents=True)
    (made / "a.txt").write_bytes(b"one")
    (made / "sub" / "deep" / "b.txt").write_bytes(b"two")
    (made / "empty").write_bytes(b"")
    return made


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """Root reads everything, so the test lays its privilege down."""
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        made.chmod(0o755)
        yield made
        if os.geteuid() != os.getuid():
            os.seteuid(os.getuid())


def test_regular_files_are_packed_behind_the_number_of_their_mount(root: Path) -> None:
    assert shown(mount(root), mount(root, "sub", "deep")) == {
        "0/a.txt": b"one", "0/empty": b"", "0/sub/deep/b.txt": b"two", "1/b.txt": b"two",
    }  # fmt: skip


def test_only_what_a_glob_lets_through_is_packed(root: Path) -> None:
    assert shown(mount(root, allow=("*.txt",))) == {"0/a.txt": b"one"}
    assert shown(mount(root, allow=("sub/*/b.*",))) == {"0/sub/deep/b.txt": b"two"}
    assert shown(mount(root, allow=())) == {}


def test_a_symbolic_link_is_never_followed(root: Path) -> None:
    (root / "escape").symlink_to("../secret")
    (root / "absolute").symlink_to(root.parent / "secret")
    (root / "up").symlink_to("..")
    (root / "inside").symlink_to("a.txt")
    assert set(shown(mount(root))) == {"0/a.txt", "0/empty", "0/sub/deep/b.txt"}
    for name in ("up", "escape"):
        with pytest.raises(Unavailable, match="cannot be opened"):
            pack((mount(root, name),))
    with pytest.raises(Unavailable, match="cannot be opened"):
        pack((mount(root, "up", "shown"),))


def test_a_fifo_a_device_and_a_socket_are_not_even_opened(root: Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(root / "socket"))
        if os.geteuid() == 0:
            os.mknod(root / "null", 0o20666, os.makedev(1, 3))
        assert set(shown(mount(root))) == {"0/a.txt", "0/empty", "0/sub/deep/b.txt"}


def test_a_file_that_becomes_a_link_after_it_was_looked_at_is_what_it_was(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the opening, its name is given to a link to the secret."""
    look = os.fstat

    def replace(fd: int) -> os.stat_result:
        status = look(fd)
        if (root / "a.txt").exists() and os.path.samestat(status, (root / "a.txt").lstat()):
            (root / "a.txt").unlink()
            (root / "a.txt").symlink_to("../secret")
        return status

    monkeypatch.setattr(os, "fstat", replace)
    _, segment = pack((mount(root, allow=("a.txt",)),))
    monkeypatch.undo()
    assert content(segment) == {"0/a.txt": b"one"}
    assert shown(mount(root, allow=("a.txt",))) == {}


def test_what_may_not_be_read_is_not_shown(as_nobody: Path) -> None:
    for name in ("open.txt", "closed.txt"):
        (as_nobody / name).write_bytes(b"x")
    (as_nobody / "closed.txt").chmod(0)
    (as_nobody / "private").mkdir(mode=0o700)
    (as_nobody / "private" / "x.txt").write_bytes(b"x")
    if os.getuid() == 0:
        os.seteuid(NOBODY)
        with pytest.raises(Unavailable, match="Permission denied"):
            pack((mount(as_nobody, "private"),))
    else:
        (as_nobody / "private").chmod(0)
    assert shown(mount(as_nobody)) == {"0/open.txt": b"x"}
    if os.getuid() != 0:
        (as_nobody / "private").chmod(0o700)


@pytest.mark.parametrize(("cap", "most"), [("MAX_FILES", 2), ("MAX_BYTES", 5), ("MAX_ENTRIES", 4)])
def test_over_the_cap_it_is_refused_with_the_number(
    root: Path, monkeypatch: pytest.MonkeyPatch, cap: str, most: int
) -> None:
    monkeypatch.setattr(hostfiles, cap, most)
    with pytest.raises(Unavailable, match=f"more than .*{most}"):
        pack((mount(root),))


def test_a_directory_that_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(Unavailable, match="none' cannot be opened: No such file"):
        pack((mount(root / "none"),))


def test_names_that_are_no_text_are_left_out(root: Path) -> None:
    (Path(os.fsdecode(os.fsencode(root) + b"/\xff.txt"))).write_bytes(b"x")
    assert set(shown(mount(root, allow=("*.txt",)))) == {"0/a.txt"}


def test_nothing_stays_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    _, segment = pack((mount(root),))
    del segment
    survey((mount(root),))
    assert len(os.listdir("/proc/self/fd")) == before

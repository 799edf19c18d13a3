"""Hostile forms: truncated, dribbled, huge, many, upwards. Whatever happens, nothing stays on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from starlette.types import Message

from wisp.api.bodies import ClientGone
from wisp.api.multipart import MAX_FILES, Caps, FunctionForm, Upload, boundary_of, parse_bundle_path
from wisp.api.uploads import received_file, received_function
from wisp.errors import (
    ExceedsCeiling,
    InvalidModule,
    InvalidPolicy,
    InvalidRequest,
    Rejected,
    RequestTimeout,
    RequestTooLarge,
)

BOUNDARY = b"----wisp"
CAPS = Caps(module_bytes=10_000, policy_bytes=1_000, bundle_bytes=5_000)


def part(name: str, content: bytes, *, file: str | None = None, extra: str = "") -> bytes:
    named = "" if file is None else f'; filename="{file}"'
    head = f'Content-Disposition: form-data; name="{name}"{named}\r\n{extra}\r\n'
    return b"--" + BOUNDARY + b"\r\n" + head.encode() + content + b"\r\n"


END = b"--" + BOUNDARY + b"--\r\n"
MODULE = part("module", b"\0asm\r\n--\r\n----wis", file="m.wasm")
POLICY = part("policy", b"wisp: 1\n")


async def receive(
    staging: Path, pieces: Sequence[bytes], *, complete: bool = True, leave: bool = False, length: int | None = None
) -> tuple[Upload, list[bytes]]:
    """The upload and the contents of its files, read while they are there."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    for piece in pieces:
        inbox.put_nowait({"type": "http.request", "body": piece, "more_body": True})
    if leave:
        inbox.put_nowait({"type": "http.disconnect"})
    elif complete:
        inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    async with received_function(
        inbox.get, staging, boundary=BOUNDARY, length=length, caps=CAPS, idle_s=0.05
    ) as upload:
        return upload, [upload.module.read_bytes(), *(path.read_bytes() for _, path in upload.bundle)]


def nothing_left(staging: Path) -> bool:
    return not list(staging.iterdir())


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_a_form_arrives_however_it_is_cut(tmp_path: Path, size: int) -> None:
    form = MODULE + POLICY + part("file", b"one", file="words/en.txt") + part("file", b"", file="é.txt") + END
    pieces = [form[at : at + size] for at in range(0, len(form), size)]
    upload, contents = await receive(tmp_path, pieces)
    assert upload.policy == b"wisp: 1\n"
    assert [name for name, _ in upload.bundle] == ["words/en.txt", "é.txt"]
    assert contents == [b"\0asm\r\n--\r\n----wis", b"one", b""]
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (b"", "ends before"),
        (MODULE, "ends before"),
        (MODULE + POLICY, "ends before"),
        ((MODULE + POLICY + END)[:-6], "ends before"),
        (MODULE + MODULE + POLICY + END, "two parts module"),
        (MODULE + POLICY + POLICY + END, "two parts policy"),
        (MODULE + POLICY + part("secret", b"x") + END, "no part 'secret'"),
        (MODULE + POLICY + part("file", b"x") + END, "needs a file name"),
        (MODULE + POLICY + part("file", b"x", file="a") * 2 + END, "two files"),
        (MODULE + part("x" * 3000, b"") + END, "malformed"),
        (MODULE + part("policy", b"", extra="X: " + "y" * 3000 + "\r\n") + END, "malformed"),
        (MODULE + part("policy", b"", extra="X: y\r\n" * 20) + END, "malformed"),
        (MODULE + part("policy", b"", extra='Content-Disposition: form-data; name="file"\r\n') + END, "two Content-D"),
        (b"--" + BOUNDARY + b"\r\n\r\nx\r\n" + END, "form-data"),
        (b"no form at all", "malformed"),
        (part("a", b"") * 10_000 + END, "no part 'a'"),
    ],
)
async def test_what_is_no_form_is_refused(tmp_path: Path, form: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        await receive(tmp_path, [form])
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("form", "error", "field"),
    [
        (MODULE + END, InvalidPolicy, "policy"),
        (POLICY + END, InvalidModule, "module"),
        (END, InvalidModule, "module"),
    ],
)
async def test_a_missing_part_is_named(tmp_path: Path, form: bytes, error: type[Rejected], field: str) -> None:
    with pytest.raises(error, match=f"no part {field}") as refused:
        await receive(tmp_path, [form])
    assert [fault.field for fault in refused.value.faults] == [field]
    assert nothing_left(tmp_path)


async def test_ten_thousand_files_are_refused_at_the_first_too_many(tmp_path: Path) -> None:
    form = FunctionForm(BOUNDARY, tmp_path, CAPS)
    many = b"".join(part("file", b"", file=f"f{number}") for number in range(10_000))
    with pytest.raises(InvalidRequest, match=f"{MAX_FILES} files"):
        form.write(many)
    form.close()
    assert len(list(tmp_path.iterdir())) == MAX_FILES


@pytest.mark.parametrize(
    ("parts", "error", "field", "allowed"),
    [
        (part("module", b"x" * 10_001), InvalidModule, "module", "10000 bytes"),
        (part("policy", b"x" * 1_001), InvalidPolicy, "policy", "1000 bytes"),
        (
            b"".join(part("file", b"x" * 1_001, file=f"f{number}") for number in range(5)),
            ExceedsCeiling,
            "file",
            "5000 bytes",
        ),
    ],
)
async def test_each_cap_holds(tmp_path: Path, parts: bytes, error: type[Rejected], field: str, allowed: str) -> None:
    with pytest.raises(error) as refused:
        await receive(tmp_path, [parts])
    assert [(fault.field, fault.allowed) for fault in refused.value.faults] == [(field, allowed)]
    assert nothing_left(tmp_path)


async def test_what_is_announced_or_follows_the_form_counts_too(tmp_path: Path) -> None:
    with pytest.raises(RequestTooLarge):
        await receive(tmp_path, [], length=CAPS.total_bytes + 1)
    with pytest.raises(RequestTooLarge):
        await receive(tmp_path, [MODULE + POLICY + END] + [b"x" * 100_000] * (CAPS.total_bytes // 100_000 + 1))
    assert nothing_left(tmp_path)


async def test_a_form_that_dries_up_and_a_caller_that_leaves(tmp_path: Path) -> None:
    with pytest.raises(RequestTimeout):
        await receive(tmp_path, [MODULE], complete=False)
    with pytest.raises(ClientGone):
        await receive(tmp_path, [MODULE, POLICY[:20]], leave=True)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"/etc/passwd",
        b"../up",
        b"a/../../up",
        b"a/./b",
        b"a//b",
        b"a/",
        b"..",
        b".",
        b"a\\b",
        b"C:\\x",
        b"a\0b",
        b"a\nb",
        b"a b",
        b"*.txt",
        b"a?",
        b"\xff",
        b"x" * 257,
        "a\u2028b".encode(),
    ],
)
def test_a_file_name_is_a_relative_path_in_one_spelling(name: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_bundle_path(name)
    assert refused.value.message.isprintable()


@pytest.mark.parametrize("name", ["a", "words/en.txt", "ä/ö.bin", ".hidden", "a..b"])
def test_ordinary_file_names_pass(name: str) -> None:
    assert parse_bundle_path(name.encode()) == name


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=" + "x" * 71,
        "multipart/mixed; boundary=x",
    ],
)
def test_a_form_says_its_boundary(content_type: str) -> None:
    with pytest.raises(InvalidRequest):
        boundary_of(content_type)


async def test_a_raw_upload_is_bounded_and_leaves_nothing(tmp_path: Path) -> None:
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    for more in (True, True, False):
        inbox.put_nowait({"type": "http.request", "body": b"x" * 10, "more_body": more})
    async with received_file(inbox.get, tmp_path, length=30, limit_bytes=30, what="a model", idle_s=1) as file:
        assert file.read_bytes() == b"x" * 30
    for more in (True, True, False):
        inbox.put_nowait({"type": "http.request", "body": b"x" * 10, "more_body": more})
    with pytest.raises(RequestTooLarge):
        async with received_file(inbox.get, tmp_path, length=None, limit_bytes=29, what="a model", idle_s=1):
            pytest.fail("a body above its limit was received")
    assert nothing_left(tmp_path)

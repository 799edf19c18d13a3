"""A program in a third language, AssemblyScript, on a whole node: its variables, its body, its scratch files."""

from __future__ import annotations

import hashlib
import os
import re

from platforms import REPOSITORY, Tenancy
from wisp.node import Node
from wisp.wire.outcome import Outcome

FOLDER = REPOSITORY / "tests/guests/assembly"
POLICY = b"wisp: 1\nabi: command\nfiles: [{mount: /tmp, from: scratch, quota: 64Ki}]\n"


async def test_an_assemblyscript_program_runs_unchanged(acme: Tenancy) -> None:
    deployed = await acme.deploy("as", (FOLDER / "module.wasm").read_bytes(), POLICY)
    assert deployed.warnings == ()
    sent = os.urandom(20_000)
    for path, body, status, answer in (
        (b"/hello", b"", 200, b"POST from acme\n"),
        (b"/upper", b"make it large, 100 %", 200, b"MAKE IT LARGE, 100 %"),
        (b"/keep/here", sent, 200, sent),
        (b"/list", b"", 200, b".\n..\n0\n2\nlink\n"),
        (b"/list", b"", 200, b".\n..\n0\n2\nlink\n"),  # nothing is left of the request before
        (b"/nowhere", b"", 404, b"nothing here\n"),
    ):
        reply = await acme.call("as", body, path=path)
        assert (reply.outcome, reply.status, reply.body) == (Outcome.OK, status, answer)


async def test_a_refused_file_ends_it_and_names_the_line(node: Node, acme: Tenancy) -> None:
    await acme.deploy("as", (FOLDER / "module.wasm").read_bytes(), b"wisp: 1\nabi: command\n")
    reply = await acme.call("as", b"x", path=b"/keep/here")
    assert reply.outcome is Outcome.CAPABILITY_DENIED
    said = [line.text for line in node.tenantlog.lines(acme.name, (await acme.target("as")).function)]
    assert any("files: [{mount: /tmp, from: scratch}]" in text for text in said), said


def test_the_committed_files_are_those_that_its_readme_lists() -> None:
    rows = re.findall(r"^\| `(\S+)` \| `([0-9a-f]{64})` \|$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    found = {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in ("index.ts", "module.wasm")}
    assert dict(rows) == found

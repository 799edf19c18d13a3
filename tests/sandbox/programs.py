"""Programs of the `command` ABI and mounted files, in this process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.guests import ROOT, SECOND_NS, Bench, link
from sandbox.puppet import Script, Told, puppet, read
from wisp.policy.grants import MountGrant
from wisp.sandbox.filesystem import FileTree
from wisp.sandbox.mapping import MappedBundle
from wisp.wire.bundles import encode_index
from wisp.wire.exchange import Headers, decode_response, encode_request_head
from wisp.wire.invocations import MountLink
from wisp.wire.outcome import Ending, Outcome
from wisp.wire.segments import create_frozen

PROBE = ROOT / "tests/guests/probe/module.wasm"
CGI = ROOT / "tests/guests/cgi/module.wasm"

CompileC = Callable[..., Path]
"""From C source and compiler flags to a module; see the fixture `compile_c`."""


def bundle(files: Mapping[str, bytes]) -> MappedBundle:
    index = encode_index((path, len(content)) for path, content in files.items())
    return MappedBundle(create_frozen("bundle", [index, *files.values()]))


def mount_links(grants: Iterable[MountGrant]) -> tuple[MountLink, ...]:
    return tuple(
        MountLink(mount=grant.mount, source=grant.source, allow=grant.allow, quota_bytes=grant.quota_bytes)
        for grant in grants
    )


def tree(*mounts: tuple[str, str] | tuple[str, str, Any], files: Mapping[str, bytes] | None = None) -> FileTree:
    """Mounts as (point, source, globs of a bundle or quota of scratch)."""
    links = []
    for point, source, *more in mounts:
        allow = tuple(more[0]) if more and source == "bundle" else ()
        links.append(
            MountLink(
                mount=point, source=source, allow=allow, quota_bytes=more[0] if more and source == "scratch" else 0
            )
        )
    return FileTree(tuple(links), None if files is None else bundle(files))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a program answered; `status` is 0 where it did not."""

    outcome: Outcome
    detail: str
    status: int
    headers: Headers
    body: bytes
    ending: Ending


def ask(
    bench: Bench,
    guest: str | bytes | Path,
    path: str = "/",
    body: bytes = b"",
    *,
    method: str = "GET",
    query: str = "",
    headers: Headers = (),
    files: FileTree | None = None,
    timeout_s: float = 20.0,
    probe: bool = False,
    **grants: Any,
) -> Reply:
    bench.number += 1
    named: dict[str, Any] = {"abi": "command", "entrypoint": "_start", "tenant": "acme", "function": "fn"}
    function = link(**(named | grants))
    ending, in_segment = bench.runner.run(
        number=bench.number,
        function=function,
        prepared=bench.prepare(guest),
        deadline_ns=time.monotonic_ns() + int(timeout_s * SECOND_NS),
        head=encode_request_head(method.encode(), path.encode(), query.encode(), headers),
        body=body,
        line=None,
        answer=bench.answer.view,
        probe=probe,
        files=files,
        request_id=b"r-1",
    )
    message = bytes(bench.answer.view[:in_segment]) if in_segment else ending.response
    if ending.outcome is not Outcome.OK or probe:
        return Reply(outcome=ending.outcome, detail=ending.detail, status=0, headers=(), body=b"", ending=ending)
    response = decode_response(memoryview(message))
    return Reply(
        outcome=ending.outcome,
        detail=ending.detail,
        status=response.status,
        headers=response.headers,
        body=bytes(response.body),
        ending=ending,
    )


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def play(bench: Bench, script: Script, files: FileTree | None = None, **grants: Any) -> tuple[Ending, Told]:
    """What a handler guest is told of a script's calls (`sandbox.puppet`), with these files mounted."""
    bench.number += 1
    ending, in_segment = bench.runner.run(
        number=bench.number,
        function=link(**grants),
        prepared=bench.prepare(puppet()),
        deadline_ns=time.monotonic_ns() + 20 * SECOND_NS,
        head=b"",
        body=script.body(),
        line=None,
        answer=bench.answer.view,
        files=files,
    )
    assert ending.outcome is Outcome.OK, ending.detail
    assert not in_segment
    return ending, read(ending, len(script.steps))

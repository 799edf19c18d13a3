"""Each guest in tests/guests/hostile, in one real sandbox that must outlive them all and serve an honest neighbour.

The comments at a guest's head say how it must end (`expect`) and under what grants it runs; see tests/guests/README.md.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.children import PATIENCE_S, SandboxChild
from sandbox.guests import ROOT, descriptors, model, threads, to_wasm, verdict
from wisp.sandbox.sections import read_facts
from wisp.wire.exchange import decode_response, encode_request_head
from wisp.wire.invocations import MountLink
from wisp.wire.outcome import Outcome

HOSTILE = sorted((ROOT / "tests/guests/hostile").glob("*.wat"))
NEIGHBOUR = ROOT / "tenants/globex/hello/module.wasm"
NUMBERS = {"fuel": "fuel", "memory-bytes": "memory_bytes", "response-bytes": "response_bytes"}
OTHERS = {"expect", "scratch", "timeout-ms", "models", "environment", "on-violation"}
MEMORY_BYTES, LOG_BYTES = 64 << 20, 4096


def head(path: Path) -> dict[str, str]:
    """The `;; key: value` lines before the module."""
    found = dict(re.findall(r"^;; ([a-z-]+): (.*)$", path.read_text().partition("(module")[0], re.MULTILINE))
    assert found.keys() <= NUMBERS.keys() | OTHERS, f"{path.name}: unknown keys"
    return found


def grants(said: dict[str, str]) -> dict[str, Any]:
    given: dict[str, Any] = {"memory_bytes": MEMORY_BYTES, "log_bytes": LOG_BYTES}
    given |= {grant: int(said[key]) for key, grant in NUMBERS.items() if key in said}
    given["models"] = tuple(model(name) for name in said.get("models", "").split())
    given["environment"] = tuple(tuple(pair.split("=", 1)) for pair in said.get("environment", "").split())
    given["trap_on_violation"] = said.get("on-violation", "trap") == "trap"
    if "scratch" in said:
        given["files"] = (
            MountLink(mount="/tmp", source="scratch", quota_bytes=int(said["scratch"])),
            MountLink(mount="/log", source="log"),
        )
    return given


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxChild]:
    made = SandboxChild(tmp_path_factory.mktemp("victim"))
    greet(made)
    yield made
    assert made.finish() == 0, made.stderr
    assert made.stderr == b""


def greet(child: SandboxChild) -> None:
    function = child.link(NEIGHBOUR)
    request = encode_request_head(b"GET", b"/", b"", ())
    ending = child.result(child.send(function, head=request))
    assert verdict(ending, function) is Outcome.OK, ending.detail
    assert b"Globex" in bytes(decode_response(memoryview(ending.response)).body)


def settled_threads(pid: int, most: int) -> int:
    """Threads that deliver a timer's ticks come and go; what stays is counted."""
    until_s = time.monotonic() + PATIENCE_S
    while (count := threads(pid)) > most and time.monotonic() < until_s:
        time.sleep(0.005)
    return count


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
def test_a_hostile_guest_ends_as_it_must_and_harms_nobody(victim: SandboxChild, path: Path) -> None:
    said = head(path)
    pid, open_before = victim.pid, descriptors(victim.pid) - victim.modules
    function = victim.link(path, **grants(said))
    timeout_s = int(said.get("timeout-ms", PATIENCE_S * 1000)) / 1000
    ending = victim.result(victim.send(function, b"body", timeout_s=timeout_s))
    outcome = verdict(ending, function)
    assert outcome == said["expect"], ending.detail
    assert ending.detail.isprintable()
    assert len(ending.logs) <= LOG_BYTES
    assert ending.receipt.memory_peak_bytes <= function.memory_bytes
    assert ending.receipt.fuel <= function.fuel
    if outcome is Outcome.FUEL_EXHAUSTED:
        assert ending.receipt.fuel == function.fuel
    if outcome not in (Outcome.OK, Outcome.INVALID_GUEST_RESPONSE, Outcome.RESPONSE_TOO_LARGE):
        assert ending.response == b""
        assert ending.detail
    greet(victim)
    assert victim.pid == pid
    assert victim.process.poll() is None
    assert descriptors(pid) - victim.modules == open_before
    # Itself, the one that guests run on, and the one that waits for the timer.
    assert settled_threads(pid, 3) <= 3


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
def test_a_hostile_guest_is_read_like_any_other(path: Path) -> None:
    exports = {export.name for export in read_facts(to_wasm(path)).exports}
    assert {"memory", "wisp_alloc", "wisp_handle"} <= exports


def test_every_outcome_that_a_lone_guest_can_bring_about_has_a_guest() -> None:
    expected = {head(path)["expect"] for path in HOSTILE}
    assert expected == set(Outcome) - {Outcome.INFERENCE_TIMEOUT, Outcome.CHILD_LOST}

"""`wisp policy`, as a process of its own: no server, no settings, no network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from platforms import HANDLER_POLICY, REPOSITORY, TENANTS
from wat import handler
from wisp.policy.jsonschema import json_schema
from wisp.policy.parse import parse_policy

POLICIES = REPOSITORY / "policies"


def wisp(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wisp.cli", "policy", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class TestCheck:
    def test_what_is_shipped_is_right(self) -> None:
        documents = [*POLICIES.glob("c*.yaml"), *TENANTS.glob("*/*/policy.yaml")]
        assert len(documents) > 5
        ended = wisp("check", *documents)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    def test_every_fault_of_every_file_has_its_place(self, tmp_path: Path) -> None:
        policy, ceiling = tmp_path / "policy.yaml", tmp_path / "ceiling.yaml"
        policy.write_text("wisp: 1\nabi: handler\nlimits: {fule: 1G, memory: lots}\n")
        ceiling.write_text((POLICIES / "ceiling.yaml").read_text().replace("clock: real", "clock: sun"))
        ended = wisp("check", policy, ceiling, tmp_path / "missing.yaml")
        lines = ended.stdout.splitlines()
        assert ended.returncode == 1
        assert lines[0].startswith(f"{policy}:3:10: limits.fule: unknown key")
        assert lines[1].startswith(f"{policy}:3:28: limits.memory: ")
        assert lines[2].startswith(f"{ceiling}:")
        assert ": clock: " in lines[2]
        assert lines[3].startswith(f"{tmp_path / 'missing.yaml'}:1:1: ")
        assert lines[4] == "4 faults in 3 files"


class TestExplain:
    def test_a_module_alone(self) -> None:
        ended = wisp("explain", TENANTS / "acme" / "digits" / "module.wasm")
        assert ended.returncode == 1  # it needs models, and nothing was granted
        assert "no   wasi_ephemeral_nn.load_by_name: needs models or inline_models" in ended.stdout
        assert "refused:" in ended.stdout
        least = ended.stdout.partition("least policy:\n")[2]
        assert parse_policy(least.replace("\n  ", "\n").encode()).models

    def test_a_module_under_its_policy(self) -> None:
        folder = TENANTS / "globex" / "classify"
        ended = wisp("explain", folder / "module.wasm", folder / "policy.yaml", "--json")
        found = json.loads(ended.stdout)
        assert (ended.returncode, found["refused"]) == (0, [])
        assert {"wasi_ephemeral_nn.compute", "wasi_snapshot_preview1.path_open"} <= {
            row["import"] for row in found["imports"] if row["by"]
        }

    def test_other_ceilings_and_classes(self, tmp_path: Path) -> None:
        module, policy = tmp_path / "module.wasm", tmp_path / "policy.yaml"
        module.write_bytes(handler("(i64.const 0)"))
        policy.write_bytes(HANDLER_POLICY + b"limits: {fuel: 3G}\n")
        assert wisp("explain", module, policy).returncode == 1
        assert wisp("explain", module, policy, "--class", "standard").returncode == 0
        shown = wisp("explain", module, policy, "--policies", tmp_path)
        assert shown.returncode == 1
        assert "cannot be read" in shown.stdout

    def test_what_is_no_module(self, tmp_path: Path) -> None:
        (tmp_path / "module.wasm").write_text("(module)")
        for module in (tmp_path / "module.wasm", tmp_path / "missing.wasm"):
            ended = wisp("explain", module)
            assert (ended.returncode, ended.stdout) == (2, "")
            assert ended.stderr.startswith("wisp: ")
            assert len(ended.stderr.splitlines()) == 1


class TestDiff:
    def test_what_is_gained_and_lost(self) -> None:
        ended = wisp("diff", POLICIES / "class-free.yaml", POLICIES / "class-standard.yaml")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "+ limits.fuel: 2G -> 10G" in ended.stdout.splitlines()
        back = wisp("diff", POLICIES / "class-standard.yaml", POLICIES / "class-free.yaml")
        assert "- quota.burst: 2000 -> 200" in back.stdout.splitlines()
        assert wisp("diff", POLICIES / "ceiling.yaml", POLICIES / "ceiling.yaml").stdout == ""

    def test_what_cannot_be_compared(self, tmp_path: Path) -> None:
        (tmp_path / "broken.yaml").write_text("wisp: 2\n")
        for other in (POLICIES / "class-free.yaml", tmp_path / "broken.yaml", tmp_path / "missing.yaml"):
            ended = wisp("diff", POLICIES / "ceiling.yaml", other)
            assert (ended.returncode, ended.stdout) == (2, "")
            assert ended.stderr.startswith("wisp: ")


@pytest.mark.parametrize("kind", ["policy", "ceiling", "class"])
def test_schemas_are_printed(kind: str) -> None:
    ended = wisp("schema", *([] if kind == "policy" else [kind]))
    assert json.loads(ended.stdout) == json_schema(kind)  # type: ignore[arg-type]

"""What a running sandbox takes from this room comes without pydantic and YAML."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = ["admission", "capabilities", "choices", "facts", "grants", "hosts", "modelref", "narrowing", "offer", "paths"]


@pytest.mark.parametrize("module", [*LIGHT, "plain", "quantity", "shown"])
def test_imports_neither_pydantic_nor_yaml(module: str) -> None:
    heavy = "{'pydantic', 'yaml', 'redis', 'wasmtime'}"
    code = f"import sys, wisp.policy.{module}; print(*sorted({heavy} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == []

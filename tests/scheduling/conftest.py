"""Real child processes, on an event loop, from an empty directory of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from wisp.scheduling.children import make_empty_directory


@pytest.fixture
def empty_directory(tmp_path: Path) -> Path:
    return make_empty_directory(tmp_path)

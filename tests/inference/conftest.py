from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.peers import Router


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    """A host of two threads; it must end cleanly and have said nothing that a test does not expect."""
    made = Router(tmp_path, threads=2)
    yield made
    assert made.finish() == 0
    assert list(tmp_path.iterdir()) == []

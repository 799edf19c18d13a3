"""Fixtures for whole nodes, in this process. What needs only one room has its fixtures beside its tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from platforms import OPERATOR_KEY, REPOSITORY, Tenancy
from wisp.node import Node
from wisp.settings import Settings

SHARED_DATA = REPOSITORY.parent / "shared" / "data"

# The machine decides how long an example takes; no test is a stopwatch.
hypothesis_settings.register_profile("wisp", deadline=None)
hypothesis_settings.load_profile("wisp")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real models and photos, too large and not ours to have in the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs ../shared/data: real models and photos")
    return SHARED_DATA


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A node with two sandboxes, its own Redis and an empty registry."""
    settings = Settings.load(
        {"data_dir": str(tmp_path / "data"), "workers": "2"}, environ={"WISP_OPERATOR_KEY": OPERATOR_KEY}
    )
    async with Node(settings) as started:
        yield started


@pytest.fixture
async def acme(node: Node) -> Tenancy:
    return await Tenancy.create(node, "acme", "standard")


@pytest.fixture
async def globex(node: Node) -> Tenancy:
    return await Tenancy.create(node, "globex", "free")

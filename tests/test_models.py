"""Models on a node: admitted once, prepared for its processes, made ready again after the cache was wiped."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from inference.test_probe import ENDLESS, gemm
from platforms import REPOSITORY
from wisp.errors import InvalidModel
from wisp.names import parse_model
from wisp.node import Node
from wisp.registry.records import Model

LARGE = gemm(600).SerializeToString()
SMALL = REPOSITORY / "tests" / "models" / "tiny" / "batch_rows.onnx"


async def push(node: Node, data: bytes, name: str = "model") -> Model:
    with tempfile.NamedTemporaryFile(dir=node.staging) as file:
        file.write(data)
        file.flush()
        model, _ = await node.model_uploads.push(tenant=None, model=parse_model(name), file=Path(file.name))
    return model


def weights_mapped(node: Node) -> bool:
    return "weights.bin" in Path(f"/proc/{node.host.pid}/maps").read_text()


@pytest.fixture
async def large(node: Node) -> Model:
    return await push(node, LARGE)


async def test_the_record_tells_what_the_probe_found(node: Node, large: Model) -> None:
    assert large.probe is not None
    assert large.probe.latency_us > 0
    assert large.probe.batch_latency_us > 0
    stored = await node.registry.models.get(None, large.name)
    assert stored == large


async def test_a_large_model_s_weights_are_mapped(node: Node, large: Model) -> None:
    await node.host.ensure((large.digest,))
    assert weights_mapped(node)
    assert list((node.data_dir / "models" / "rooms").glob("*/*")) == []  # open: nothing is shown any more


async def test_a_small_model_is_opened_as_it_is(node: Node) -> None:
    model = await push(node, SMALL.read_bytes())
    await node.host.ensure((model.digest,))
    assert not weights_mapped(node)


async def test_a_wiped_cache_is_filled_again_before_the_first_load(node: Node, large: Model) -> None:
    entries = [path for path in (node.data_dir / "models").iterdir() if path.name != "rooms"]
    assert len(entries) == 1
    shutil.rmtree(entries[0])
    await node.host.ensure((large.digest,))
    assert weights_mapped(node)
    assert (entries[0] / "entry.json").is_file()


async def test_a_model_that_is_admitted_no_more_still_opens(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator narrowed the ceiling since: functions that pinned it go on."""
    model = await push(node, LARGE)
    shutil.rmtree(next(path for path in (node.data_dir / "models").iterdir() if path.name != "rooms"))

    async def refuse(*_: object) -> None:
        raise InvalidModel("the model was refused: larger than it may be now")

    monkeypatch.setattr(node.stores.models, "_judge", refuse)
    await node.host.ensure((model.digest,))
    assert node.host.has((model.digest,))
    assert not weights_mapped(node)


async def test_the_next_host_maps_them_too(node: Node, large: Model) -> None:
    await node.host.ensure((large.digest,))
    former = node.host.pid
    assert former is not None
    assert node.host._child is not None
    node.host._child.kill("the test says so")
    await node.host.ensure((large.digest,))
    assert node.host.pid != former
    assert weights_mapped(node)


async def test_the_ceiling_s_control_flow_is_asked(node: Node) -> None:
    """As shipped it is `loops`."""
    assert node.ceilings.ceiling.models.control_flow == "loops"
    assert (await push(node, ENDLESS)).digest.startswith("sha256:")

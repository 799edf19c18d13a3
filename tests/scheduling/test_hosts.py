"""The inference host as the router keeps it: what one failure leaves behind for the requests after it."""

from __future__ import annotations

import errno

import pytest

from platforms import TINY_MODELS, Tenancy
from wisp.errors import ModelLoading
from wisp.names import Digest
from wisp.node import Node
from wisp.scheduling.hosts import OpenedModel
from wisp.scheduling.rooms import Room


async def test_a_model_that_could_not_be_read_once_is_read_by_the_next(
    node: Node, acme: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await acme.push_model("rows", TINY_MODELS / "batch_rows.onnx")
    (model,) = await node.registry.models.list(acme.name)

    async def broken(digest: Digest, room: Room) -> OpenedModel:
        raise OSError(errno.EIO, "the disk fails")

    with monkeypatch.context() as failing:
        failing.setattr(node.host, "_open_model", broken)
        with pytest.raises(ModelLoading, match="cannot be read now"):
            await node.host.ensure((model.digest,))
    await node.host.ensure((model.digest,))
    assert node.host.has((model.digest,))

"""The inference host as the router keeps it: what one failure leaves behind for the requests after it."""

from __future__ import annotations

import asyncio
import errno
import os
import signal

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


async def test_a_load_that_its_host_did_not_live_to_see_leaves_the_next_ones_alone(
    node: Node, acme: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await acme.push_model("rows", TINY_MODELS / "batch_rows.onnx")
    (model,) = await node.registry.models.list(acme.name)
    host, opening, begun, gate = node.host, node.host._open_model, asyncio.Semaphore(0), asyncio.Event()

    async def held_up(digest: Digest, room: Room) -> OpenedModel:
        begun.release()
        await gate.wait()
        return await opening(digest, room)

    monkeypatch.setattr(host, "_open_model", held_up)
    async with asyncio.timeout(30):
        first = asyncio.create_task(host.ensure((model.digest,)))
        await begun.acquire()
        assert host.pid is not None
        os.kill(host.pid, signal.SIGKILL)
        with pytest.raises(ModelLoading):
            await first
        while not host.ready:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(host.ensure((model.digest,)))
        await begun.acquire()
        gate.set()
        await second
        assert host.has((model.digest,))
        while host._sending:
            await asyncio.sleep(0.01)
    assert not host._residents.is_leased(model.digest)

"""Tenants' own models run in processes of their own; what happens there stays there."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from inference.onnx_models import huge_product
from inference.peers import Router
from platforms import TINY_MODELS, Tenancy
from sandbox.pair import Talk, floats
from test_nn import INFER, ask, entries, grant, play, puppet_of_a_node
from wisp.errors import ModelLoading
from wisp.names import parse_model
from wisp.node import Node
from wisp.pools import OWN_HOST
from wisp.sandbox.nn import Errno
from wisp.scheduling import appetites, tenanthosts
from wisp.scheduling.appetites import LONG_NICENESS
from wisp.scheduling.hosts import SHARED_PATIENCE_S, InferenceHost
from wisp.scheduling.tenanthosts import TenantHosts
from wisp.wire.inferences import Status
from wisp.wire.tensors import ElementType

ROWS = "graph=batch_rows&type=f32&dims=1,4"


def host_of(node: Node, tenant: Tenancy) -> InferenceHost:
    host = node.own_hosts.get(tenant.name)
    assert host is not None
    return host


async def share(node: Node, name: str) -> None:
    file = TINY_MODELS / f"{name}.onnx"
    await node.model_uploads.push(tenant=None, model=parse_model(name.replace("_", "-")), file=file)


async def test_each_tenants_models_are_in_a_process_of_their_own(node: Node, acme: Tenancy, globex: Tenancy) -> None:
    for tenant in (acme, globex):
        await grant(tenant, "batch_rows")
        await tenant.deploy("infer", INFER, entries("batch_rows"))
        assert await ask(tenant, "infer", floats(1, 2, 3, 4), ROWS) == (200, floats(4, 6))
    model = await node.registry.models.get(acme.name, parse_model("batch-rows"))
    assert not node.host.has((model.digest,))
    assert len({node.host.pid, host_of(node, acme).pid, host_of(node, globex).pid}) == 3


async def test_the_operators_models_are_in_the_shared_process(node: Node, acme: Tenancy) -> None:
    await share(node, "batch_rows")
    await acme.deploy("infer", INFER, entries("batch_rows"))
    assert await ask(acme, "infer", floats(1, 2, 3, 4), ROWS) == (200, floats(4, 6))
    assert len(node.own_hosts) == 0


async def test_one_guest_uses_models_of_both_kinds_at_once(node: Node, acme: Tenancy) -> None:
    await share(node, "two_io")
    await grant(acme, "identity_f32")
    await acme.deploy("puppet", puppet_of_a_node(), entries("two_io", "identity_f32"))
    talk = Talk().open("two_io", "identity_f32")
    talk.set_input(0, 0, (2, 2), ElementType.F32, floats(1, 2, 3, 4))
    talk.set_input(1, 0, (4,), ElementType.F32, floats(5, 6, 7, 8))
    talk.set_input(0, 1, (2, 2), ElementType.F32, floats(10, 10, 10, 10))
    talk.compute(1)
    talk.compute(0)
    talk.get_output(0, 0, at=Talk.BUFFER)
    talk.get_output(1, 0, at=Talk.BUFFER + 64)
    for _ in range(3):
        told = await play(acme, talk)
        assert set(told.errnos) == {Errno.SUCCESS}
        assert told.at(Talk.BUFFER, 16) == floats(11, 12, 13, 14)
        assert told.at(Talk.BUFFER + 64, 16) == floats(5, 6, 7, 8)
    reply = await acme.call("puppet", talk.body())
    assert reply.receipt.inferences == 2
    assert reply.receipt.nn_ns > 0


async def test_a_dead_host_costs_its_tenant_only_what_was_in_it(node: Node, acme: Tenancy, globex: Tenancy) -> None:
    for tenant in (acme, globex):
        await grant(tenant, "batch_rows", "endless")
        await tenant.deploy("infer", INFER, entries("batch_rows", "endless"))
        await ask(tenant, "infer", floats(1, 2, 3, 4), ROWS)
    host = host_of(node, acme)
    former = host.pid
    assert former is not None
    lost = asyncio.create_task(ask(acme, "infer", floats(1), "graph=endless&type=f32&dims=1"))
    async with asyncio.timeout(30):
        while not any(slot.busy for slot in node.sandboxes.slots):
            await asyncio.sleep(0.005)
        os.kill(former, signal.SIGKILL)
        for _ in range(5):
            assert await ask(globex, "infer", floats(1, 2, 3, 4), ROWS) == (200, floats(4, 6))
        assert (await lost)[0] == 502
        while not host.ready or host.pid == former:
            await asyncio.sleep(0.01)
    assert await ask(acme, "infer", floats(1, 2, 3, 4), ROWS) == (200, floats(4, 6))
    assert (host_of(node, globex).restarts, node.host.restarts, node.own_hosts.restarts) == (0, 0, 1)


async def test_sandboxes_change_lines_as_tenants_take_turns(node: Node, acme: Tenancy, globex: Tenancy) -> None:
    for tenant in (acme, globex):
        await grant(tenant, "batch_rows")
        patient = b"concurrency: {queue_timeout: 30s}\n"
        await tenant.deploy("infer", INFER, entries("batch_rows", more=patient))

    async def one(tenant: Tenancy, number: int) -> None:
        answer = await ask(tenant, "infer", floats(number, 1, 0, number), ROWS)
        assert answer == (200, floats(number, number + 1))

    await asyncio.gather(*(one(tenant, number) for number in range(20) for tenant in (acme, globex)))


async def test_the_one_used_longest_ago_makes_room_and_those_in_use_do_not(
    node: Node, acme: Tenancy, globex: Tenancy
) -> None:
    hosts = TenantHosts(node.own_hosts.make, most=1)
    try:
        await hosts.ensure(acme.name, ())
        first = hosts.get(acme.name)
        with hosts.lease(acme.name, ()), pytest.raises(ModelLoading):
            await hosts.ensure(globex.name, ())
        assert hosts.get(acme.name) is first
        await hosts.ensure(globex.name, ())
        assert hosts.get(acme.name) is None
        assert len(hosts) == 1
    finally:
        await hosts.stop()


async def test_an_idle_one_is_ended(node: Node, acme: Tenancy) -> None:
    hosts = TenantHosts(node.own_hosts.make, most=4, idle_s=0.01)
    running = asyncio.create_task(hosts.run())
    try:
        await hosts.ensure(acme.name, ())
        host = hosts.get(acme.name)
        async with asyncio.timeout(30):
            while len(hosts):
                await asyncio.sleep(0.01)
        assert host is not None
        async with asyncio.timeout(30):
            while host.pid is not None:
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await hosts.stop()


def urgencies(host: InferenceHost) -> set[int]:
    """Niceness of its threads: proc(5), /proc/pid/stat, field 19."""
    return {
        int((task / "stat").read_text().rpartition(")")[2].split()[16])
        for task in Path(f"/proc/{host.pid}/task").iterdir()
    }


async def test_one_that_used_more_than_its_share_is_slowed_down_until_it_has_made_up_for_it(
    node: Node, acme: Tenancy, globex: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await grant(acme, "batch_rows")
    models = ((await node.registry.models.get(acme.name, parse_model("batch-rows"))).digest,)
    monkeypatch.setattr(tenanthosts, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(appetites, "CALM_NS", 0)
    hosts = TenantHosts(node.own_hosts.make, most=4)
    running = asyncio.create_task(hosts.run())
    try:
        for tenant in (acme, globex):
            await hosts.ensure(tenant.name, models if tenant is acme else ())
            with hosts.lease(tenant.name, ()):
                pass
        first, other = hosts.get(acme.name), hosts.get(globex.name)
        assert first is not None
        assert other is not None
        usual = urgencies(first)
        assert max(usual) < LONG_NICENESS
        with hosts.lease(acme.name, models):
            with monkeypatch.context() as hungry:
                hungry.setattr(appetites, "MOST_NS", -1)
                with hosts.lease(acme.name, models):
                    pass
            assert urgencies(first) == {LONG_NICENESS}
            assert urgencies(other) == usual
            await asyncio.sleep(0.1)  # it is calm at once, but used: nobody takes over
            assert hosts.get(acme.name) is first
        async with asyncio.timeout(30):
            while (second := hosts.get(acme.name)) is first:
                await asyncio.sleep(0.01)
            while first.pid is not None:
                await asyncio.sleep(0.01)
        assert second is not None
        assert second.ready
        assert second.has(models)
        assert urgencies(second) == usual
        assert hosts.get(globex.name) is other
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await hosts.stop()


async def test_the_shared_process_too_has_an_end_to_its_patience(node: Node) -> None:
    """How it ends is below; that it takes whoever infers there along is why it has more of it."""
    arguments = Path(f"/proc/{node.host.pid}/cmdline").read_bytes().split(b"\0")
    options = next(json.loads(argument)["options"] for argument in arguments if argument.startswith(b"{"))
    assert options["patience_ns"] == SHARED_PATIENCE_S * 1e9 > OWN_HOST.patience_s * 1e9


def test_a_kernel_that_cannot_be_stopped_ends_the_process(tmp_path: Path) -> None:
    """One multiplication of large matrices, which no flag interrupts."""
    router = Router(tmp_path, threads=1, patience_ns=50_000_000)
    router.load("huge", huge_product())
    router.bind(1, "huge")
    sandbox = router.slot(0)
    router.open(sandbox, 7, deadline_s=0.2)
    sandbox.start(7, np.array([6000, 6000], np.int64))
    assert sandbox.answer(7).status is Status.DEADLINE
    assert router.channel.receive() is None
    router.finish()
    assert b"cannot be stopped" in router.stderr

"""A version is ready before it answers; the former is let go when its last request ends, and not before."""

from __future__ import annotations

import asyncio
import logging

import pytest

from platforms import Tenancy
from test_dispatch import until
from wat import answering, handler
from wisp.names import Digest, parse_function
from wisp.node import Node
from wisp.prewarm import Prewarmer
from wisp.registry.records import Entry
from wisp.wire.outcome import Outcome

FN = parse_function("fn")
SLOW = handler("(loop $again (br $again)) (unreachable)")
ENDLESS = b"wisp: 1\nabi: handler\nlimits: {timeout: 1500ms, fuel: 10G}\n"


def linked(node: Node, module: Digest) -> list[bool]:
    """For each sandbox, whether it holds that module."""
    return [module in slot.loaded for slot in node.sandboxes.slots]


async def entry(acme: Tenancy) -> Entry:
    found = await acme.node.registry.functions.entry(acme.name, FN)
    assert found is not None
    return found


async def activate(acme: Tenancy, number: int) -> None:
    await acme.node.registry.functions.activate(acme.name, FN, number)
    await acme.node.snapshot.settle(acme.name, FN)


def prewarmer(node: Node, *, switch_s: float) -> Prewarmer:
    return Prewarmer(
        plans=node.dispatcher.plans,
        functions=node.registry.functions,
        code=node.stores.code,
        bundles=node.stores.bundles,
        hostfiles=node.stores.hostfiles,
        host=node.host,
        own_hosts=node.own_hosts,
        sandboxes=node.sandboxes,
        ceilings=lambda: node.ceilings,
        switch_s=switch_s,
    )


async def test_a_switch_leaves_the_new_module_in_the_free_sandboxes_and_takes_the_old_one_out(
    node: Node, acme: Tenancy
) -> None:
    one = (await acme.deploy("fn", answering(b"one"))).version
    assert (await acme.call("fn")).body == b"one"
    two = (await acme.deploy("fn", answering(b"two"), activate=False)).version
    assert any(linked(node, one.module))
    await activate(acme, 2)
    assert all(linked(node, two.module))
    assert (await acme.call("fn")).body == b"two"
    assert not any(linked(node, one.module))


async def test_a_request_in_flight_ends_on_its_own_version_which_is_released_then(node: Node, acme: Tenancy) -> None:
    one = (await acme.deploy("fn", SLOW, ENDLESS)).version
    await acme.deploy("fn", answering(b"two"), activate=False)
    running = asyncio.create_task(acme.call("fn"))
    await until(lambda: any(slot.busy for slot in node.sandboxes.slots))
    await activate(acme, 2)
    assert (await acme.call("fn")).body == b"two"
    assert not running.done()
    assert any(linked(node, one.module))
    ended = await running
    assert (ended.outcome, ended.version) == (Outcome.DEADLINE_EXCEEDED, 1)
    await until(lambda: not any(linked(node, one.module)))
    assert not node.dispatcher.plans._in_use


async def test_a_version_that_does_not_get_ready_does_not_keep_the_former_for_ever(
    node: Node, acme: Tenancy, caplog: pytest.LogCaptureFixture
) -> None:
    await acme.deploy("fn", answering(b"one"))
    two = (await acme.deploy("fn", answering(b"two"), activate=False)).version
    assert (await acme.call("fn")).body == b"one"
    node.snapshot.prepare = prewarmer(node, switch_s=0.05).warm
    async with node.stores.code.compilers._turns.take("another"):  # nothing is compiled meanwhile
        node.stores.code.cache.drop(two.module)
        node.stores.code.cache._path(two.module).unlink()
        with caplog.at_level(logging.WARNING):
            await activate(acme, 2)
        assert "fn@2 answers from now on, though it is not ready" in caplog.text
        waiting = asyncio.create_task(acme.call("fn"))
        await asyncio.sleep(0)
    assert (await waiting).body == b"two"


async def test_what_cannot_be_had_is_told_and_tried_again(
    node: Node, acme: Tenancy, caplog: pytest.LogCaptureFixture
) -> None:
    two = (await acme.deploy("fn", answering(b"two"))).version
    assert await node.stores.blobs.delete(two.module)
    node.stores.code.cache.drop(two.module)
    node.stores.code.cache._path(two.module).unlink()
    with caplog.at_level(logging.WARNING):
        warming = asyncio.create_task(prewarmer(node, switch_s=20).warm(await entry(acme)))
        await until(lambda: "fn@1 is not ready to answer" in caplog.text)
        await node.stores.blobs.put_bytes(answering(b"two"))
        await warming
    assert node.stores.code.cache.peek(two.module) is not None
    assert "answers from now on, though" not in caplog.text

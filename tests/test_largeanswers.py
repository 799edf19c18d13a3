"""Answers and tensors of megabytes: whole, gone afterwards, and of no weight on whoever comes next."""

from __future__ import annotations

import asyncio
import os
from itertools import cycle, islice

import pytest

from platforms import HANDLER_POLICY, Tenancy
from test_nn import INFER, ask, entries, grant
from wat import answering, handler
from wisp.node import Node
from wisp.sandbox.main import MANY_TENSOR_BYTES
from wisp.scheduling import slots
from wisp.wire.outcome import Outcome
from wisp.wire.segments import Segment

BODY_BYTES = 3 << 20
LIMITS = b"limits: {request_body: 8Mi, response_body: 8Mi, memory: 64Mi, timeout: 10s}\n"
LARGE = f"""(memory.fill (i32.const 131072) (i32.const 97) (i32.const {BODY_BYTES}))
  (i32.store (i32.const 131060) (i32.const 1)) (i32.store (i32.const 131064) (i32.const 200))
  (i64.const {131060 << 32 | BODY_BYTES + 12})"""
"""A response of that many letters: the version and status before them, and no headers."""


async def deploy_large(tenant: Tenancy) -> None:
    await tenant.deploy("large", handler(LARGE, memory='(memory (export "memory") 64)'), HANDLER_POLICY + LIMITS)


def answers_taken(node: Node) -> int:
    """Bytes that lie in the sandboxes' answer segments."""
    return sum(os.fstat(slot._answer.fd).st_blocks * 512 for slot in node.sandboxes.slots)


async def test_a_large_answer_is_whole_and_leaves_nothing_behind(node: Node, acme: Tenancy, globex: Tenancy) -> None:
    await deploy_large(acme)
    await globex.deploy("hello", answering(b"hi"))
    calls = [acme.call("large") if kind else globex.call("hello") for kind in islice(cycle((1, 0)), 12)]
    replies = await asyncio.gather(*calls)
    assert {reply.body for reply in replies} == {b"a" * BODY_BYTES, b"hi"}
    assert answers_taken(node) == 0
    large, hello = node.sandboxes.times.of("acme", "large"), node.sandboxes.times.of("globex", "hello")
    assert large.own.mean_ns == large.mean_ns  # it holds its sandbox until the router has all of it
    assert hello.own.mean_ns < hello.mean_ns


async def test_a_process_that_dies_while_its_answer_is_taken_costs_that_answer_alone(
    node: Node, acme: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    taking: list[int] = []

    async def never(segment: Segment, used_bytes: int) -> memoryview:
        taking.append(used_bytes)
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    await deploy_large(acme)
    monkeypatch.setattr(slots, "take_out", never)
    call = asyncio.create_task(acme.call("large"))
    async with asyncio.timeout(30):
        while not taking:
            await asyncio.sleep(0.01)
    monkeypatch.undo()
    (busy,) = [slot for slot in node.sandboxes.slots if slot.busy]
    busy.kill("as if it had died")
    reply = await call
    assert reply.outcome is Outcome.CHILD_LOST
    assert (await acme.call("large")).body == b"a" * BODY_BYTES
    assert answers_taken(node) == 0


async def test_many_tensors_are_given_back_by_the_sandbox_that_used_them(node: Node, acme: Tenancy) -> None:
    await grant(acme, "identity_f32")
    policy = entries("identity_f32", more=LIMITS)
    await acme.deploy("infer", INFER, policy)
    tensor = os.urandom(MANY_TENSOR_BYTES + 4)
    query = f"graph=identity_f32&type=f32&dims={len(tensor) // 4}"
    status, answer = await ask(acme, "infer", tensor, query)
    assert (status, answer == tensor) == (200, True)
    held = [slot._lines.own._tensors for slot in node.sandboxes.slots if slot._lines.own._tensors >= 0]
    assert [os.fstat(fd).st_blocks for fd in held] == [0]

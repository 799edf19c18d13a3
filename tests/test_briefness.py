"""What a node takes a function for: one whose runs hold a sandbox briefly, or one to wait behind others."""

from __future__ import annotations

import asyncio
import contextlib

from platforms import HANDLER_POLICY, Tenancy
from wat import LOOP, answering, handler
from wisp.node import Node
from wisp.scheduling.runtimes import BRIEF_NS, RunTime

POLL = '(import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))'
SLEEP = """(i32.store (i32.const 4112) (i32.const 1)) (i64.store (i32.const 4120) (i64.const 1000000000))
  (drop (call $poll (i32.const 4096) (i32.const 8192) (i32.const 1) (i32.const 8300)))"""
"""A second on the monotonic clock."""


def runtime(node: Node, tenancy: Tenancy, function: str) -> RunTime:
    return node.sandboxes.times.of(tenancy.name, function)


async def test_a_guest_that_sleeps_is_not_brief_though_it_uses_nothing(node: Node, acme: Tenancy) -> None:
    await acme.deploy("sleeps", answering(b"x", work=SLEEP, before=POLL), HANDLER_POLICY)
    reply = await acme.call("sleeps")
    assert reply.body == b"x"
    known = runtime(node, acme, "sleeps")
    assert (known.runs, known.brief) == (1, False)
    assert known.own.high_ns > BRIEF_NS
    assert known.cpu_ns < known.own.mean_ns


async def test_a_guest_that_was_cut_off_is_judged_by_the_clock(node: Node, acme: Tenancy) -> None:
    """However little of a core it had by then, and only as far as that makes it no shorter: a loop whose callers hang
    up would else pass for brief, and hold every sandbox."""
    await acme.deploy("loop", handler(LOOP), HANDLER_POLICY + b"limits: {fuel: 10G, timeout: 10s}\n")
    known = runtime(node, acme, "loop")
    call = asyncio.create_task(acme.call("loop"))
    async with asyncio.timeout(30):
        while not any(slot.busy for slot in node.sandboxes.slots):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        while any(slot.busy for slot in node.sandboxes.slots):
            await asyncio.sleep(0.01)
    assert known.own.mean_ns == known.mean_ns
    assert not known.brief


async def test_a_guest_that_answers_at_once_is(node: Node, acme: Tenancy) -> None:
    await acme.deploy("quick", answering(b"x"), HANDLER_POLICY)
    known = runtime(node, acme, "quick")
    for _ in range(200):
        await acme.call("quick")
        if known.brief:
            break
    assert known.brief
    assert known.own.mean_ns <= known.mean_ns

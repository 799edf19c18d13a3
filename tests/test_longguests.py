"""What happens to a guest that runs long, and to the process that it runs in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from platforms import HANDLER_POLICY, Tenancy
from wat import LOOP, answering, handler
from wisp.node import Node
from wisp.scheduling import slots, stops
from wisp.scheduling.appetites import LONG_NICENESS
from wisp.scheduling.runtimes import HEAVY_NS
from wisp.wire.invocations import STOP
from wisp.wire.outcome import Outcome, Receipt

PATIENCE_S = 30.0
SLOW_POLICY = HANDLER_POLICY + b"limits: {fuel: 10G, timeout: 10s}\n"
FUEL, TIMEOUT_NS = 10_000_000_000, 10_000_000_000


def urgencies(node: Node) -> list[int]:
    """Niceness of each thread of each sandbox: proc(5), /proc/pid/stat, field 19."""
    found = []
    for slot in node.sandboxes.slots:
        for task in Path(f"/proc/{slot.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                found.append(int((task / "stat").read_text().rpartition(")")[2].split()[16]))
    return found


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def long_guest(node: Node, acme: Tenancy) -> AsyncIterator[None]:
    """One runs and was slowed down; at the end its caller hangs up."""
    await acme.deploy("slow", handler(LOOP), SLOW_POLICY)
    call = asyncio.create_task(acme.call("slow"))
    await until(lambda: LONG_NICENESS in urgencies(node))
    yield
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call


def idle(node: Node) -> bool:
    return all(slot.ready and not slot.busy for slot in node.sandboxes.slots)


async def test_a_guest_that_runs_long_is_slowed_down_and_its_successor_is_not(
    node: Node, acme: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "ABANDON_S", PATIENCE_S)  # on a busy machine too it is stopped, not killed
    await acme.deploy("hello", answering(b"hi"))
    usual, pids = max(urgencies(node)), [slot.pid for slot in node.sandboxes.slots]
    assert usual < LONG_NICENESS
    async with long_guest(node, acme):
        assert urgencies(node).count(LONG_NICENESS) == 1
        assert (await acme.call("hello")).outcome is Outcome.OK
    await until(lambda: idle(node) and max(urgencies(node)) == usual)
    for _ in pids:
        assert (await acme.call("hello")).body == b"hi"
    assert max(urgencies(node)) == usual
    assert [slot.pid for slot in node.sandboxes.slots] == pids


async def test_a_guest_whose_caller_hangs_up_is_stopped_and_its_process_goes_on(
    node: Node, acme: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "ABANDON_S", PATIENCE_S)
    bills: list[Receipt] = []
    monkeypatch.setattr(node.dispatcher, "_note_abandoned", lambda *arguments: bills.append(arguments[-1]))
    pids = [slot.pid for slot in node.sandboxes.slots]
    async with long_guest(node, acme):
        pass
    await until(lambda: idle(node))
    assert len(bills) == 1
    assert 0 < bills[0].fuel < FUEL
    assert bills[0].guest_ns < TIMEOUT_NS  # none of its own limits was what ended it
    assert [slot.pid for slot in node.sandboxes.slots] == pids
    assert (node.sandboxes.restarts, node.sandboxes.kills) == (0, 0)
    await acme.deploy("hello", answering(b"hi"))
    assert (await acme.call("hello")).body == b"hi"


async def test_one_that_cannot_be_stopped_ends_with_its_process(
    node: Node, acme: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "ABANDON_S", 0.0)  # as if it sat in a host call: it does not hear of it
    async with long_guest(node, acme):
        monkeypatch.setattr(stops, "STOP", SimpleNamespace(pack=lambda number, unbegun: STOP.pack(number + 1, unbegun)))
    monkeypatch.undo()
    await until(lambda: node.sandboxes.restarts == 1 and idle(node))


async def test_a_sandbox_is_not_counted_until_its_process_is_ready_again(node: Node) -> None:
    await until(lambda: idle(node))
    shares = node.sandboxes._shares
    for number, slot in enumerate(node.sandboxes.slots, start=1):
        slot.kill("the test wants it")
        assert shares.missing == number
    await until(lambda: idle(node))
    assert shares.missing == 0


async def test_a_function_whose_callers_always_hang_up_is_known_for_what_it_computes(
    node: Node, acme: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "ABANDON_S", PATIENCE_S)
    await acme.deploy("slow", handler(LOOP), SLOW_POLICY)
    for _ in range(2):
        call = asyncio.create_task(acme.call("slow"))
        await until(lambda: any(slot.busy and slot.cpu_ns() > 5 * HEAVY_NS for slot in node.sandboxes.slots))
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        await until(lambda: idle(node))
    known = node.sandboxes.times.of("acme", "slow")
    assert known.heavy
    call = asyncio.create_task(acme.call("slow"))  # which leaves before it has used anything worth mention
    await asyncio.sleep(0)
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    await until(lambda: idle(node))
    assert known.heavy

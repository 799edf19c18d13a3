"""The usage ledger: its sums are those of the receipts, whatever dies or is away meanwhile."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from platforms import HANDLER_POLICY, Tenancy
from wat import LOOP, answering, handler
from wisp.errors import RegistryUnavailable, TooManyInflight
from wisp.ledger import AT_ONCE, INTERVAL_S, LONGEST_S, PAUSE, Ledger, pause_s
from wisp.names import TenantName, parse_class, parse_function, parse_tenant
from wisp.node import Node
from wisp.registry.usage import METRICS, Place, Usage, Use
from wisp.scheduling.jobs import Job
from wisp.wire.outcome import Ending, Outcome, Receipt

HELLO = parse_function("hello")
RECEIPT = Receipt(fuel=7, nn_fuel=3, cpu_ns=11, nn_ns=3, inferences=1, tensor_bytes=9, bytes_in=2, bytes_out=5)
SUMS = [getattr(RECEIPT, name) for name in METRICS]
PATIENCE_S = 30.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.02)


async def billed(node: Node, tenant: TenantName) -> dict[str, Use]:
    """By function, over all hours."""
    total: dict[str, Use] = {}
    places = await node.registry.usage.places(tenant, 0, 2**40, 1000)
    for (_, function), use in await node.registry.usage.read(tenant, places):
        mine = total.setdefault(function, Use())
        for outcome, count in use.outcomes.items():
            mine.add(outcome, count, (0,) * len(mine.sums))
        mine.sums = [have + more for have, more in zip(mine.sums, use.sums, strict=True)]
    return total


class Flaky(Usage):
    """Redis as it can be: takes a batch and loses the answer, or cannot be reached at all."""

    def __init__(self, inner: Usage) -> None:
        super().__init__(inner.connection)
        self.lose = self.away = False
        self.losing: TenantName | None = None
        self.sent = 0

    async def add(self, tenant: TenantName, life: str, sequence: int, used: Mapping[Place, Use], *, now_s: int) -> bool:
        self.sent += 1
        if self.away:
            raise RegistryUnavailable("away")
        counted = await super().add(tenant, life, sequence, used, now_s=now_s)
        if self.lose or tenant == self.losing:
            raise RegistryUnavailable("the answer was lost")
        return counted


async def test_each_way_to_end_is_billed_with_its_receipt(node: Node, acme: Tenancy) -> None:
    await acme.deploy("hello", answering(b"four"))
    await acme.deploy("trap", handler("unreachable"))
    await acme.deploy("slow", handler(LOOP), HANDLER_POLICY + b"limits: {fuel: 8G, timeout: 5s}\n")
    replies = [await acme.call("hello", b"in") for _ in range(5)] + [await acme.call("trap") for _ in range(3)]
    left = asyncio.create_task(acme.call("slow"))
    await until(lambda: any(slot.busy for slot in node.sandboxes.slots))
    left.cancel()
    await until(lambda: not any(slot.busy for slot in node.sandboxes.slots))
    lost = asyncio.create_task(acme.call("slow"))
    await until(lambda: any(slot.busy for slot in node.sandboxes.slots))
    (busy,) = [slot for slot in node.sandboxes.slots if slot.busy]
    assert busy.pid is not None
    os.kill(busy.pid, signal.SIGKILL)
    assert (await lost).outcome is Outcome.CHILD_LOST
    assert await node.ledger.flush()
    found = await billed(node, acme.name)
    assert found["hello"].outcomes == {"ok": 5}
    assert found["trap"].outcomes == {"guest_trap": 3}
    assert found["slow"].outcomes == {"abandoned": 1, "child_lost": 1}
    for function, outcome in (("hello", Outcome.OK), ("trap", Outcome.GUEST_TRAP)):
        receipts = [reply.receipt for reply in replies if reply.outcome is outcome]
        assert found[function].sums == [sum(getattr(one, name) for one in receipts) for name in METRICS]
    assert (found["hello"].metric("bytes_in"), found["hello"].metric("bytes_out")) == (10, 20)


async def test_what_was_refused_is_counted_and_used_nothing(node: Node, acme: Tenancy) -> None:
    policy = HANDLER_POLICY + (
        b"limits: {fuel: 8G, timeout: 1s}\nconcurrency: {max_inflight: 1, max_queue: 1, queue_timeout: 5s}\n"
    )
    await acme.deploy("slow", handler(LOOP), policy)
    ended = await asyncio.gather(*(acme.call("slow") for _ in range(5)), return_exceptions=True)
    refused = sum(isinstance(one, TooManyInflight) for one in ended)
    assert await node.ledger.flush()
    outcomes = (await billed(node, acme.name))["slow"].outcomes
    assert outcomes["too_many_inflight"] == refused == 3
    assert sum(outcomes.values()) == 5


async def test_a_batch_whose_answer_was_lost_counts_once(node: Node, acme: Tenancy, tmp_path: Path) -> None:
    usage = Flaky(node.registry.usage)
    ledger = Ledger(usage, tmp_path / "usage")
    ledger.record(acme.name, HELLO, "ok", RECEIPT)
    usage.lose = True
    assert not await ledger.flush()
    ledger.record(acme.name, HELLO, "ok", RECEIPT)
    assert not await ledger.flush()
    usage.lose = False
    assert await ledger.flush()
    assert usage.sent == 4
    assert (await billed(node, acme.name))["hello"].sums == [2 * value for value in SUMS]
    await ledger.close()
    assert list((tmp_path / "usage").iterdir()) == []


async def test_while_redis_is_away_it_counts_on_and_delivers_later(node: Node, acme: Tenancy, tmp_path: Path) -> None:
    usage = Flaky(node.registry.usage)
    ledger = Ledger(usage, tmp_path / "usage")
    usage.away = True
    for _ in range(50):
        ledger.record(acme.name, HELLO, "ok", RECEIPT)
        await ledger.flush()
    usage.away = False
    assert await ledger.flush()
    assert (await billed(node, acme.name))["hello"].sums == [50 * value for value in SUMS]
    await ledger.close()


async def test_a_life_that_ended_suddenly_is_billed_by_the_next_once(node: Node, acme: Tenancy, tmp_path: Path) -> None:
    """The first dies with one batch taken whose answer never came, and one that was never sent."""
    usage = Flaky(node.registry.usage)
    dead = Ledger(usage, tmp_path / "usage")
    dead.record(acme.name, HELLO, "ok", RECEIPT)
    usage.lose = True
    assert not await dead.flush()
    dead.record(acme.name, HELLO, "guest_trap", RECEIPT)
    usage.lose = False
    for _ in range(2):  # the second time there is nothing left of the first's
        alive = Ledger(usage, tmp_path / "usage")
        assert await alive.flush()
        await alive.close()
    found = (await billed(node, acme.name))["hello"]
    assert found.outcomes == {"ok": 1, "guest_trap": 1}
    assert found.sums == [2 * value for value in SUMS]
    assert list((tmp_path / "usage").iterdir()) == []


async def test_a_graceful_stop_without_redis_keeps_the_rest_for_the_next_life(
    node: Node, acme: Tenancy, tmp_path: Path
) -> None:
    usage = Flaky(node.registry.usage)
    ledger = Ledger(usage, tmp_path / "usage")
    ledger.record(acme.name, HELLO, "ok", RECEIPT)
    usage.away = True
    await ledger.close()
    usage.away = False
    following = Ledger(usage, tmp_path / "usage")
    assert await following.flush()
    assert (await billed(node, acme.name))["hello"].outcomes == {"ok": 1}
    await following.close()


async def test_a_deleted_tenant_stops_nobody_elses_bill(
    node: Node, acme: Tenancy, globex: Tenancy, tmp_path: Path
) -> None:
    ledger = Ledger(node.registry.usage, tmp_path / "usage")
    for tenant in (parse_tenant("nobody"), acme.name, globex.name):
        ledger.record(tenant, HELLO, "ok", RECEIPT)
    await node.registry.tenants.delete(acme.name)
    assert await ledger.flush()
    assert not await billed(node, acme.name)
    assert (await billed(node, globex.name))["hello"].outcomes == {"ok": 1}
    await ledger.close()


async def test_a_tenant_whose_answer_was_lost_is_told_of_again_and_nobody_twice(node: Node, tmp_path: Path) -> None:
    usage = Flaky(node.registry.usage)
    ledger = Ledger(usage, tmp_path / "usage")
    names = [parse_tenant(f"many-{number}") for number in range(2 * AT_ONCE)]
    for name in names:
        await node.registry.tenants.create(name, parse_class("standard"))
    for name in names:
        ledger.record(name, HELLO, "ok", RECEIPT)
    usage.losing = names[AT_ONCE // 2]
    assert not await ledger.flush()
    assert usage.sent == AT_ONCE  # its company got through, those behind them wait
    usage.losing = None
    assert await ledger.flush()
    assert usage.sent == AT_ONCE + 1 + AT_ONCE
    for name in names:
        assert (await billed(node, name))["hello"].outcomes == {"ok": 1}
    await ledger.close()


async def test_records_during_a_delivery_belong_to_the_next_batch(node: Node, acme: Tenancy, tmp_path: Path) -> None:
    """Exact under concurrency: many records, with deliveries whenever the loop turns."""
    ledger = Ledger(node.registry.usage, tmp_path / "usage")
    expected: Counter[str] = Counter()

    async def record(number: int) -> None:
        for turn in range(100):
            function = parse_function(f"f-{(number + turn) % 3}")
            ledger.record(acme.name, function, "ok", RECEIPT)
            expected[function] += 1
            await asyncio.sleep(0)

    async def deliver() -> None:
        for _ in range(30):
            await ledger.flush()

    await asyncio.gather(*(record(number) for number in range(20)), deliver())
    assert await ledger.flush()
    found = await billed(node, acme.name)
    assert {function: use.requests for function, use in found.items()} == expected
    assert sum(use.metric("fuel") for use in found.values()) == 2_000 * RECEIPT.fuel
    await ledger.close()


async def test_a_name_that_is_taken_again_inherits_no_bill(node: Node, acme: Tenancy, tmp_path: Path) -> None:
    ledger = Ledger(node.registry.usage, tmp_path / "usage")
    ledger.record(acme.name, HELLO, "ok", RECEIPT)
    await node.registry.tenants.delete(acme.name)
    ledger.forget(acme.name)
    await Tenancy.create(node, "acme", "free")
    assert await ledger.flush()
    assert not await billed(node, acme.name)
    await ledger.close()


async def test_with_more_places_than_it_may_keep_it_counts_on_in_an_hour_that_is_there(
    node: Node, acme: Tenancy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wisp.ledger.MAX_PLACES", 2)
    ledger = Ledger(node.registry.usage, tmp_path / "usage")
    other = parse_function("other")
    began = time.time()
    for hour in range(5):
        monkeypatch.setattr("wisp.ledger.time.time", lambda hour=hour: began + hour * 3600)
        ledger.record(acme.name, HELLO, "ok", RECEIPT)
        ledger.record(acme.name, other, "ok", RECEIPT)
    monkeypatch.undo()
    assert await ledger.flush()
    assert len(await node.registry.usage.places(acme.name, 0, 2**40, 100)) == 2
    found = await billed(node, acme.name)
    assert found["hello"].sums == found["other"].sums == [5 * value for value in SUMS]
    await ledger.close()


async def test_a_journal_that_is_full_goes_on_with_sums_and_at_last_without(
    node: Node, acme: Tenancy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wisp.usagejournal.HALF_BYTES", 4096)
    dead = Ledger(node.registry.usage, tmp_path / "usage")
    for _ in range(1_000):
        dead.record(acme.name, HELLO, "ok", RECEIPT)
    alive = Ledger(node.registry.usage, tmp_path / "usage")
    assert await alive.flush()
    assert (await billed(node, acme.name))["hello"].sums == [1_000 * value for value in SUMS]
    for number in range(100):  # more functions than the half has room for
        alive.record(acme.name, parse_function(f"f-{number}"), "ok", RECEIPT)
    assert await alive.flush()
    assert len(await billed(node, acme.name)) == 101
    await alive.close()


async def test_a_guest_that_is_lost_after_its_caller_went_away_is_nobodys_error(node: Node, acme: Tenancy) -> None:
    """Nor is a trial's, which bills nobody."""
    await acme.deploy("slow", handler(LOOP), HANDLER_POLICY + b"limits: {fuel: 8G, timeout: 10s}\n")
    heard: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))
    run = node.sandboxes.run
    for restarts, bills in enumerate((True, False)):

        async def without(job: Job, *, queue_timeout_s: float, bills: bool = bills) -> tuple[Ending, int]:
            return await run(job if bills else replace(job, abandoned=None), queue_timeout_s=queue_timeout_s)

        node.sandboxes.run = without  # type: ignore[method-assign]
        left = asyncio.create_task(acme.call("slow"))
        await until(lambda: any(slot.busy for slot in node.sandboxes.slots))
        (busy,) = [slot for slot in node.sandboxes.slots if slot.busy]
        assert busy.pid is not None
        os.kill(busy.pid, signal.SIGSTOP)  # it does not hear that it is to stop
        left.cancel()
        await asyncio.wait({left})
        async with asyncio.timeout(PATIENCE_S):
            while node.sandboxes.restarts <= restarts:
                await asyncio.sleep(0.02)
        await until(lambda: all(slot.ready for slot in node.sandboxes.slots))
    del left  # its traceback holds what is to be collected
    gc.collect()
    await asyncio.sleep(0)
    assert heard == []


def test_deliveries_that_take_long_come_less_often_but_never_too_late() -> None:
    assert [pause_s(took_s) for took_s in (0.0, 0.02, 0.1, 60.0)] == [INTERVAL_S, INTERVAL_S, PAUSE * 0.1, LONGEST_S]

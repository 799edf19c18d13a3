"""Requests that are sent to a sandbox in which another still runs: none is lost, run twice, or billed for another's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from platforms import HANDLER_POLICY, Reply, Tenancy
from wat import REQUEST_AT, RESPONSE_AT, answering, escaped, handler
from wisp.errors import ChildLost, InvalidFrame
from wisp.node import Node
from wisp.scheduling import behind as followers
from wisp.scheduling import runtimes, slots
from wisp.scheduling.runs import Run
from wisp.scheduling.slots import Sandbox
from wisp.wire.channel import Frame
from wisp.wire.exchange import encode_response
from wisp.wire.invocations import INLINE_BYTES, SKIPPED, Kind
from wisp.wire.outcome import Outcome, Receipt

PATIENCE_S = 30.0
NEVER_NS = 10**15
WORD_BYTES = 8
HEAD = encode_response(200, (), b"")
LONG = b"for everL"[-8:]
"""The end of a request that never ends by itself."""
PATIENT = b"concurrency: {queue_timeout: 10s}\n"
LONG_POLICY = HANDLER_POLICY + PATIENT + b"limits: {fuel: 10G, timeout: 10s}\n"
SHORT_POLICY = HANDLER_POLICY + PATIENT + b"limits: {fuel: 10G, timeout: 500ms}\n"
WORD = handler(
    f"""(local $last i32)
      (local.set $last (i32.add (local.get $pointer) (i32.sub (local.get $length) (i32.const {WORD_BYTES}))))
      (if (i32.eq (i32.load8_u offset={WORD_BYTES - 1} (local.get $last)) (i32.const {ord("L")}))
        (then (loop $again (br $again))))
      (i64.store (i32.const {RESPONSE_AT + len(HEAD)}) (i64.load (local.get $last)))
      (i64.const {RESPONSE_AT << 32 | len(HEAD) + WORD_BYTES})""",
    data=f'(data (i32.const {RESPONSE_AT}) "{escaped(HEAD)}")',
)
"""Answers with the last eight bytes of the request."""


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


def words(count: int) -> list[bytes]:
    return [b"word%04d" % number for number in range(count)]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every function is known to be quick, however slow the machine is. Of each run that is sent ahead: its tenant, and
    that of what it was sent behind."""
    monkeypatch.setattr(runtimes, "BRIEF_NS", NEVER_NS)
    monkeypatch.setattr(runtimes, "QUICK_NS", NEVER_NS)
    monkeypatch.setattr(runtimes, "KNOWN_RUNS", 1)
    monkeypatch.setattr(followers, "WAKING_NS", NEVER_NS)
    noted: list[tuple[str, str]] = []
    send_ahead = Sandbox.send_ahead

    def noting(self: Sandbox, run: Run) -> None:
        assert self.turn is not None
        noted.append((run.tenant, self.turn.tenant))
        send_ahead(self, run)

    monkeypatch.setattr(Sandbox, "send_ahead", noting)
    return noted


@asynccontextmanager
async def behind_a_long_one(
    node: Node, tenant: Tenancy, sent: list[tuple[str, str]], count: int = 2
) -> AsyncIterator[tuple[asyncio.Task[Reply], list[asyncio.Task[Reply]], Sandbox]]:
    """A guest that does not end, those that were sent behind it, and where; at the end its caller hangs up."""
    await tenant.call("word", b"word0000")
    long = asyncio.create_task(tenant.call("word", LONG))
    await until(lambda: any(slot.busy for slot in node.sandboxes.slots))
    (slot,) = (slot for slot in node.sandboxes.slots if slot.busy)
    behind = [asyncio.create_task(tenant.call("word", word)) for word in words(count)]
    await until(lambda: len(sent) == count)
    yield long, behind, slot
    long.cancel()
    with contextlib.suppress(asyncio.CancelledError, ChildLost):
        await long


async def test_each_of_many_at_once_gets_its_own_answer(
    node: Node, acme: Tenancy, globex: Tenancy, sent: list[tuple[str, str]]
) -> None:
    for tenant in (acme, globex):
        await tenant.deploy("word", WORD, HANDLER_POLICY + PATIENT)
        await tenant.call("word", b"word0000")
    calls = [tenant.call("word", word) for word in words(6) for tenant in (acme, globex)]
    replies = await asyncio.gather(*calls)
    assert [reply.body for reply in replies] == [word for word in words(6) for _ in range(2)]
    assert sent
    assert all(tenant == other for tenant, other in sent)  # no sandbox holds two tenants' requests
    assert (node.sandboxes.restarts, node.sandboxes.kills, node.sandboxes.queued) == (0, 0, 0)


async def test_they_are_billed_no_more_than_their_processes_used(
    node: Node, acme: Tenancy, sent: list[tuple[str, str]]
) -> None:
    await acme.deploy("word", WORD, LONG_POLICY)
    clocks = [(~slot.pid << 3) | 2 for slot in node.sandboxes.slots if slot.pid is not None]
    await acme.call("word", b"word0000")
    before = sum(map(time.clock_gettime_ns, clocks))
    replies = await asyncio.gather(*(acme.call("word", word) for word in words(8)))
    used = sum(map(time.clock_gettime_ns, clocks)) - before
    assert sent
    assert all(reply.receipt.cpu_ns >= 0 for reply in replies)
    assert 0 < sum(reply.receipt.cpu_ns for reply in replies) <= used
    assert all(reply.receipt.fuel > 0 and reply.receipt.queue_ns >= 0 for reply in replies)


async def test_what_waits_behind_one_that_runs_long_is_run_elsewhere(
    node: Node, acme: Tenancy, sent: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "OVERDUE_NS", NEVER_NS)
    await acme.deploy("word", WORD, LONG_POLICY)
    async with behind_a_long_one(node, acme, sent) as (long, behind, _):
        monkeypatch.setattr(slots, "OVERDUE_NS", 0)
        async with asyncio.timeout(PATIENCE_S):
            replies = await asyncio.gather(*behind)
        assert [reply.body for reply in replies] == words(2)
        assert not long.done()
    assert (node.sandboxes.restarts, node.sandboxes.kills) == (0, 0)


async def test_what_waits_in_a_process_that_dies_is_run_elsewhere(
    node: Node, acme: Tenancy, sent: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "OVERDUE_NS", NEVER_NS)
    await acme.deploy("word", WORD, LONG_POLICY)
    async with behind_a_long_one(node, acme, sent) as (long, behind, slot):
        assert slot.pid is not None
        os.kill(slot.pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            replies = await asyncio.gather(*behind)
            assert (await long).outcome is Outcome.CHILD_LOST
        assert [reply.body for reply in replies] == words(2)


async def test_a_process_that_gives_nothing_back_is_ended(
    node: Node, acme: Tenancy, sent: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "GIVE_BACK_NS", 0)
    monkeypatch.setattr(slots, "OVERDUE_NS", NEVER_NS)
    monkeypatch.setattr(Sandbox, "take_back", lambda slot, run: None)
    await acme.deploy("word", WORD, LONG_POLICY)
    async with behind_a_long_one(node, acme, sent) as (long, behind, _):
        monkeypatch.setattr(slots, "OVERDUE_NS", 0)
        async with asyncio.timeout(PATIENCE_S):
            replies = await asyncio.gather(*behind)
            assert (await long).outcome is Outcome.CHILD_LOST
        assert [reply.body for reply in replies] == words(2)


async def test_a_deadline_counts_from_when_the_guest_begins(
    node: Node, acme: Tenancy, sent: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "OVERDUE_NS", NEVER_NS)
    await acme.deploy("word", WORD, SHORT_POLICY)
    async with behind_a_long_one(node, acme, sent) as (long, behind, _):
        async with asyncio.timeout(PATIENCE_S):
            replies = await asyncio.gather(*behind)
            assert (await long).outcome is Outcome.DEADLINE_EXCEEDED
        assert [reply.body for reply in replies] == words(2)
        assert all(reply.receipt.queue_ns >= 400_000_000 for reply in replies)
    assert (node.sandboxes.restarts, node.sandboxes.kills) == (0, 0)


async def test_one_whose_caller_leaves_is_not_run_and_not_billed(
    node: Node, acme: Tenancy, sent: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "OVERDUE_NS", NEVER_NS)
    bills: list[Receipt] = []
    monkeypatch.setattr(node.dispatcher, "_note_abandoned", lambda *arguments: bills.append(arguments[-1]))
    await acme.deploy("word", WORD, LONG_POLICY)
    async with behind_a_long_one(node, acme, sent) as (long, behind, slot):
        behind[0].cancel()
        await until(lambda: len(slot.ahead.runs) == 1)
        assert not bills
        assert not long.done()
    async with asyncio.timeout(PATIENCE_S):
        assert (await behind[1]).body == words(2)[1]
    await until(lambda: len(bills) == 1)  # the long one's
    assert (node.sandboxes.restarts, node.sandboxes.kills, node.sandboxes.queued) == (0, 0, 0)


async def test_answers_that_lie_in_the_segment_do_not_overwrite_one_another(
    node: Node, acme: Tenancy, sent: list[tuple[str, str]]
) -> None:
    contents = {name: name.encode() * (INLINE_BYTES + 1000) for name in ("a", "b")}
    assert RESPONSE_AT + INLINE_BYTES + 1100 < REQUEST_AT
    for name, content in contents.items():
        await acme.deploy(name, answering(content), LONG_POLICY)
        assert (await acme.call(name)).body == content
        node.sandboxes.times.of("acme", name).spills = False  # as if it never had before
    names = list(contents) * 4
    replies = await asyncio.gather(*map(acme.call, names))
    assert sent
    assert [reply.body for reply in replies] == [contents[name] for name in names]


async def test_a_process_is_not_believed_that_it_skipped_what_it_was_not_sent_ahead(node: Node, acme: Tenancy) -> None:
    await acme.deploy("word", WORD, LONG_POLICY)
    long = asyncio.create_task(acme.call("word", LONG))
    await until(lambda: any(slot.busy for slot in node.sandboxes.slots))
    (slot,) = (slot for slot in node.sandboxes.slots if slot.busy)
    for number in range(20):
        with pytest.raises(InvalidFrame):
            slot._take(Frame(Kind.SKIPPED, SKIPPED.pack(number)))
    long.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await long

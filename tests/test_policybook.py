"""The operator's documents while a node runs: what a change does, who has heard of it, what a broken one leaves."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from platforms import OPERATOR_KEY, Tenancy
from wat import answering
from wisp.errors import Conflict, InvalidPolicy, PolicyFromFile, PreconditionFailed, WispError
from wisp.forecast import foresee
from wisp.names import parse_class
from wisp.node import Node
from wisp.policy.ceilings import MAX_DOCUMENTS, default_policies_dir
from wisp.policybook import PolicyBook, RedisBook
from wisp.registry.embedded import EmbeddedRedis
from wisp.registry.keys import Kind, key
from wisp.registry.policies import Source, digest_of
from wisp.registry.registry import Registry
from wisp.settings import Settings
from wisp.wire.outcome import Outcome

WORK = "(local $i i32) (loop $again (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) "
WORKING = answering(b"done", work=f"{WORK}(i32.const 100000))))")
"""Uses less than a million of fuel, and more than half a million."""


def document(name: str, *changes: tuple[bytes, bytes]) -> bytes:
    """As shipped, with each change made."""
    text = (default_policies_dir() / f"{name}.yaml").read_bytes()
    for former, latter in changes:
        assert former in text
        text = text.replace(former, latter)
    return text


LOWER = document("ceiling", (b"fuel: 20G", b"fuel: 500k"))
BROKEN = document("ceiling", (b"fuel: 20G", b"fule: 500k"))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


def settings(data_dir: Path, **flags: str) -> Settings:
    return Settings.load(
        {"data_dir": str(data_dir), "workers": "1", **flags}, environ={"WISP_OPERATOR_KEY": OPERATOR_KEY}
    )


async def put(book: PolicyBook, name: str, text: bytes) -> tuple[str, ...]:
    """The nodes that are still to apply it."""
    return (await book.put(name, text, author="operator", expected=None)).pending


class TestRedis:
    async def test_a_lowered_ceiling_narrows_the_next_request(self, node: Node, acme: Tenancy) -> None:
        await acme.deploy("work", WORKING)
        before = await acme.call("work")
        assert before.outcome is Outcome.OK
        assert 500_000 < before.receipt.fuel < 1_000_000
        assert await put(node.book, "ceiling", LOWER) == ()
        after = await acme.call("work")
        assert (after.outcome, after.version) == (Outcome.FUEL_EXHAUSTED, before.version)
        assert (await acme.target("work")).grants.fuel == 500_000
        await put(node.book, "ceiling", document("ceiling"))
        assert (await acme.call("work")).outcome is Outcome.OK

    async def test_deployments_and_new_tenants_stand_under_the_new_documents(self, node: Node, acme: Tenancy) -> None:
        await put(node.book, "class-tiny", document("class-free", (b"max_inflight: 16", b"max_inflight: 1")))
        tiny = await Tenancy.create(node, "tiny", "tiny")
        await tiny.deploy("work", WORKING)
        assert (await tiny.target("work")).plan.quota.max_inflight == 1
        await put(node.book, "ceiling", LOWER)
        assert (await acme.deploy("work", WORKING)).grants.fuel == 500_000

    async def test_what_is_broken_changes_nothing(self, node: Node) -> None:
        before = node.ceilings
        for name, text in (("ceiling", BROKEN), ("class-free", b""), ("class-free", b"\xff"), ("free", LOWER)):
            with pytest.raises(InvalidPolicy) as refused:
                await put(node.book, name, text)
            assert refused.value.faults
        assert node.ceilings is before
        assert [change.author for change in await node.registry.policies.history("ceiling")] == ["packaged"]

    async def test_the_same_text_again_keeps_every_plan(self, node: Node, acme: Tenancy) -> None:
        await acme.deploy("work", WORKING)
        plan, before = (await acme.target("work")).plan, node.ceilings
        placed = await node.book.put("ceiling", document("ceiling"), author="operator", expected=None)
        assert (placed.changed, placed.pending) == (False, ())
        assert node.ceilings is before
        assert (await acme.target("work")).plan is plan

    async def test_a_change_may_depend_on_what_was_read(self, node: Node) -> None:
        seen = (digest_of(document("ceiling")),)
        await node.book.put("ceiling", LOWER, author="operator", expected=seen)
        with pytest.raises(PreconditionFailed):
            await node.book.put("ceiling", document("ceiling"), author="operator", expected=seen)

    async def test_there_are_not_any_number_of_classes(self, node: Node) -> None:
        known = node.book.documents["class-free"]
        node.book.documents = {f"class-{number}": known for number in range(MAX_DOCUMENTS)}
        with pytest.raises(Conflict):
            await put(node.book, "class-more", document("class-free"))

    async def test_larger_answers_wait_for_a_restart(self, node: Node, acme: Tenancy) -> None:
        """The sandboxes' segments have their size from the start: a log limit above it would leave no answer at all."""
        raised = document("ceiling", (b"response_body: 32Mi, logs: 256Ki", b"response_body: 64Mi, logs: 16Mi"))
        former = node.ceilings.ceiling.limits
        await put(node.book, "ceiling", raised)
        limits = node.ceilings.ceiling.limits
        assert node.book.waits_for_restart
        assert limits.response_body + limits.logs <= former.response_body + former.logs
        await acme.deploy("hello", answering(b"hello"), b"wisp: 1\nabi: handler\nlimits: {logs: 64Ki}\n")
        assert (await acme.call("hello")).body == b"hello"
        await put(node.book, "ceiling", document("ceiling"))
        assert not node.book.waits_for_restart

    async def test_what_was_put_outlives_the_node(self, tmp_path: Path) -> None:
        async with Node(settings(tmp_path)) as node:
            await put(node.book, "ceiling", LOWER)
        async with Node(settings(tmp_path)) as node:
            assert node.ceilings.ceiling.limits.fuel == 500_000
            assert node.book.documents["ceiling"].author == "operator"

    async def test_a_node_does_not_start_on_documents_that_it_cannot_read(self, tmp_path: Path) -> None:
        """As after a return to an older release: to fall back on what was packaged might allow more."""
        async with Node(settings(tmp_path)) as node:
            await node.registry.policies.put("ceiling", BROKEN, author="operator")
            await until(lambda: bool(node.book.faults))
            assert node.ceilings.ceiling.limits.fuel == 20 * 10**9
            assert any(fault.line for fault in node.book.faults["ceiling"])
            assert node.readiness()["policies"] == {"source": "redis", "faulty": ["ceiling"]}
            assert node.readiness()["ready"]
        with pytest.raises(WispError):
            async with Node(settings(tmp_path)):
                pass


class TestForesight:
    async def test_it_lists_exactly_whom_and_what(self, node: Node, acme: Tenancy, globex: Tenancy) -> None:
        await acme.deploy("large", WORKING, b"wisp: 1\nabi: handler\nlimits: {fuel: 2G, timeout: 3s}\n")
        await acme.deploy("small", WORKING, b"wisp: 1\nabi: handler\nlimits: {fuel: 1M, timeout: 1s}\n")
        await acme.deploy("held", WORKING, b"wisp: 1\nabi: handler\nlimits: {fuel: 2G}\n", activate=False)
        await globex.deploy("default", WORKING)
        lower = document("ceiling", (b"fuel: 20G", b"fuel: 1M"), (b"timeout: 30s", b"timeout: 2s"))
        before, after = node.ceilings, node.book.read_as("ceiling", lower).ceilings
        found = await foresee(node.registry, before, after)
        assert [
            (one.tenant, one.function, one.version, [(c.field, c.before, c.after, c.effect) for c in one.changes])
            for one in found
        ] == [
            ("acme", "large", 1, [("limits.fuel", "2G", "1M", "loses"), ("limits.timeout", "3s", "2s", "loses")]),
            ("globex", "default", 1, [("limits.fuel", "1G", "1M", "loses")]),
        ]
        assert node.ceilings is before
        assert await foresee(node.registry, before, before) == ()

    async def test_a_class_touches_its_own_tenants_only(self, node: Node, acme: Tenancy, globex: Tenancy) -> None:
        for tenancy in (acme, globex):
            await tenancy.deploy("work", WORKING)
        lower = document("class-free", (b"fuel: 2G", b"fuel: 1M"), (b"fuel: 1G", b"fuel: 1M"))
        found = await foresee(node.registry, node.ceilings, node.book.read_as("class-free", lower).ceilings)
        assert [(one.tenant, one.function) for one in found] == [("globex", "work")]
        new = node.book.read_as("class-new", lower).ceilings
        assert await foresee(node.registry, node.ceilings, new) == ()


@pytest.fixture
async def redis_url() -> AsyncIterator[str]:
    """A server that several nodes share."""
    directory = tempfile.mkdtemp(prefix="wisp-")
    server = EmbeddedRedis(Path(directory))
    try:
        yield await server.start()
    finally:
        await server.stop()
        shutil.rmtree(directory)


@asynccontextmanager
async def follower(url: str, *, runs: bool = True) -> AsyncIterator[RedisBook]:
    """What a node is to the others: its book alone. Events do not reach it; it asks."""
    registry = Registry(url)
    book = RedisBook(registry.policies, default_policies_dir(), alone=False)
    await book.open()
    running = asyncio.ensure_future(book.run()) if runs else None
    try:
        yield book
    finally:
        while running is not None and not running.done():  # the client may lose one (see Node)
            running.cancel()
            await asyncio.wait([running], timeout=0.2)
        await book.close()
        await registry.aclose()


class TestSeveralNodes:
    async def test_two_whole_nodes_converge(self, redis_url: str, tmp_path: Path) -> None:
        async with AsyncExitStack() as stack:
            blobs = f"file://{tmp_path / 'blobs'}"
            one, two = [
                await stack.enter_async_context(Node(settings(tmp_path / name, redis=redis_url, blobs=blobs)))
                for name in ("one", "two")
            ]
            here = await Tenancy.create(one, "acme", "standard")
            await here.deploy("work", WORKING)
            there = Tenancy(node=two, name=here.name, secret=here.secret)
            assert (await there.call("work")).outcome is Outcome.OK
            assert await put(one.book, "ceiling", LOWER) == ()
            # It was acknowledged, so there is nothing to wait for.
            assert (await there.call("work")).outcome is Outcome.FUEL_EXHAUSTED
            assert await put(two.book, "ceiling", document("ceiling")) == ()
            assert (await here.call("work")).outcome is Outcome.OK

    async def test_a_missed_event_is_healed_by_asking(self, redis_url: str) -> None:
        async with follower(redis_url) as one, follower(redis_url) as two:
            assert await put(one, "ceiling", LOWER) == ()
            assert two.ceilings.ceiling.limits.fuel == 500_000

    async def test_a_node_that_does_not_apply_it_is_named_until_it_does(self, redis_url: str) -> None:
        async with follower(redis_url) as one, follower(redis_url, runs=False) as stuck:
            assert await put(one, "ceiling", LOWER) == (stuck.node,)
            assert one.ceilings.ceiling.limits.fuel == 500_000
            assert stuck.ceilings.ceiling.limits.fuel == 20 * 10**9
            await stuck.follow()
            assert stuck.ceilings.ceiling.limits.fuel == 500_000
            assert await put(one, "ceiling", LOWER) == ()

    async def test_a_dead_node_is_waited_for_only_until_it_counts_as_dead(self, redis_url: str) -> None:
        registry = Registry(redis_url)
        async with follower(redis_url) as one:
            await registry.policies.pulse("dead", 0)
            assert await put(one, "ceiling", LOWER) == ("dead",)
            await registry.connection.command("HSET", key(None, Kind.NODES), "dead", "0 1700000000000")
            assert await put(one, "ceiling", document("ceiling")) == ()
        await registry.aclose()

    async def test_a_node_that_cannot_read_it_does_not_acknowledge(self, redis_url: str) -> None:
        async with follower(redis_url) as one, follower(redis_url) as two:
            await one.policies.put("ceiling", BROKEN, author="operator")  # a newer release's, perhaps
            await until(lambda: bool(one.faults and two.faults))
            generation = (await one.policies.read()).generation
            pulse = await one.follow()
            assert set(pulse.nodes.values()) == {generation - 1}
            assert await put(one, "ceiling", LOWER) == ()
            assert two.faults == {}

    async def test_a_node_that_leaves_is_not_waited_for(self, redis_url: str) -> None:
        async with follower(redis_url) as one:
            async with follower(redis_url, runs=False):
                pass
            assert await put(one, "ceiling", LOWER) == ()

    async def test_a_registry_that_lost_everything_gets_what_is_in_force(self, redis_url: str) -> None:
        registry = Registry(redis_url)
        async with follower(redis_url) as one:
            await put(one, "ceiling", LOWER)
            await registry.connection.command("FLUSHALL")
            await one.follow()
            assert one.ceilings.ceiling.limits.fuel == 500_000
            stored = (await registry.policies.read()).documents["ceiling"]
            assert (stored.text.encode(), stored.author) == (LOWER, "restored")
        await registry.aclose()


@pytest.fixture
async def filed(tmp_path: Path) -> AsyncIterator[Node]:
    """A node that follows the files in `policies`."""
    shutil.copytree(default_policies_dir(), tmp_path / "policies")
    async with Node(settings(tmp_path / "data", policies=str(tmp_path / "policies"))) as node:
        yield node


class TestFiles:
    async def test_a_changed_file_narrows_the_next_request(self, filed: Node, tmp_path: Path) -> None:
        acme = await Tenancy.create(filed, "acme", "standard")
        await acme.deploy("work", WORKING)
        assert (await acme.call("work")).outcome is Outcome.OK
        before = filed.ceilings
        (tmp_path / "policies" / "ceiling.yaml").write_bytes(LOWER)
        await until(lambda: filed.ceilings is not before)
        assert (await acme.call("work")).outcome is Outcome.FUEL_EXHAUSTED

    async def test_a_broken_file_changes_nothing_and_the_others_still_count(self, filed: Node, tmp_path: Path) -> None:
        folder = tmp_path / "policies"
        (folder / "ceiling.yaml").write_bytes(BROKEN)
        (folder / "class-free.yaml").write_bytes(document("class-free", (b"weight: 1", b"weight: 3")))
        await until(lambda: "ceiling" in filed.book.faults and filed.ceilings.classes[parse_class("free")].weight == 3)
        assert filed.ceilings.ceiling.limits.fuel == 20 * 10**9
        assert filed.book.documents["ceiling"].text.encode() == document("ceiling")
        assert any(fault.line is not None for fault in filed.book.faults["ceiling"])
        assert filed.readiness()["policies"] == {"source": "file", "faulty": ["ceiling"]}
        (folder / "ceiling.yaml").write_bytes(LOWER)
        await until(lambda: not filed.book.faults)
        assert filed.ceilings.ceiling.limits.fuel == 500_000

    async def test_a_file_that_is_gone_still_holds(self, filed: Node, tmp_path: Path) -> None:
        (tmp_path / "policies" / "class-free.yaml").unlink()
        (tmp_path / "policies" / "class-new.yaml").write_bytes(document("class-free"))
        await until(lambda: "class-free" in filed.book.faults)
        assert sorted(filed.ceilings.classes) == ["free", "new", "standard"]

    async def test_what_is_put_is_refused(self, filed: Node) -> None:
        with pytest.raises(PolicyFromFile):
            await put(filed.book, "ceiling", LOWER)

    async def test_redis_remembers_every_change_over_restarts(self, filed: Node, tmp_path: Path) -> None:
        (tmp_path / "policies" / "ceiling.yaml").write_bytes(LOWER)
        await until(lambda: filed.book.documents["ceiling"].generation > 3)
        assert len(await filed.registry.policies.history("ceiling")) == 2
        await filed.__aexit__(None, None, None)
        (tmp_path / "policies" / "ceiling.yaml").write_bytes(document("ceiling", (b"fuel: 20G", b"fuel: 1G")))
        async with Node(settings(tmp_path / "data", policies=str(tmp_path / "policies"))) as again:
            changes = await again.registry.policies.history("ceiling")
            assert [(change.author, change.source) for change in changes] == [("file", Source.FILE)] * 3
            assert "fuel: 1G" in changes[0].text
            assert (await again.registry.policies.read()).documents == {}

    async def test_a_node_does_not_start_on_a_broken_file(self, tmp_path: Path) -> None:
        shutil.copytree(default_policies_dir(), tmp_path / "policies")
        (tmp_path / "policies" / "ceiling.yaml").write_bytes(BROKEN)
        with pytest.raises(InvalidPolicy):
            async with Node(settings(tmp_path / "data", policies=str(tmp_path / "policies"))):
                pass

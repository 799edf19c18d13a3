from __future__ import annotations

import asyncio

import pytest

from registry.clusters import settled
from wisp.errors import PreconditionFailed, RegistryUnavailable
from wisp.registry.events import Event, Subscribed
from wisp.registry.expectations import ANY
from wisp.registry.keys import Kind, key
from wisp.registry.policies import RETAINED, Policies, Source, digest_of, new_text
from wisp.registry.registry import Registry

TEXTS = {"ceiling": b"the most", "class-free": b"free"}


@pytest.fixture
async def policies(registry: Registry) -> Policies:
    await registry.policies.seed(TEXTS, author="packaged")
    return registry.policies


async def texts(policies: Policies) -> dict[str, str]:
    return {name: document.text for name, document in (await policies.read()).documents.items()}


async def test_an_empty_registry_is_seeded_once(policies: Policies) -> None:
    first = await policies.read()
    assert await texts(policies) == {"ceiling": "the most", "class-free": "free"}
    assert {document.generation for document in first.documents.values()} == {first.generation} == {1}
    await policies.seed({"ceiling": b"another"}, author="packaged")
    assert await policies.read() == first


async def test_of_many_seeding_one_wins(registry: Registry) -> None:
    offers = [{"ceiling": b"%d" % number} for number in range(10)]
    await asyncio.gather(*(registry.policies.seed(offer, author="packaged") for offer in offers))
    assert (await registry.policies.read()).generation == 1
    assert len(await registry.policies.history("ceiling")) == 1


async def test_a_change_has_a_generation_an_author_and_a_place_in_the_history(policies: Policies) -> None:
    document, changed = await policies.put("ceiling", "weniger \N{EURO SIGN}".encode(), author="operator")
    assert changed
    assert (document.generation, document.author, document.source) == (2, "operator", Source.REDIS)
    assert (await policies.read()).documents["ceiling"] == document
    newest, oldest = await policies.history("ceiling")
    assert newest == document
    assert (oldest.generation, oldest.text, oldest.author) == (1, "the most", "packaged")
    assert await policies.history("class-nothing") == ()


async def test_the_same_text_again_is_no_change(policies: Policies) -> None:
    document, changed = await policies.put("ceiling", b"the most", author="operator")
    assert not changed
    assert (document.generation, document.author) == (1, "packaged")
    assert (await policies.read()).generation == 1


async def test_a_change_may_depend_on_what_was_read(policies: Policies) -> None:
    seen = digest_of(b"the most")
    await policies.put("ceiling", b"less", author="a", expected=(digest_of(b"other"), seen))
    for expected in ((seen,), ()):
        with pytest.raises(PreconditionFailed):
            await policies.put("ceiling", b"least", author="b", expected=expected)
    with pytest.raises(PreconditionFailed):
        await policies.put("class-new", b"new", author="b", expected=(ANY,))
    await policies.put("ceiling", b"least", author="b", expected=(ANY,))
    assert (await texts(policies))["ceiling"] == "least"


async def test_of_many_who_read_the_same_one_changes_it(policies: Policies) -> None:
    seen = (digest_of(b"the most"),)
    offers = [policies.put("ceiling", b"%d" % number, author="a", expected=seen) for number in range(10)]
    results = await asyncio.gather(*offers, return_exceptions=True)
    assert sum(isinstance(result, PreconditionFailed) for result in results) == 9
    assert (await policies.read()).generation == 2


async def test_the_history_is_bounded_for_each_document_apart(policies: Policies) -> None:
    for number in range(RETAINED + 3):
        await policies.put("ceiling", b"%d" % number, author="a")
    changes = await policies.history("ceiling")
    assert [change.text for change in changes] == [str(number) for number in reversed(range(3, RETAINED + 3))]
    assert len(await policies.history("class-free")) == 1


async def test_a_change_elsewhere_is_recorded_once_and_rules_nothing(policies: Policies) -> None:
    draft = new_text("ceiling", b"from a file", author="file", source=Source.FILE)
    noted = await asyncio.gather(*(policies.record(draft) for _ in range(5)))
    assert {note.generation for note in noted} == {2}
    assert [change.author for change in await policies.history("ceiling")] == ["file", "packaged"]
    assert (await texts(policies))["ceiling"] == "the most"


async def test_a_damaged_record_is_named_and_a_put_mends_it(policies: Policies, registry: Registry) -> None:
    place = key(None, Kind.POLICIES)
    raw = await registry.connection.hash_get(place, "ceiling")
    assert raw is not None
    await registry.connection.command("HSET", place, "ceiling", raw.replace(b"most", b"mist"))
    stored = await policies.read()
    assert stored.damaged == {"ceiling"}
    assert list(stored.documents) == ["class-free"]
    await policies.put("ceiling", b"the most", author="operator")
    assert (await policies.read()).damaged == frozenset()


async def test_a_change_is_an_event_of_the_operators(registry: Registry) -> None:
    async with asyncio.timeout(30):
        events = registry.subscribe()
        assert isinstance(await anext(events), Subscribed)
        await settled(registry, events)
        await registry.policies.put("ceiling", b"text", author="operator")
        event = await anext(events)
        await events.aclose()
    assert event == Event(tenant=None, kind="policy", name="ceiling", generation=1)


class TestPulse:
    async def test_nodes_say_what_they_have_applied(self, policies: Policies) -> None:
        await policies.pulse("a", 0)
        pulse = await policies.pulse("b", 1)
        assert pulse.generation == 1
        assert pulse.nodes == {"a": 0, "b": 1}
        assert (await policies.pulse("a", 1)).nodes == {"a": 1, "b": 1}

    async def test_one_that_only_listens_is_no_node(self, policies: Policies) -> None:
        assert (await policies.pulse(None, 1)).nodes == {}

    async def test_one_that_left_or_was_not_heard_for_long_counts_no_more(
        self, policies: Policies, registry: Registry
    ) -> None:
        await policies.pulse("a", 1)
        await policies.leave("a")
        nodes = key(None, Kind.NODES)
        await registry.connection.command("HSET", nodes, "silent", "1 1700000000000", "odd", "rubbish")
        assert (await policies.pulse("b", 1)).nodes == {"b": 1}
        assert await registry.connection.hash_all(nodes) == {"b": (await registry.connection.hash_all(nodes))["b"]}

    async def test_an_idle_node_is_not_written_down_each_time(self, policies: Policies, registry: Registry) -> None:
        await policies.pulse("a", 1)
        before = await registry.connection.hash_all(key(None, Kind.NODES))
        await policies.pulse("a", 1)
        assert await registry.connection.hash_all(key(None, Kind.NODES)) == before


async def test_what_cannot_be_reached_is_said(registry: Registry) -> None:
    lost = Registry("unix:///nonexistent/redis.sock")
    with pytest.raises(RegistryUnavailable):
        await lost.policies.pulse("a", 1)
    await lost.aclose()

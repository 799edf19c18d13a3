"""The split of a function's requests, as values and as records: who gets which version, and when it is taken back."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.samples import ACME, CLASSIFY, draft
from wisp.errors import InUse, InvalidTraffic, NotFound, PreconditionFailed
from wisp.registry.functionscripts import RETAINED_CHANGES, RETAINED_VERSIONS
from wisp.registry.history import Action
from wisp.registry.keys import Kind, key
from wisp.registry.records import Function
from wisp.registry.registry import Registry
from wisp.registry.traffic import Guard, Share, Traffic, sticky_point

GUARD = Guard(max_errors_per_million=50_000, min_requests=50, window_s=60)


def traffic(*shares: tuple[int, int], guard: Guard | None = None) -> Traffic:
    split = tuple(Share(version=version, percent=percent) for version, percent in shares)
    return Traffic(id=0, split=split, sticky_header=None, sticky_key=False, guard=guard)


@pytest.fixture
async def three(acme: Registry) -> Registry:
    """Versions 1, 2 and 3 of acme/classify; 1 is active."""
    for content in "abc":
        await acme.functions.put_version(ACME, CLASSIFY, draft(content), activate=content == "a")
    return acme


async def rows(registry: Registry) -> list[tuple[Action, int | None, int | None]]:
    """Oldest first."""
    found = await registry.functions.history(ACME, CLASSIFY)
    return [(change.action, change.version, change.active) for change in reversed(found)]


class TestChoice:
    @given(st.lists(st.integers(1, 60), min_size=2, max_size=8), st.floats(0, 100, exclude_max=True))
    def test_every_point_has_a_share(self, percents: list[int], point: float) -> None:
        percents[-1] = max(1, 100 - sum(percents[:-1]))
        place = traffic(*((number, percent) for number, percent in enumerate(percents, 1))).place_of(point)
        assert sum(percents[:place]) <= point or place == 0

    def test_a_hundred_points_fall_as_the_percentages_say(self) -> None:
        split = traffic((1, 85), (2, 10), (3, 5))
        assert Counter(map(split.place_of, range(100))) == {0: 85, 1: 10, 2: 5}

    def test_who_has_the_candidate_keeps_it_when_its_part_grows(self) -> None:
        points = [sticky_point("acme/classify", str(user).encode()) for user in range(2000)]
        before, after = traffic((1, 90), (2, 10)), traffic((1, 50), (2, 50))
        early = [point for point in points if before.place_of(point) == 1]
        assert 100 < len(early) < 300
        assert all(after.place_of(point) == 1 for point in early)

    def test_the_same_value_falls_to_other_points_in_other_functions(self) -> None:
        assert sticky_point("acme/a", b"user") == sticky_point("acme/a", b"user") != sticky_point("acme/b", b"user")


async def test_a_split_is_read_with_all_its_versions_and_ended_by_an_activation(three: Registry) -> None:
    function = await three.functions.split(ACME, CLASSIFY, traffic((2, 90), (3, 10)), author="me", message="try")
    assert (function.active, function.traffic) == (2, replace(traffic((2, 90), (3, 10)), id=function.revision))
    entry = await three.functions.entry(ACME, CLASSIFY)
    assert entry is not None
    assert [version.number for version in entry.versions] == [2, 3]
    assert entry.function == function
    pinned = await three.functions.entry(ACME, CLASSIFY, 1)
    assert pinned is not None
    assert ([version.number for version in pinned.versions], pinned.traffic) == ([1], None)
    gone = await three.functions.entry(ACME, CLASSIFY, 9)
    assert gone is not None
    assert gone.versions == ()
    back = await three.functions.activate(ACME, CLASSIFY, 2)
    assert (back.active, back.traffic) == (2, None)


async def test_suspending_keeps_the_split(three: Registry) -> None:
    split = (await three.functions.split(ACME, CLASSIFY, traffic((1, 50), (2, 50)))).traffic
    assert (await three.functions.suspend(ACME, CLASSIFY)).traffic == split
    assert (await three.functions.resume(ACME, CLASSIFY)).traffic == split


async def test_an_upload_that_activates_ends_the_split_and_one_that_does_not_leaves_it(three: Registry) -> None:
    await three.functions.split(ACME, CLASSIFY, traffic((1, 90), (2, 10)))
    held = await three.functions.place(ACME, CLASSIFY, draft("d"), activate=False)
    assert held.function.traffic is not None
    same = await three.functions.place(ACME, CLASSIFY, draft("a"), activate=True)
    assert (same.created, same.function.active, same.function.traffic) == (False, 1, None)


async def test_a_split_over_an_unknown_version_changes_nothing(three: Registry) -> None:
    before = await three.functions.get(ACME, CLASSIFY)
    with pytest.raises(InvalidTraffic) as refused:
        await three.functions.split(ACME, CLASSIFY, traffic((1, 90), (7, 10)))
    assert [fault.field for fault in refused.value.faults] == ["split[1].version"]
    assert await three.functions.get(ACME, CLASSIFY) == before
    with pytest.raises(NotFound):
        await three.functions.split(ACME, CLASSIFY.__class__("nothing"), traffic((1, 90), (2, 10)))


async def test_a_version_that_answers_cannot_be_deleted(three: Registry) -> None:
    await three.functions.split(ACME, CLASSIFY, traffic((1, 90), (2, 10)))
    for number in (1, 2):
        with pytest.raises(InUse, match="part of the traffic"):
            await three.functions.delete_version(ACME, CLASSIFY, number)
    await three.functions.delete_version(ACME, CLASSIFY, 3, author="me")
    function = await three.functions.get(ACME, CLASSIFY)
    assert (function.versions, function.latest) == ((1, 2), 2)
    for kind in (Kind.VERSIONS, Kind.CONTENTS):
        assert len(await three.connection.hash_all(key(ACME, kind))) == 2
    with pytest.raises(NotFound):
        await three.functions.delete_version(ACME, CLASSIFY, 3)
    anew, created = await three.functions.put_version(ACME, CLASSIFY, draft("c"), activate=False)
    assert (anew.number, created) == (4, True)


async def test_the_last_version_is_not_deleted_but_the_function_is(acme: Registry) -> None:
    await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=False)
    with pytest.raises(InUse, match="delete the function"):
        await acme.functions.delete_version(ACME, CLASSIFY, 1)
    await acme.functions.delete(ACME, CLASSIFY)
    assert await acme.connection.hash_all(key(ACME, Kind.HISTORY)) == {}


async def test_too_many_versions_push_out_the_oldest_that_does_not_answer(acme: Registry) -> None:
    for index in range(RETAINED_VERSIONS):
        await acme.functions.put_version(ACME, CLASSIFY, draft(str(index)), activate=index < 2)
    await acme.functions.split(ACME, CLASSIFY, traffic((1, 50), (3, 50)))
    for index in range(2):
        await acme.functions.put_version(ACME, CLASSIFY, draft(f"more {index}"), activate=False)
    function = await acme.functions.get(ACME, CLASSIFY)
    assert function.versions == (1, 3, *range(5, RETAINED_VERSIONS + 3))
    assert [number for action, number, _ in await rows(acme) if action is Action.PRUNE] == [2, 4]
    for kind in (Kind.VERSIONS, Kind.CONTENTS):
        assert len(await acme.connection.hash_all(key(ACME, kind))) == RETAINED_VERSIONS


class TestHistory:
    async def test_it_tells_who_did_what_and_why_newest_first(self, three: Registry) -> None:
        functions = three.functions
        await functions.activate(ACME, CLASSIFY, 2, author="key 1", message="naïve \U0001f600")
        await functions.split(ACME, CLASSIFY, traffic((2, 60), (3, 40)), author="key 2", message="canary")
        await functions.suspend(ACME, CLASSIFY, author="operator")
        await functions.suspend(ACME, CLASSIFY, author="operator")  # it is already: nothing changed
        await functions.resume(ACME, CLASSIFY)
        await functions.delete_version(ACME, CLASSIFY, 1)
        assert await rows(three) == [
            (Action.UPLOAD, 1, 1),
            (Action.UPLOAD, 2, 1),
            (Action.UPLOAD, 3, 1),
            (Action.ACTIVATE, 2, 2),
            (Action.TRAFFIC, None, 2),
            (Action.SUSPEND, None, 2),
            (Action.RESUME, None, 2),
            (Action.DELETE, 1, 2),
        ]
        history = await functions.history(ACME, CLASSIFY)
        assert [change.number for change in history] == list(range(8, 0, -1))
        split, activation = history[3], history[4]
        assert (activation.author, activation.message) == ("key 1", "naïve \U0001f600")
        assert (split.author, split.message) == ("key 2", "canary")
        assert split.traffic is not None
        assert [share.percent for share in split.traffic.split] == [60, 40]
        assert history[0].revision == (await functions.get(ACME, CLASSIFY)).revision

    async def test_it_is_a_ring_of_the_newest(self, three: Registry) -> None:
        for index in range(RETAINED_CHANGES + 20):
            await three.functions.activate(ACME, CLASSIFY, 1 + (index + 1) % 2)
        history = await three.functions.history(ACME, CLASSIFY)
        newest = RETAINED_CHANGES + 20 + 3
        assert [change.number for change in history] == list(range(newest, newest - RETAINED_CHANGES, -1))


class TestExpectations:
    async def test_each_change_has_a_new_revision_and_only_the_present_one_is_accepted(self, three: Registry) -> None:
        functions = three.functions
        stale = (str((await functions.get(ACME, CLASSIFY)).revision),)
        current = (str((await functions.activate(ACME, CLASSIFY, 2, expected=stale)).revision),)
        before = await functions.get(ACME, CLASSIFY)
        for expected in (stale, (), ("0",)):
            for attempt in (
                functions.activate(ACME, CLASSIFY, 3, expected=expected),
                functions.split(ACME, CLASSIFY, traffic((1, 50), (2, 50)), expected=expected),
                functions.suspend(ACME, CLASSIFY, expected=expected),
                functions.place(ACME, CLASSIFY, draft("new"), activate=True, expected=expected),
                functions.delete_version(ACME, CLASSIFY, 1, expected=expected),
                functions.delete(ACME, CLASSIFY, expected=expected),
            ):
                with pytest.raises(PreconditionFailed):
                    await attempt
        assert await functions.get(ACME, CLASSIFY) == before
        await functions.activate(ACME, CLASSIFY, 3, expected=(*stale, *current))
        await functions.delete(ACME, CLASSIFY, expected=("*",))
        with pytest.raises(PreconditionFailed):
            await functions.place(ACME, CLASSIFY, draft("a"), activate=True, expected=("*",))

    async def test_a_revision_never_comes_again(self, three: Registry) -> None:
        seen = (await three.functions.get(ACME, CLASSIFY)).revision
        former = await three.tenants.get(ACME)
        await three.tenants.delete(ACME, expected=(str(former.revision),))
        again = await three.tenants.create(ACME, former.class_name)
        for content in "abc":
            placed = await three.functions.place(ACME, CLASSIFY, draft(content), activate=True)
            assert placed.function.revision > seen
        with pytest.raises(PreconditionFailed):
            await three.tenants.patch(ACME, suspended=True, expected=(str(former.revision),))
        assert (await three.tenants.patch(ACME, suspended=True, expected=(str(again.revision),))).suspended

    async def test_of_many_writers_with_one_expectation_one_wins(self, three: Registry) -> None:
        expected = (str((await three.functions.get(ACME, CLASSIFY)).revision),)
        results = await asyncio.gather(
            *(three.functions.activate(ACME, CLASSIFY, 2 + index % 2, expected=expected) for index in range(10)),
            *(three.functions.place(ACME, CLASSIFY, draft(f"{i}"), activate=True, expected=expected) for i in range(5)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, PreconditionFailed) for result in results) == 14
        assert len(await rows(three)) == 4


class TestGuard:
    async def split(self, registry: Registry, guard: Guard = GUARD) -> Function:
        return await registry.functions.split(ACME, CLASSIFY, traffic((1, 80), (2, 20), guard=guard))

    async def test_a_candidate_that_fails_too_often_is_taken_back(self, three: Registry) -> None:
        function = await self.split(three)
        judge, number = three.functions.judge, function.revision
        assert await judge(ACME, CLASSIFY, number, {2: (40, 40)}) is None  # not yet enough to judge
        change = await judge(ACME, CLASSIFY, number, {2: (10, 0)})
        assert change is not None
        assert (change.action, change.version, change.active, change.author) == (Action.ROLLBACK, 2, 1, "guard")
        assert change.message == "40 of 50 requests failed within 60 s"
        now = await three.functions.get(ACME, CLASSIFY)
        assert (now.active, now.traffic) == (1, None)
        assert (await three.functions.history(ACME, CLASSIFY))[0] == change
        assert await three.connection.hash_all(key(ACME, Kind.GUARDS)) == {}
        assert await judge(ACME, CLASSIFY, number, {2: (100, 100)}) is None

    async def test_one_that_fails_just_as_often_as_it_may_stays(self, three: Registry) -> None:
        function = await self.split(three)
        assert await three.functions.judge(ACME, CLASSIFY, function.revision, {2: (100, 5)}) is None
        assert await three.functions.judge(ACME, CLASSIFY, function.revision, {2: (1, 1)}) is not None

    async def test_what_was_counted_under_another_traffic_is_not_judged(self, three: Registry) -> None:
        former = await self.split(three)
        assert await three.functions.judge(ACME, CLASSIFY, former.revision, {2: (49, 49)}) is None
        latter = await self.split(three)
        assert await three.functions.judge(ACME, CLASSIFY, former.revision, {2: (1000, 1000)}) is None
        assert await three.functions.judge(ACME, CLASSIFY, latter.revision, {2: (49, 49)}) is None
        assert (await three.functions.get(ACME, CLASSIFY)).traffic == latter.traffic

    async def test_what_is_older_than_the_window_counts_no_more(self, three: Registry) -> None:
        function = await self.split(three, Guard(max_errors_per_million=0, min_requests=2, window_s=1))
        assert await three.functions.judge(ACME, CLASSIFY, function.revision, {2: (1, 1)}) is None
        start = (await three.connection.command("TIME"))[0]
        async with asyncio.timeout(30):
            while (await three.connection.command("TIME"))[0] < start + 2:
                await asyncio.sleep(0.05)
        assert await three.functions.judge(ACME, CLASSIFY, function.revision, {2: (1, 1)}) is None

    async def test_of_two_nodes_one_rolls_back_and_an_activation_at_once_is_not_undone(self, three: Registry) -> None:
        for index in range(10):
            function = await self.split(three)
            judged = [three.functions.judge(ACME, CLASSIFY, function.revision, {2: (60, 60)}) for _ in range(2)]
            first, second, _ = await asyncio.gather(*judged, three.functions.activate(ACME, CLASSIFY, 3))
            assert first is None or second is None
            after = await three.functions.get(ACME, CLASSIFY)
            assert (after.active, after.traffic) == (3, None), index

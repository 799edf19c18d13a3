"""Uploads take turns by tenant."""

from __future__ import annotations

import asyncio

import pytest

from platforms import Tenancy
from wat import answering
from wisp.node import Node
from wisp.scheduling.uploads import UploadTurns, concurrent_uploads

PATIENCE_S = 30.0


class Crowd:
    """Uploads that hold their turn until they are told to end."""

    def __init__(self, concurrent: int = 1) -> None:
        self.turns = UploadTurns(concurrent)
        self.begun: list[str] = []
        self.working: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def come(self, *names: str) -> list[asyncio.Task[None]]:
        """A name's first letter is its tenant."""
        tasks = [asyncio.create_task(self._upload(name)) for name in names]
        self._tasks += tasks
        return tasks

    async def _upload(self, name: str) -> None:
        async with self.turns.take(name[0]):
            self.begun.append(name)
            self.working[name] = asyncio.Event()
            try:
                await self.working[name].wait()
            finally:
                del self.working[name]

    async def settle(self) -> list[str]:
        for _ in range(5):
            await asyncio.sleep(0)
        return sorted(self.working)

    async def work_off(self) -> list[str]:
        """The order in which all began."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.settle():
                next(iter(self.working.values())).set()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        return self.begun


async def test_a_second_tenants_upload_is_not_behind_ten_of_the_firsts() -> None:
    crowd = Crowd()
    crowd.come(*(f"a{number}" for number in range(10)))
    assert await crowd.settle() == ["a0"]
    crowd.come("b0", "b1")
    assert (await crowd.work_off())[:5] == ["a0", "a1", "b0", "a2", "b1"]
    assert len(crowd.begun) == 12


async def test_a_tenant_has_one_at_a_time_where_there_is_room_for_more() -> None:
    crowd = Crowd(concurrent=3)
    crowd.come("a0", "a1", "b0")
    assert await crowd.settle() == ["a0", "b0"]
    crowd.come("c0", "d0")
    assert await crowd.settle() == ["a0", "b0", "c0"]
    crowd.working["b0"].set()
    assert await crowd.settle() == ["a0", "c0", "d0"]
    assert len(await crowd.work_off()) == 5


@pytest.mark.parametrize("gone", ["a0", "a1", "a2"])
async def test_who_goes_away_leaves_the_turn_to_the_next(gone: str) -> None:
    crowd = Crowd()
    uploads = crowd.come("a0", "a1", "a2", "b0")
    await crowd.settle()
    uploads[int(gone[1])].cancel()
    begun = await crowd.work_off()
    assert set(begun) == {"a0", "a1", "a2", "b0"} - ({gone} - {"a0"})
    crowd.come("a3")
    assert await crowd.settle() == ["a3"]
    await crowd.work_off()


async def test_a_turn_that_comes_as_its_taker_goes_is_passed_on() -> None:
    crowd = Crowd()
    _, second, _ = crowd.come("a0", "b0", "c0")
    await crowd.settle()
    crowd.working["a0"].set()
    while "a0" in crowd.working:
        await asyncio.sleep(0)
    second.cancel()
    assert (await crowd.work_off())[-1] == "c0"


@pytest.mark.parametrize(("cores", "uploads"), [(1, 1), (2, 1), (4, 2), (64, 32)])
def test_requests_keep_half_of_the_cores(cores: int, uploads: int) -> None:
    assert concurrent_uploads(cores) == uploads


async def test_the_compilers_of_a_node_serve_a_second_tenant_before_the_rest_of_the_firsts(
    node: Node, acme: Tenancy, globex: Tenancy
) -> None:
    finished: list[str] = []

    async def deploy(tenancy: Tenancy, number: int) -> None:
        await tenancy.deploy(f"f{number}", answering(f"{tenancy.name} {number}".encode()))
        finished.append(tenancy.name)

    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(deploy(acme, number))
        while not finished:  # the first is through: all others have long been waiting for their turn
            await asyncio.sleep(0.01)
        group.create_task(deploy(globex, 0))
    assert finished[-1] == acme.name
    assert (await globex.call("f0")).body == b"globex 0"

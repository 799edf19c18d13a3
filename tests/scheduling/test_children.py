"""How the router hears that a child is gone, on the event loop that it runs on."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
import uvloop

from wisp.scheduling.children import Child
from wisp.wire.confinement import Limits

WAIT_S = 30.0


def compiler(directory: Path, ready: asyncio.Event, gone: asyncio.Future[str], *, niceness: int = 0) -> Child:
    return Child(
        "wisp.sandbox.compiler",
        limits=Limits(),
        empty_directory=directory,
        on_frame=lambda _: ready.set(),
        on_end=gone.set_result,
        niceness=niceness,
    )


@pytest.mark.parametrize("unread", [0, 1, 5])
def test_a_child_that_is_killed_is_gone_at_once_whatever_it_had_not_read(empty_directory: Path, unread: int) -> None:
    async def kill_one() -> str:
        ready, gone = asyncio.Event(), asyncio.get_running_loop().create_future()
        child = compiler(empty_directory, ready, gone)
        async with asyncio.timeout(WAIT_S):
            await ready.wait()
            os.kill(child.pid, signal.SIGSTOP)
            for _ in range(unread):
                child.send(1, b"never read")
            os.kill(child.pid, signal.SIGKILL)
            reason: str = await gone
            assert await child.reaped() == -signal.SIGKILL
        return reason

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(kill_one()) == "it closed its socket"


async def test_a_child_is_less_urgent_from_its_first_moment_on(empty_directory: Path) -> None:
    ready, gone = asyncio.Event(), asyncio.get_running_loop().create_future()
    child = compiler(empty_directory, ready, gone, niceness=7)
    expected = os.getpriority(os.PRIO_PROCESS, 0) + 7
    born = os.getpriority(os.PRIO_PROCESS, child.pid)
    async with asyncio.timeout(WAIT_S):
        await ready.wait()
        threads = {
            os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in Path(f"/proc/{child.pid}/task").iterdir()
        }
        child.kill("the test is over")
        await gone
        await child.reaped()
    assert born == expected
    assert threads == {expected}

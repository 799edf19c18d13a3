"""What uses little runs in real time, what begins to use more does not any longer, and where the operator or the kernel
says no, nothing does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from served import Served, connected, served_platform
from wat import LOOP, handler
from wisp.cores import quota_cores
from wisp.scheduling.appetites import LONG_NICENESS, processor_clock, slow_down
from wisp.scheduling.guestthread import GuestThread
from wisp.scheduling.precedence import BEHIND_PRIORITY, ROUTER_PRIORITY, WINDOW_NS, Process, Thrift
from wisp.scheduling.runtimes import KNOWN_RUNS, PROMPT_NS, RunTime

PATIENCE_S = 30.0
STEP_NS = 100_000_000

LONG = b'{"wisp": 1, "abi": "handler", "limits": {"fuel": "400M", "timeout": "2s"}}'
"""Some 30 ms of a core; JSON is YAML."""

RUN = """
import asyncio, os, sys, time
from wisp.scheduling.precedence import Precedence
from wisp.wire.kernel import CAP_SYS_NICE, capabilities, set_capabilities

def without_privilege():
    effective, permitted, _ = capabilities()
    set_capabilities(effective & ~(1 << CAP_SYS_NICE), permitted & ~(1 << CAP_SYS_NICE))

async def main():
    exec(sys.argv[1])
    precedence = Precedence()
    task = asyncio.create_task(precedence.run())
    async def stands(real):
        async with asyncio.timeout(20):
            while (os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR) is not real:
                spin_until = time.monotonic() + (0.05 if not real else 0)
                while time.monotonic() < spin_until: pass
                await asyncio.sleep(0.01 if real else 0)
    exec("async def script():\\n " + sys.argv[2].replace("\\n", "\\n "), locals() | globals(), found := {})
    await found["script"]()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK != os.SCHED_RR
    print("as told")

asyncio.run(main())
"""


def permitted() -> bool:
    """Whether this machine and this user let anything of the tests run in real time."""
    code = "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))"
    ends = subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False).returncode
    plain = os.sched_getscheduler(0) == os.SCHED_OTHER and os.getpriority(os.PRIO_PROCESS, 0) <= 0
    return ends == 0 and plain and quota_cores() is None


needs_permission = pytest.mark.skipif(not permitted(), reason="nothing may run in real time here")


def place(thread: int) -> tuple[int, int]:
    """(policy, priority). Raises `ProcessLookupError`."""
    return os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK, os.sched_getparam(thread).sched_priority


ROUTER, BEHIND, AMONG = (os.SCHED_RR, ROUTER_PRIORITY), (os.SCHED_RR, BEHIND_PRIORITY), (os.SCHED_OTHER, 0)


def threads(pid: int) -> list[int]:
    return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, what
        time.sleep(0.02)


def told(script: str, *, before: str = "pass") -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, before, script], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.stdout == "as told\n", done.stderr


@contextmanager
def sleeper() -> Iterator[int]:
    """A process of three threads that uses nothing."""
    code = (
        "import threading, sys\n"
        "for _ in range(2): threading.Thread(target=sys.stdin.read, daemon=True).start()\n"
        "print(1, flush=True); threading.Event().wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


def test_thrift_is_lost_by_what_is_used_over_a_while_and_regained_well_below_that() -> None:
    thrift = Thrift(0.5)
    thrift.note(STEP_NS, STEP_NS)
    assert thrift.kept, "one busy tenth of a second is no way of life"
    for _ in range(WINDOW_NS // STEP_NS):
        thrift.note(STEP_NS, STEP_NS)
    assert not thrift.kept
    for _ in range(100):
        thrift.note(int(0.49 * STEP_NS), STEP_NS)
    assert not thrift.kept, "it would go back and forth"
    for _ in range(100):
        thrift.note(int(0.44 * STEP_NS), STEP_NS)
    assert thrift.kept


def test_a_look_that_comes_late_counts_for_all_that_passed() -> None:
    thrift = Thrift(0.5)
    thrift.note(10 * WINDOW_NS, 10 * WINDOW_NS)
    assert not thrift.kept


def test_a_function_is_prompt_once_enough_of_its_runs_are_known_and_short() -> None:
    runtime = RunTime()
    for _ in range(KNOWN_RUNS - 1):
        runtime.note(PROMPT_NS // 10)
    assert not runtime.prompt
    runtime.note(PROMPT_NS // 10)
    assert runtime.prompt
    for _ in range(KNOWN_RUNS):
        runtime.note(2 * PROMPT_NS)
    assert not runtime.prompt


@needs_permission
def test_all_threads_of_a_process_go_first_and_back() -> None:
    with sleeper() as pid:
        process = Process(pid, BEHIND_PRIORITY, 0.5)
        process.put(first=True)
        assert [place(each) for each in threads(pid)] == [BEHIND] * 3
        process.put(first=False)
        assert [place(each) for each in threads(pid)] == [AMONG] * 3
        process.put(first=True)
        slow_down(pid)
        assert [place(each) for each in threads(pid)] == [AMONG] * 3
        assert [os.getpriority(os.PRIO_PROCESS, each) for each in threads(pid)] == [LONG_NICENESS] * 3
    process.look(STEP_NS)  # it has ended
    process.put(first=False)


@needs_permission
def test_a_thread_that_was_slowed_down_goes_first_once_its_guest_has_ended() -> None:
    with sleeper() as pid:
        thread = GuestThread()
        thread.follow(pid, pid)
        thread.slow_down()
        thread.put(first=True)
        assert place(pid) == AMONG, "its guest still runs"
        thread.hand_over()
        assert place(pid) == BEHIND
        assert os.getpriority(os.PRIO_PROCESS, pid) == LONG_NICENESS, "it would not know that it is to be replaced"
        thread.put(first=False)
        assert place(pid) == AMONG, "it was told too late, and the next guest runs on it"
        thread.hand_over()
        thread.slow_down()
        assert place(pid) == AMONG, "and that one runs long as well"


@needs_permission
def test_the_router_loses_it_while_it_is_busy_and_hands_it_to_nobody() -> None:
    told(
        "await stands(True)\n"
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "found = os.sched_getscheduler(child.pid)\n"
        "child.kill(), child.wait()\n"
        "assert found == os.SCHED_OTHER, found\n"
        "await stands(False)\n"
        "await stands(True)"
    )


@needs_permission
@pytest.mark.parametrize(
    ("before", "why"),
    [
        ("os.nice(1)", "niceness"),
        ("os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))", "scheduling policy"),
        ("without_privilege()", "CAP_SYS_NICE"),
    ],
)
def test_where_the_operator_or_the_kernel_says_no_nothing_runs_in_real_time(before: str, why: str) -> None:
    told(
        "await asyncio.wait_for(task, 20)\n"
        "assert not precedence.guests\n"
        f"assert {why!r} in said.getvalue(), said.getvalue()",
        before=f"import io, logging; said = io.StringIO(); logging.basicConfig(stream=said, level=20); "
        f"globals()['said'] = said; {before}",
    )


async def call(served: Served, function: str, times: int) -> None:
    async with connected(served.port) as connection:
        for _ in range(times):
            answer = await connection.request("POST", f"/t/acme/{function}", key=served.key("acme"))
            assert answer.outcome in ("ok", "fuel_exhausted"), answer


def deploy(served: Served, function: str, module: bytes, policy: bytes) -> None:
    url = f"http://127.0.0.1:{served.port}/v1/tenants/acme/functions/{function}"
    key = {"authorization": f"Bearer {served.key('acme')}"}
    httpx.put(url, files={"module": module, "policy": policy}, headers=key, timeout=30).raise_for_status()


def places(*pids: int) -> set[tuple[int, int]]:
    found = set()
    for thread in (thread for pid in pids for thread in threads(pid)):
        with suppress(ProcessLookupError):
            found.add(place(thread))
    return found


def used_ns(pid: int) -> int:
    return time.clock_gettime_ns(processor_clock(pid))


@needs_permission
async def test_a_platform_puts_router_hosts_and_prompt_guests_first_and_nobody_else(tmp_path: Path) -> None:
    with served_platform(tmp_path, "--dev") as served:
        served.wait_for("globex/hello")
        hosts, sandboxes = served.child("wisp.inference.host"), served.child("wisp.sandbox.main")
        wait_until(lambda: place(served.pid) == ROUTER, "the router does not go first")
        wait_until(lambda: places(*hosts) == {BEHIND}, "the host does not go first")
        assert places(*sandboxes) == {AMONG}, "of guests nothing is known yet"
        await call(served, "hello", 4 * KNOWN_RUNS)
        assert BEHIND in places(*sandboxes)
        before_ns = {pid: used_ns(pid) for pid in sandboxes}
        deploy(served, "loop", handler(LOOP), LONG)
        await call(served, "loop", 2 * KNOWN_RUNS)
        burnt = max(sandboxes, key=lambda pid: used_ns(pid) - before_ns[pid])
        wait_until(lambda: places(burnt) == {AMONG}, "one that computes for long goes before others")
        assert places(*served.children().keys() - {*hosts, *sandboxes}) <= {AMONG}, "what else there is was not meant"
        assert served.stop() == 0

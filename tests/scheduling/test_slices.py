"""Who asks for short slices stays what it was otherwise, and what it starts has them too; what is made less urgent has
long ones from then on."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys

import pytest

from wisp.scheduling.slices import LONG_SLICE_NS, SLICE_NS, make_less_urgent
from wisp.wire.kernel import MACHINE

SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
ASK = """
import os, subprocess, sys, threading
from wisp.scheduling.slices import ask_for_short_slices
if sys.argv[1]:
    os.sched_setscheduler(0, int(sys.argv[1]), os.sched_param(0))
os.nice(3)
asked = ask_for_short_slices()
thread = threading.Thread(target=sys.stdin.read, daemon=True)
thread.start()
child = subprocess.Popen(["sleep", "60"])
print(int(asked), thread.native_id, child.pid, flush=True)
thread.join()
child.kill()
child.wait()
"""


def attributes(thread: int) -> tuple[int, int, int]:
    """Policy, niceness and slice, which is 0 on a kernel that knows none."""
    found = ctypes.create_string_buffer(64)
    number = ctypes.c_long(SCHED_GETATTR[MACHINE])
    assert ctypes.CDLL(None).syscall(number, ctypes.c_long(thread), found, ctypes.c_long(64), ctypes.c_long(0)) == 0
    _, policy, _, niceness, _, slice_ns = struct.unpack_from("=IIQiIQ", found)
    return policy, niceness, slice_ns


@pytest.mark.skipif(MACHINE not in SCHED_GETATTR, reason="the call's number is not known here")
@pytest.mark.parametrize("policy", [os.SCHED_OTHER, os.SCHED_BATCH])
def test_who_asks_keeps_policy_and_niceness_and_hands_the_slice_on(policy: int) -> None:
    known = attributes(0)[2]
    chosen = "" if policy == os.SCHED_OTHER else str(policy)
    with subprocess.Popen(
        [sys.executable, "-c", ASK, chosen], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            asked, thread, child = map(int, process.stdout.readline().split())
            niceness = os.getpriority(os.PRIO_PROCESS, 0) + 3
            found = [attributes(each) for each in (process.pid, thread, child)]
        finally:
            process.communicate(timeout=30)
    assert asked == (policy == os.SCHED_OTHER)
    assert {each[:2] for each in found} == {(policy, niceness)}
    if known and asked:
        assert {each[2] for each in found} == {SLICE_NS}


@pytest.mark.skipif(MACHINE not in SCHED_GETATTR, reason="the call's number is not known here")
@pytest.mark.parametrize("policy", [os.SCHED_OTHER, os.SCHED_BATCH])
def test_what_is_made_less_urgent_is_interrupted_sooner_than_what_is_not(policy: int) -> None:
    known = attributes(0)[2]
    with subprocess.Popen(
        [sys.executable, "-c", ASK, str(policy)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            _, thread, child = map(int, process.stdout.readline().split())
            before = attributes(process.pid)
            for each in (thread, child):
                make_less_urgent(each, 15)
            found = [attributes(each) for each in (thread, child)]
            assert attributes(process.pid) == before
        finally:
            process.communicate(timeout=30)
    assert {each[:2] for each in found} == {(policy, 15)}
    if known:
        assert {each[2] for each in found} == {LONG_SLICE_NS}
    make_less_urgent(child, 15)  # it is gone

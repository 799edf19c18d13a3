"""What a sandbox claims is worth nothing where the router can measure it, and little where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from wisp.scheduling.measures import Measure
from wisp.wire.invocations import FunctionLink
from wisp.wire.meters import Meter
from wisp.wire.outcome import NN_FUEL_PER_MS, Receipt, nn_fuel

LIES = 2**62
LINK = FunctionLink(
    handle=1, module="", abi="handler", entrypoint="", fuel=1_000, memory_bytes=65_536, response_bytes=0, log_bytes=0,
    environment=(), models=(), clock="real", random="real", trap_on_violation=True,
)  # fmt: skip


@pytest.fixture
def measure() -> Iterator[Measure]:
    """Of a process that computes for a moment and then waits."""
    program = "import time\nwhile time.process_time() < 0.05: pass\nprint('done', flush=True)\ntime.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    measure = Measure()
    measure.follow(process.pid)
    measure.begin(1)
    assert process.stdout is not None
    assert process.stdout.readline() == b"done\n"
    yield measure
    process.kill()
    process.communicate(timeout=30)
    measure.drop_meter()


def host_of(measure: Measure) -> Meter:
    """The meter's other end."""
    return measure.renew_meter()


def test_inference_is_what_the_host_counted_whatever_the_sandbox_says(measure: Measure) -> None:
    host = host_of(measure)
    host.begin(1)
    host.add(1, 3_000, 128)
    for claimed in (Receipt(), Receipt(nn_ns=LIES, inferences=9, tensor_bytes=LIES)):
        receipt = measure.end(claimed, LINK)
        assert (receipt.nn_ns, receipt.inferences, receipt.tensor_bytes) == (3_000, 1, 128)
        assert receipt.nn_fuel == receipt.fuel == nn_fuel(3_000) == 3_000 * NN_FUEL_PER_MS // 1_000_000


def test_a_claim_counts_up_to_what_the_function_may_use(measure: Measure) -> None:
    receipt = measure.end(Receipt(fuel=LIES, memory_peak_bytes=LIES, guest_ns=LIES, store_ns=LIES, cpu_ns=LIES), LINK)
    assert (receipt.fuel, receipt.memory_peak_bytes) == (LINK.fuel, LINK.memory_bytes)
    assert max(receipt.guest_ns, receipt.store_ns, receipt.cpu_ns) < LIES


def test_a_dead_processs_time_is_known_until_it_is_reaped() -> None:
    program = "import time\nwhile time.process_time() < 0.05: pass"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        measure = Measure()
        measure.follow(process.pid)
        measure.begin(1)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert measure.end(Receipt(), LINK).cpu_ns > 0
        process.wait(30)
        assert measure.end(Receipt(), LINK).cpu_ns == 0


def test_cpu_time_is_the_kernels(measure: Measure) -> None:
    assert measure.end(Receipt(cpu_ns=0), LINK).cpu_ns > 0
    measure.begin(2)
    assert measure.end(Receipt(cpu_ns=0), LINK).cpu_ns < 50_000_000, "the former invocation's is not counted"


def test_a_replaced_meter_stays_counted_for_its_invocation_alone(measure: Measure) -> None:
    host = host_of(measure)
    host.begin(1)
    host.add(1, 3_000, 128)
    measure.drop_meter()
    assert measure.end(Receipt(), LINK).nn_ns == 3_000
    host = host_of(measure)
    host.begin(1)
    host.add(1, 2_000, 1)
    assert measure.end(Receipt(), LINK).nn_ns == 5_000
    measure.begin(2)
    assert measure.end(Receipt(), LINK).nn_ns == 0


def test_a_slot_infers_one_thing_at_a_time_so_no_longer_than_it_ran(measure: Measure) -> None:
    host = host_of(measure)
    host.begin(1)
    host.add(1, LIES, 0)
    assert measure.end(Receipt(), LINK).nn_ns < LIES

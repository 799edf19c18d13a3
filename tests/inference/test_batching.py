"""Inferences that share a run: each answer is the one that it would have had alone, whatever happens to the others.

A host with a batch delay as long as the test waits until a batch is full, so what runs together is what the test says.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from inference import onnx_models
from inference.peers import Answer, Router, Sandbox
from wisp.wire.inferences import Status

F32 = np.float32
RELATIVE = 1e-5
"""Of the largest value in an answer: what the order of sums in another kernel may change. Whole numbers are exact."""
LONG_NS = 15_000_000_000

Array = npt.NDArray[Any]


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Router]:
    """A host that waits for a batch to be full."""
    router = Router(tmp_path, threads=1, delay_ns=LONG_NS)
    yield router
    assert router.finish() == 0


def callers(router: Router, count: int, *, handle: int = 1, first: int = 0) -> list[Sandbox]:
    """Slots with an invocation of their own number open."""
    slots = [router.slot(number) for number in range(first, first + count)]
    for slot in slots:
        router.open(slot, slot.number, handle)
    return slots


def together(slots: list[Sandbox], inputs: list[Array]) -> list[Answer]:
    for slot, array in zip(slots, inputs, strict=True):
        slot.start(slot.number, array)
    return [slot.answer(slot.number) for slot in slots]


def rows(answer: Answer) -> int:
    """With how many rows `onnx_models.company` was run."""
    assert answer.status is Status.OK
    return int(answer.outputs[1].flat[0])


def test_a_batch_answers_as_each_alone(patient: Router) -> None:
    model = onnx_models.gemm(64)
    patient.load("many", model, batch=16)
    patient.load("one", model)
    patient.bind(1, "many", "one")
    slots = callers(patient, 5)
    rng = np.random.default_rng(3)
    inputs = [rng.standard_normal((count, 64), F32) for count in (1, 2, 3, 4, 6)]
    answers = together(slots, inputs)
    for slot, array, answer in zip(slots, inputs, answers, strict=True):
        alone = slot.compute(slot.number, array, model=1)
        assert answer.status is alone.status is Status.OK
        assert answer.nn_ns > 0
        (many,), (single,) = answer.outputs, alone.outputs
        np.testing.assert_allclose(many, single, rtol=0, atol=RELATIVE * float(np.abs(single).max()))


def test_they_ran_together(patient: Router) -> None:
    patient.load("m", onnx_models.company(), batch=8)
    patient.bind(1, "m", tenant="one")
    patient.bind(2, "m", tenant="two")
    slots = callers(patient, 4) + callers(patient, 2, handle=2, first=4)
    inputs = [np.full((count, 3), count * 10 + number, F32) for number, count in enumerate((1, 2, 1, 1, 2, 1))]
    for answer, array in zip(together(slots, inputs), inputs, strict=True):
        assert rows(answer) == 8
        assert np.array_equal(answer.outputs[0], array)


def test_mlserver_1_nobody_gets_anothers_rows_on_mixed_shapes(patient: Router) -> None:
    """Two shapes arrive mixed; MLServer's batcher gave one caller another's rows."""
    patient.load("m", onnx_models.company(), batch=4)
    patient.bind(1, "m")
    slots = callers(patient, 8)
    inputs = [np.full((1, 3 + number % 2), number, F32) for number in range(8)]
    for answer, array in zip(together(slots, inputs), inputs, strict=True):
        assert rows(answer) == 4
        assert answer.outputs[0].shape == array.shape
        assert np.array_equal(answer.outputs[0], array)


def test_mlserver_2_nobody_hangs_when_a_third_is_cancelled(patient: Router) -> None:
    """One of three that wait for a full batch leaves; MLServer's batcher left the others without an answer."""
    patient.load("m", onnx_models.company(), batch=4)
    patient.bind(1, "m")
    slots = callers(patient, 5)
    for slot in slots[:3]:
        slot.start(slot.number, np.full((1, 2), slot.number, F32))
    patient.close_invocation(slots[2], slots[2].number)
    assert slots[2].answer(slots[2].number).status is Status.UNKNOWN_INVOCATION
    for slot in slots[3:]:
        slot.start(slot.number, np.full((1, 2), slot.number, F32))
    for slot in (*slots[:2], *slots[3:]):
        answer = slot.answer(slot.number)
        assert answer.status is Status.OK
        assert np.array_equal(answer.outputs[0], np.full((1, 2), slot.number, F32))


def test_a_caller_that_leaves_in_the_middle_of_a_run_touches_nobody(patient: Router) -> None:
    patient.load("slow", onnx_models.counting(200_000), batch=3)
    patient.bind(1, "slow")
    patient.bind(2, "slow", max_time_ms=1)
    slots = [*callers(patient, 2), *callers(patient, 1, handle=2, first=2)]
    for slot in slots:
        slot.start(slot.number, np.full((1, 1), slot.number, F32))
    assert slots[2].answer(2).status is Status.MODEL_TIME, "it runs; this one's time is up"
    patient.close_invocation(slots[1], 1)
    assert slots[1].answer(1).status is Status.UNKNOWN_INVOCATION
    answer = slots[0].answer(0)
    assert answer.status is Status.OK
    assert answer.outputs[0].tolist() == [[200_000]]


def test_a_run_that_everybody_left_ends(patient: Router) -> None:
    patient.load("endless", onnx_models.counting(2**62), batch=2)
    patient.load("m", onnx_models.company(), batch=1)
    patient.bind(1, "endless", "m")
    slots = callers(patient, 2)
    for slot in slots:
        slot.start(slot.number, np.zeros((1, 1), F32))
    for slot in slots:
        patient.close_invocation(slot, slot.number)
        assert slot.answer(slot.number).status is Status.UNKNOWN_INVOCATION
    patient.open(slots[0], 50)
    assert slots[0].compute(50, np.zeros((1, 1), F32), model=1).status is Status.OK


def test_a_failing_batch_is_run_again_one_by_one(patient: Router) -> None:
    patient.load("table", onnx_models.table(), batch=5)
    patient.bind(1, "table")
    slots = callers(patient, 5)
    numbers = [1, 2, 99, 4, 5]
    answers = together(slots, [np.array([number], np.int64) for number in numbers])
    for number, answer in zip(numbers, answers, strict=True):
        if number == 99:
            assert answer.status is Status.RUNTIME
        else:
            assert answer.outputs[0].tolist() == [number**2]


def test_a_model_that_has_no_row_for_each_row_is_batched_no_more(patient: Router) -> None:
    patient.load("total", onnx_models.total(), batch=2)
    patient.bind(1, "total")
    slots = callers(patient, 2)
    for number in range(2):
        answers = together(slots, [np.array([[1, 2, 3]], F32), np.array([[10, 20, 30]], F32)])
        assert [answer.outputs[0].tolist() for answer in answers] == [[1, 2, 3], [10, 20, 30]], number
    patient.finish()
    assert patient.stderr.count(b"it is run singly from now on") == 1


def test_a_batch_stays_within_a_tenant_unless_the_binding_lets_it_out(patient: Router) -> None:
    patient.load("m", onnx_models.company(), batch=2)
    for handle, tenant in enumerate(("one", "two"), 1):
        patient.bind(handle, "m", tenant=tenant, shares_batches=False)
    one, two = callers(patient, 2), callers(patient, 2, handle=2, first=2)
    slots = [one[0], two[0], one[1], two[1]]
    inputs = [np.full((1, 2), number, F32) for number in range(4)]
    for slot, array in zip(slots[:2], inputs[:2], strict=True):
        slot.start(slot.number, array)
    one[0].channel.sock.settimeout(0.5)
    with pytest.raises(TimeoutError):  # the first of each has no company yet
        one[0].answer(one[0].number)
    for slot, array in zip(slots[2:], inputs[2:], strict=True):
        slot.start(slot.number, array)
    one[0].channel.sock.settimeout(20)
    for slot, array in zip(slots, inputs, strict=True):
        answer = slot.answer(slot.number)
        assert rows(answer) == 2
        assert np.array_equal(answer.outputs[0], array)


def test_what_fills_a_batch_alone_and_what_the_model_does_not_batch_run_at_once(patient: Router) -> None:
    patient.load("m", onnx_models.company(), batch=4)
    patient.load("single", onnx_models.company())
    patient.bind(1, "m", "single")
    (slot,) = callers(patient, 1)
    assert rows(slot.compute(0, np.zeros((4, 2), F32))) == 4
    assert rows(slot.compute(0, np.zeros((9, 2), F32))) == 9
    assert rows(slot.compute(0, np.zeros((1, 2), F32), model=1)) == 1


def test_nothing_waits_where_no_delay_is_set(router: Router) -> None:
    router.load("m", onnx_models.company(), batch=8)
    router.bind(1, "m")
    (slot,) = callers(router, 1)
    assert rows(slot.compute(0, np.zeros((1, 2), F32))) == 1


def test_a_tenant_with_as_many_slots_as_threads_does_not_keep_another_out(router: Router) -> None:
    router.load("endless", onnx_models.counting(2**62))
    router.load("m", onnx_models.company(), batch=8)
    router.bind(1, "endless", tenant="hog")
    router.bind(2, "m", tenant="modest")
    hogs = callers(router, 6)
    for slot in hogs:
        slot.start(slot.number, np.zeros((1, 1), F32))
    modest = callers(router, 2, handle=2, first=6)
    for _ in range(5):
        for answer in together(modest, [np.ones((1, 2), F32)] * 2):
            assert answer.status is Status.OK


def test_many_callers_of_many_tenants_in_mixed_shapes_each_get_their_own(router: Router) -> None:
    """Whatever happens to run together under load, and with callers that leave all the time."""
    router.load("m", onnx_models.gemm(16), batch=32)
    router.load("one", onnx_models.gemm(16))
    for handle in range(1, 5):
        router.bind(handle, "m", "one", tenant=f"tenant-{handle}", weight=handle)
    slots = [router.slot(number, 1 << 16) for number in range(12)]
    for slot in slots:
        router.open(slot, 1000 + slot.number, 1 + slot.number % 4)
    leaver = router.slot(99)

    def work(slot: Sandbox) -> int:
        rng = np.random.default_rng(slot.number)
        for turn in range(40):
            x = rng.standard_normal((1 + turn % 3, 16), F32)
            many = slot.compute(1000 + slot.number, x)
            alone = slot.compute(1000 + slot.number, x, model=1)
            assert many.status is alone.status is Status.OK
            scale = float(np.abs(alone.outputs[0]).max())
            np.testing.assert_allclose(many.outputs[0], alone.outputs[0], rtol=0, atol=RELATIVE * scale)
        return slot.number

    with ThreadPoolExecutor(len(slots)) as pool:
        working = pool.map(work, slots)
        for number in range(100):
            router.open(leaver, number, 1)
            leaver.start(number, np.ones((1, 16), F32))
            router.close_invocation(leaver, number)
            assert leaver.answer(number).status in (Status.OK, Status.UNKNOWN_INVOCATION)
        assert list(working) == list(range(12))

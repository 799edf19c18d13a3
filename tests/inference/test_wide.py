"""Runs on several threads: who gets one, who does not, and that the answers are the same."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from inference import onnx_models
from inference.peers import PATIENCE_S, Router, Sandbox
from wisp.inference.desk import Desk
from wisp.inference.sessions import LoadedModel
from wisp.inference.slots import Slot
from wisp.inference.wide import MOST_HELPERS, TRY_AGAIN, TRY_AGAIN_MOST, Cores, Wide, WideModels
from wisp.inference.workers import Workers
from wisp.wire.channel import Channel, socket_pair
from wisp.wire.inferences import Binding, BoundModel, Status
from wisp.wire.meters import Meter
from wisp.wire.segments import Segment, create_fixed
from wisp.wire.tensors import ElementType, TensorSpec

F32 = np.float32
ONE, ALL = 2.0, 3.0
"""The factors of two models: which of them answered says on which session a run was."""
SPEC = TensorSpec(name="x", dtype=ElementType.F32, shape=(-1,))
COLUMNS = 256


def session(factor: float) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(onnx_models.scale(factor), providers=["CPUExecutionProvider"])


def wide(threads: int = 2) -> Wide:
    return Wide(session=session(ALL), threads=threads)


def cores(path: Path, running: int) -> Cores:
    path.write_text(f"0.50 0.40 0.30 {running}/321 4567\n")
    return Cores(str(path), 2)


@contextmanager
def desk(idle: Cores, model: Wide) -> Iterator[tuple[Desk, list[Sandbox]]]:
    """With two slots; handle 1 has the model."""
    made = Desk(threads=2, idle=idle, drain=lambda: None, alarm=lambda: None, watch=lambda _: None)
    made.put_model(LoadedModel(digest="m", session=session(ONE), inputs=(SPEC,), outputs=(SPEC,), wide=model))
    bound = BoundModel(digest="m", max_inferences=1000, max_time_ns=2**62)
    made.bind(Binding(handle=1, tenant="acme", models=(bound,)))
    sandboxes = []
    for number in range(2):
        mine, theirs = socket_pair()
        mine.settimeout(PATIENCE_S)
        tensors, meter = create_fixed("tensors", 1 << 16), Meter.create()
        host_side = Meter(Segment(os.dup(meter.fd)))
        made.attach(Slot(number, theirs, Segment(os.dup(tensors)), host_side))
        sandboxes.append(Sandbox(Channel(mine), Segment(tensors), meter, number))
    workers = Workers(made)
    try:
        yield made, sandboxes
    finally:
        made.stop()
        ended = workers.join(PATIENCE_S)
        for sandbox in sandboxes:
            sandbox.close()
        assert ended


def factor(sandbox: Sandbox, invocation: int) -> float:
    answer = sandbox.compute(invocation, np.ones(1, F32))
    assert answer.status is Status.OK
    return float(answer.outputs[0][0])


def test_what_runs_alone_gets_all_threads_once_one_threads_time_is_known(tmp_path: Path) -> None:
    model = wide()
    with desk(cores(tmp_path / "loadavg", 1), model) as (made, (sandbox, _)):
        made.open(0, 1, 7, 2**62)
        assert factor(sandbox, 7) == ONE
        model.one_thread_ns = 1e12
        assert [factor(sandbox, 7) for _ in range(3)] == [ALL] * 3
        answer = sandbox.compute(7, np.ones(1, F32))
        assert sandbox.meter.read(7).inferences == 5
        assert answer.nn_ns % 2 == 0, "both threads' time is charged"


def test_beside_another_invocation_a_run_has_one_thread(tmp_path: Path) -> None:
    with desk(cores(tmp_path / "loadavg", 1), wide()) as (made, (sandbox, other)):
        made.open(0, 1, 7, 2**62)
        factor(sandbox, 7)
        made.open(other.number, 1, 8, 2**62)
        assert [factor(sandbox, 7) for _ in range(3)] == [ONE] * 3
        made.close(other.number, 8)
        assert factor(sandbox, 7) == ALL


@pytest.mark.parametrize("says", ["0.50 0.40 0.30 2/321 4567\n", "", "not what proc(5) has\n"])
def test_where_no_core_is_free_or_nobody_knows_a_run_has_one_thread(tmp_path: Path, says: str) -> None:
    idle = cores(tmp_path / "loadavg", 1)
    (tmp_path / "loadavg").write_text(says)
    with desk(idle, wide()) as (made, (sandbox, _)):
        made.open(0, 1, 7, 2**62)
        assert [factor(sandbox, 7) for _ in range(3)] == [ONE] * 3


def test_this_machine_says_how_many_threads_want_to_run() -> None:
    assert Cores(count=1 << 30).are_free(1)
    assert not Cores(count=1).are_free(1), "this very thread has the one core"


def test_a_model_that_does_not_gain_is_run_on_one_thread_and_tried_again() -> None:
    model = wide()
    assert not model.pays(), "nothing is known of it"
    model.note(1, 1_000_000)
    assert model.pays()
    model.note(2, 700_000)
    assert model.pays(), "1.4 times the processor's time"
    for _ in range(20):
        model.note(2, 1_000_000)
    pauses = (TRY_AGAIN, 2 * TRY_AGAIN, 4 * TRY_AGAIN, TRY_AGAIN_MOST, TRY_AGAIN_MOST)
    for pause in pauses:
        assert [model.pays() for _ in range(pause)] == [False] * (pause - 1) + [True]
        model.note(2, 1_000_000)
    assert [model.pays() for _ in range(TRY_AGAIN_MOST)][-1]
    for _ in range(3):
        model.note(2, 600_000)
        assert model.pays()
    for _ in range(20):
        model.note(2, 1_000_000)
    assert [model.pays() for _ in range(TRY_AGAIN)][-1], "it gained in between"


def test_one_run_that_was_held_up_does_not_decide() -> None:
    model = wide()
    model.note(1, 1_000_000)
    for _ in range(5):
        model.note(2, 600_000)
    model.note(2, 50_000_000)
    assert model.pays()


def test_the_threads_of_all_models_are_bounded() -> None:
    dropped: list[str] = []
    models = WideModels(dropped.append)
    for number in range(MOST_HELPERS + 2):
        models.add(f"m{number}", wide())
    assert dropped == ["m0", "m1"]
    models.forget("m2")
    models.add("more", wide())
    assert dropped == ["m0", "m1"]
    models.add("several", wide(4))
    assert dropped == ["m0", "m1", "m3", "m4", "m5"]


@pytest.mark.parametrize(("threads", "asked"), [(2, True), (2, False), (1, True)])
def test_a_host_opens_a_model_for_several_threads_where_it_may(tmp_path: Path, threads: int, asked: bool) -> None:
    """Whether a run there has them depends on what else runs on the machine; its answer does not."""
    made = onnx_models.gemm(COLUMNS)
    row = np.random.default_rng(3).standard_normal((1, COLUMNS), F32)
    expected = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"]).run(None, {"x": row})[0]
    router = Router(tmp_path, threads=2, cores=threads)
    try:
        tasks = Path(f"/proc/{router.process.pid}/task")
        before = len(list(tasks.iterdir()))
        assert router.load("m", made, wide=asked)["ok"]
        assert len(list(tasks.iterdir())) - before == int(threads == 2 and asked)
        sandbox = router.slot(0)
        router.bind(1, "m")
        router.open(sandbox, 7)
        for _ in range(20):
            answer = sandbox.compute(7, row)
            assert answer.status is Status.OK
            np.testing.assert_allclose(answer.outputs[0], expected, rtol=1e-4, atol=1e-4)
        router.unload("m")
        until = time.monotonic() + PATIENCE_S
        while (status := sandbox.compute(7, row).status) is Status.OK:  # the host has not heard of it yet
            assert time.monotonic() < until
            time.sleep(0.01)
        assert status is Status.RUNTIME
    finally:
        assert router.finish() == 0


def test_an_endless_run_on_all_threads_ends_at_its_deadline(tmp_path: Path) -> None:
    model = Wide(
        session=onnxruntime.InferenceSession(onnx_models.loop(), providers=["CPUExecutionProvider"]), threads=2
    )
    model.one_thread_ns = 1.0
    specs = (
        TensorSpec(name="trips", dtype=ElementType.I64, shape=(1,)),
        TensorSpec(name="x", dtype=ElementType.F32, shape=(1,)),
    )
    with desk(cores(tmp_path / "loadavg", 1), wide()) as (made, (sandbox, _)):
        made.put_model(LoadedModel(digest="m", session=session(ONE), inputs=specs, outputs=specs[1:], wide=model))
        made.open(0, 1, 7, 2**62)
        sandbox.start(7, np.array([2**62], np.int64), np.zeros(1, F32))
        sandbox.wait_until_it_runs(7)
        made.close(0, 7)
        assert sandbox.answer(7).status is Status.UNKNOWN_INVOCATION

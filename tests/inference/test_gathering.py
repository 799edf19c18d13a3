"""A run that waits for company: whoever comes to it is answered, whatever became of those who were there before."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime
import pytest

from inference import onnx_models
from inference.peers import PATIENCE_S, Sandbox
from wisp.inference import desk
from wisp.inference.desk import Desk
from wisp.inference.sessions import LoadedModel
from wisp.inference.slots import Slot
from wisp.inference.workers import Workers
from wisp.wire.channel import Channel, socket_pair
from wisp.wire.inferences import Binding, BoundModel, Status
from wisp.wire.meters import Meter
from wisp.wire.segments import Segment, create_fixed
from wisp.wire.tensors import ElementType, TensorSpec

SPEC = TensorSpec(name="x", dtype=ElementType.F32, shape=(-1,))
ROWS = 8


def test_who_comes_to_a_run_that_everybody_left_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "GATHER_STEP_S", 0.5)  # how long it may take to see that they have left
    made = Desk(threads=1, delay_ns=1_000_000_000, drain=lambda: None, alarm=lambda: None, watch=lambda _: None)
    session = onnxruntime.InferenceSession(onnx_models.scale(2.0), providers=["CPUExecutionProvider"])
    made.put_model(LoadedModel(digest="m", session=session, inputs=(SPEC,), outputs=(SPEC,), batch=ROWS))
    bound = BoundModel(digest="m", max_inferences=1, max_time_ns=2**62)
    made.bind(Binding(handle=1, tenant="acme", models=(bound,)))
    sandboxes = []
    for number in range(2):
        mine, theirs = socket_pair()
        mine.settimeout(PATIENCE_S)
        tensors, meter = create_fixed("tensors", 1 << 16), Meter.create()
        made.attach(Slot(number, theirs, Segment(os.dup(tensors)), Meter(Segment(os.dup(meter.fd)))))
        sandboxes.append(Sandbox(Channel(mine), Segment(tensors), meter, number))
    workers = Workers(made)
    first, second = sandboxes
    try:
        for sandbox in sandboxes:
            made.open(sandbox.number, 1, sandbox.number, 2**62)
        first.start(first.number, np.ones(1, np.float32))
        first.wait_until_it_runs(first.number)
        made.close(first.number, first.number)
        answer = second.compute(second.number, np.ones(ROWS - 1, np.float32))
        assert answer.status is Status.OK
        assert answer.outputs[0].tolist() == [2.0] * (ROWS - 1)
    finally:
        made.stop()
        ended = workers.join(PATIENCE_S)
        for sandbox in sandboxes:
            sandbox.close()
    assert ended

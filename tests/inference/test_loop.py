"""The inference host as a process: what router and sandboxes may rely on, and what a hostile slot cannot do."""

from __future__ import annotations

import os
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from inference import onnx_models
from inference.peers import Router, Sandbox
from wisp.wire import inferences as wire
from wisp.wire.inferences import Kind, Status
from wisp.wire.segments import create_frozen
from wisp.wire.tensors import ELEMENT_BYTES, HEAD, MAX_RANK, NUMPY_NAMES, ElementType, TensorRef, pack_tensors

F32 = np.float32
ENDLESS = (np.array([2**62], np.int64), np.zeros(1, F32))
"""Inputs on which `onnx_models.loop` does not come back."""
SHARED = Path(__file__).parents[3] / "shared" / "data"
ONNX_TYPES = {
    ElementType.F16: TensorProto.FLOAT16,
    ElementType.F32: TensorProto.FLOAT,
    ElementType.F64: TensorProto.DOUBLE,
    ElementType.U8: TensorProto.UINT8,
    ElementType.I32: TensorProto.INT32,
    ElementType.I64: TensorProto.INT64,
}


def honest(router: Router, number: int = 9) -> Sandbox:
    """A slot with invocation 900 open on a model that doubles; `check` says whether it still answers."""
    sandbox = router.slot(number)
    assert router.load("double", onnx_models.scale(2))["ok"]
    router.bind(90, "double", tenant="honest")
    router.open(sandbox, 900, 90)
    return sandbox


def check(sandbox: Sandbox) -> None:
    answer = sandbox.compute(900, np.array([1.5, -4], F32))
    assert answer.status is Status.OK
    assert answer.outputs[0].tolist() == [3, -8]


@pytest.mark.parametrize("element", list(ElementType))
@pytest.mark.parametrize("shape", [(3, 5), (0, 5), (1, 5)])
def test_each_element_type_comes_back_as_it_went(router: Router, element: ElementType, shape: tuple[int, ...]) -> None:
    assert router.load("id", onnx_models.identity(ONNX_TYPES[element], ["n", 5]))["ok"]
    sandbox = router.slot(0)
    router.bind(1, "id")
    router.open(sandbox, 7)
    sent = np.arange(np.prod(shape)).reshape(shape).astype(NUMPY_NAMES[element])
    answer = sandbox.compute(7, sent)
    assert answer.status is Status.OK
    assert answer.outputs[0].dtype == sent.dtype
    assert answer.outputs[0].shape == shape
    assert np.array_equal(answer.outputs[0], sent)


def test_scalars(router: Router) -> None:
    router.load("id", onnx_models.identity(TensorProto.FLOAT, []))
    sandbox = router.slot(0)
    router.bind(1, "id")
    router.open(sandbox, 7)
    answer = sandbox.compute(7, np.array(2.5, F32))
    assert answer.outputs[0].shape == ()
    assert answer.outputs[0] == 2.5


def test_several_inputs_and_outputs(router: Router) -> None:
    router.load("two", onnx_models.sum_and_difference())
    sandbox = router.slot(0)
    router.bind(1, "two")
    router.open(sandbox, 7)
    for n in (1, 100):  # the dimension is open
        a, b = np.arange(n, dtype=F32), np.full(n, 10, F32)
        answer = sandbox.compute(7, a, b)
        assert answer.status is Status.OK
        assert [output.dtype.name for output in answer.outputs] == ["float32", "float32", "int64"]
        assert np.array_equal(answer.outputs[0], a + b)
        assert np.array_equal(answer.outputs[1], a - b)
        assert answer.outputs[2].tolist() == [n]
        assert answer.nn_ns > 0


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ([np.zeros((2, 5), np.float64)], "the type"),
        ([np.zeros((2, 4), F32)], "a fixed dimension"),
        ([np.zeros(5, F32)], "the rank"),
        ([], "no input"),
        ([np.zeros((2, 5), F32)] * 2, "an input too many"),
    ],
)
def test_an_input_that_the_model_does_not_take_is_refused(
    router: Router, inputs: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]], why: str
) -> None:
    router.load("id", onnx_models.identity(TensorProto.FLOAT, ["n", 5]))
    sandbox = router.slot(0)
    router.bind(1, "id", max_inferences=1)
    router.open(sandbox, 7)
    assert sandbox.compute(7, *inputs).status is Status.INVALID_ARGUMENT, why
    assert sandbox.compute(7, np.zeros((1, 5), F32)).status is Status.OK, "a refusal does not use up the budget"


def test_what_one_model_took_is_judged_again_for_another(router: Router) -> None:
    """And for a model of the same name that was loaded anew."""
    router.load("five", onnx_models.identity(TensorProto.FLOAT, ["n", 5]))
    router.load("any", onnx_models.identity(TensorProto.FLOAT, ["n"]))
    sandbox = router.slot(0)
    router.bind(1, "five", "any")
    router.open(sandbox, 7)
    for _ in range(2):
        assert sandbox.compute(7, np.zeros((1, 5), F32), model=0).status is Status.OK
        assert sandbox.compute(7, np.zeros((1, 5), F32), model=1).status is Status.INVALID_ARGUMENT
    router.unload("five")
    router.load("five", onnx_models.identity(TensorProto.FLOAT, ["n", 4]))
    assert sandbox.compute(7, np.zeros((1, 5), F32), model=0).status is Status.INVALID_ARGUMENT
    assert sandbox.compute(7, np.zeros((1, 4), F32), model=0).status is Status.OK


def test_an_index_given_twice_is_refused(router: Router) -> None:
    router.load("two", onnx_models.sum_and_difference())
    sandbox = router.slot(0)
    router.bind(1, "two")
    router.open(sandbox, 7)
    refs, at = sandbox.lay([np.zeros(1, F32)])
    sandbox.ask(7, [refs[0], refs[0]], (at, 4096))
    assert sandbox.answer(7).status is Status.INVALID_ARGUMENT


def test_a_shape_that_numpy_cannot_hold_is_refused(router: Router) -> None:
    router.load("id", onnx_models.identity(TensorProto.FLOAT, ["a", "b", "c", "d"]))
    sandbox = router.slot(0)
    router.bind(1, "id")
    router.open(sandbox, 7)
    huge = 2**32 - 1
    sandbox.ask(7, [TensorRef(index=0, dtype=ElementType.F32, dims=(0, huge, huge, huge), offset=0, length=0)], (0, 64))
    assert sandbox.answer(7).status is Status.INVALID_ARGUMENT


def test_a_model_number_outside_the_binding_is_refused(router: Router) -> None:
    sandbox = honest(router)
    assert sandbox.compute(900, np.zeros(1, F32), model=1).status is Status.INVALID_ARGUMENT
    check(sandbox)


def test_the_budget_counts_per_invocation_and_model(router: Router) -> None:
    router.load("two", onnx_models.scale(2))
    router.load("three", onnx_models.scale(3))
    sandbox = router.slot(0)
    router.bind(1, "two", "three", max_inferences=2)
    x = np.ones(1, F32)
    for invocation in (7, 8):
        router.open(sandbox, invocation)
        statuses = [sandbox.compute(invocation, x).status for _ in range(3)]
        assert statuses == [Status.OK, Status.OK, Status.BUDGET]
        assert sandbox.compute(invocation, x, model=1).outputs[0] == 3
        router.close_invocation(sandbox, invocation)


def test_max_time_ends_an_endless_model_and_nobody_else(router: Router) -> None:
    other = honest(router)
    router.load("loop", onnx_models.loop())
    sandbox = router.slot(0)
    router.bind(1, "loop", max_time_ms=100)
    router.open(sandbox, 7)
    sandbox.start(7, *ENDLESS)
    check(other)
    assert sandbox.answer(7).status is Status.MODEL_TIME
    few = sandbox.compute(7, np.array([5], np.int64), np.zeros(1, F32))
    assert few.outputs[0].tolist() == [5], "the session and the slot work on"


def test_the_deadline_ends_an_inference(router: Router) -> None:
    router.load("loop", onnx_models.loop())
    sandbox = router.slot(0)
    router.bind(1, "loop")
    router.open(sandbox, 7, deadline_s=0.1)
    assert sandbox.compute(7, *ENDLESS).status is Status.DEADLINE
    assert sandbox.compute(7, *ENDLESS).status is Status.DEADLINE, "nothing starts past it"


def test_the_deadline_reaches_what_only_waits(router: Router) -> None:
    router.load("loop", onnx_models.loop())
    busy = [router.slot(number) for number in range(2)]
    waiting = router.slot(2)
    router.bind(1, "loop")
    for sandbox in busy:
        router.open(sandbox, 7)
        sandbox.start(7, *ENDLESS)
        sandbox.wait_until_it_runs(7)
    router.open(waiting, 8, deadline_s=0.1)
    assert waiting.compute(8, np.ones(1, np.int64), np.zeros(1, F32)).status is Status.DEADLINE
    for sandbox in busy:
        router.close_invocation(sandbox, 7)
    router.open(waiting, 9)
    assert waiting.compute(9, np.ones(1, np.int64), np.zeros(1, F32)).status is Status.OK


def test_close_cancels_what_runs_and_what_waits(router: Router) -> None:
    router.load("loop", onnx_models.loop())
    sandboxes = [router.slot(number) for number in range(4)]
    router.bind(1, "loop")
    for sandbox in sandboxes:
        router.open(sandbox, 7)
        sandbox.start(7, *ENDLESS)
    for sandbox in sandboxes:
        router.close_invocation(sandbox, 7)
        assert sandbox.answer(7).status is Status.UNKNOWN_INVOCATION
    for sandbox in sandboxes:
        router.open(sandbox, 8)
        answer = sandbox.compute(8, np.array([3], np.int64), np.zeros(1, F32))
        assert answer.outputs[0].tolist() == [3]


@pytest.mark.parametrize("handle", [1, 99], ids=["known", "unknown"])
def test_what_is_opened_ends_what_was_open(router: Router, handle: int) -> None:
    router.load("loop", onnx_models.loop())
    router.bind(1, "loop")
    sandbox = router.slot(1)
    router.open(sandbox, 7)
    sandbox.start(7, *ENDLESS)
    sandbox.wait_until_it_runs(7)
    router.open(sandbox, 8, handle)
    assert sandbox.answer(7).status is Status.UNKNOWN_INVOCATION
    assert sandbox.compute(7, *ENDLESS).status is Status.UNKNOWN_INVOCATION


def test_an_invocation_that_was_not_opened_is_unknown(router: Router) -> None:
    sandbox = honest(router)
    assert sandbox.compute(901, np.ones(1, F32)).status is Status.UNKNOWN_INVOCATION
    check(sandbox)
    router.close_invocation(sandbox, 900)
    router.open(router.slot(1), 902, 90)
    # What it does not know makes a host hear all that the router has said, the closing too.
    assert sandbox.compute(902, np.ones(1, F32)).status is Status.UNKNOWN_INVOCATION, "another slot's"
    assert sandbox.compute(900, np.ones(1, F32)).status is Status.UNKNOWN_INVOCATION


def test_an_inference_right_behind_its_open_is_known(router: Router) -> None:
    sandbox = honest(router)
    for invocation in range(1000, 1200):
        sandbox.sequence += 1
        refs, at = sandbox.lay([np.ones(1, F32)])
        router.open(sandbox, invocation, 90)
        head = wire.COMPUTE_HEAD.pack(invocation, sandbox.sequence, 0, 1, at, 4096)
        sandbox.channel.send(Kind.COMPUTE, head + pack_tensors(refs))
        assert sandbox.answer(invocation).status is Status.OK


def ref(offset: int = 0, length: int = 4, dims: tuple[int, ...] = (1,)) -> TensorRef:
    return TensorRef(index=0, dtype=ElementType.F32, dims=dims, offset=offset, length=length)


def compute(
    *tensors: TensorRef, count: int | None = None, room: tuple[int, int] = (64, 64), tail: bytes = b""
) -> bytes:
    head = wire.COMPUTE_HEAD.pack(900, 1, 0, len(tensors) if count is None else count, *room)
    return head + pack_tensors(list(tensors)) + tail


HOSTILE = {
    "an unknown kind": (250, b""),
    "a kind of the router's": (Kind.OPEN, wire.OPEN.pack(0, 90, 900, 2**63)),
    "an empty inference": (Kind.COMPUTE, b""),
    "a head that ends early": (Kind.COMPUTE, compute(ref())[: wire.COMPUTE_HEAD.size - 1]),
    "a tensor that ends early": (Kind.COMPUTE, compute(ref())[:-1]),
    "more tensors than there are": (Kind.COMPUTE, compute(ref(), count=2)),
    "far too many tensors": (Kind.COMPUTE, compute(ref(), count=65535)),
    "something behind the tensors": (Kind.COMPUTE, compute(ref(), tail=b"x")),
    "a tensor past the segment": (Kind.COMPUTE, compute(ref(offset=(1 << 20) - 2))),
    "an offset that would wrap": (Kind.COMPUTE, compute(ref(offset=2**64 - 2))),
    "a length that is not its shape's": (Kind.COMPUTE, compute(ref(length=8))),
    "a shape beyond all sizes": (Kind.COMPUTE, compute(ref(dims=(2**32 - 1,) * MAX_RANK))),
    "an unknown element type": (
        Kind.COMPUTE,
        compute(count=1) + HEAD.pack(len(ELEMENT_BYTES), 1, 0, 0, 0, 4) + struct.pack("<I", 1),
    ),
    "a rank beyond the most": (Kind.COMPUTE, compute(count=1) + HEAD.pack(1, 255, 0, 0, 0, 4) + b"\1\0\0\0" * 255),
    "a room past the segment": (Kind.COMPUTE, compute(ref(), room=(1 << 20, 1))),
    "a room that would wrap": (Kind.COMPUTE, compute(ref(), room=(2**64 - 1, 2**64 - 1))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_frame_costs_its_sender_the_socket_and_nobody_else(router: Router, name: str) -> None:
    other = honest(router)
    hostile = router.slot(0)
    router.open(hostile, 900, 90)
    hostile.channel.send(*HOSTILE[name])
    assert hostile.is_shut()
    check(other)
    again = router.slot(0)  # the router replaces the sandbox and its slot
    router.open(again, 900, 90)
    check(again)
    router.finish()
    assert b"slot 0 is closed" in router.stderr
    assert router.stderr.count(b"\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="past its walls only root may look into a child")
def test_descriptors_from_a_slot_are_refused_and_closed(router: Router) -> None:
    other = honest(router)
    fds = Path(f"/proc/{router.process.pid}/fd")
    check(other)
    before = len(list(fds.iterdir()))
    hostile = router.slot(0)
    fd = create_frozen("gift", [b"x"])
    hostile.channel.send(Kind.COMPUTE, compute(ref()), (fd, fd))
    os.close(fd)
    assert hostile.is_shut()
    check(other)
    assert len(list(fds.iterdir())) == before


def test_two_inferences_at_once_are_hostile(router: Router) -> None:
    other = honest(router)
    router.load("loop", onnx_models.loop())
    router.bind(1, "loop")
    hostile = router.slot(0)
    router.open(hostile, 7)
    hostile.start(7, *ENDLESS)
    hostile.start(7, *ENDLESS)
    assert hostile.is_shut()
    check(other)


def test_a_sandbox_that_does_not_read_its_answers_loses_its_slot(router: Router) -> None:
    other = honest(router)
    hostile = router.slot(0)
    head = wire.COMPUTE_HEAD.pack(1, 1, 0, 0, 0, 0)

    def flood() -> None:
        while True:
            hostile.channel.send(Kind.COMPUTE, head)

    with pytest.raises(OSError, match=r"Broken pipe|Connection reset"):
        flood()
    check(other)


def test_a_sandbox_that_dies_while_inferring_leaves_its_worker_free(router: Router) -> None:
    router.load("loop", onnx_models.loop())
    router.bind(1, "loop")
    for number in range(6):
        sandbox = router.slot(number)
        router.open(sandbox, 7)
        sandbox.start(7, *ENDLESS)
        sandbox.channel.sock.shutdown(socket.SHUT_RDWR)
    other = honest(router)
    check(other)


def test_replacing_a_slot_ends_its_former_socket(router: Router) -> None:
    former = honest(router)
    check(former)
    successor = router.slot(9)
    assert former.is_shut()
    router.open(successor, 900, 90)
    check(successor)


def test_a_digest_loaded_twice_is_one_session(router: Router) -> None:
    router.send_load("double", onnx_models.scale(2))
    router.send_load("double", onnx_models.scale(2))
    router.send_load("double", b"never opened, since the digest is known")
    assert [router.loaded()["ok"] for _ in range(3)] == [True, True, True]
    again = router.load("double", b"never opened either")
    assert (again["ok"], again["load_ms"]) == (True, 0)
    check(honest(router))


def test_a_model_that_does_not_open_is_reported(router: Router) -> None:
    answer = router.load("bad", b"no model at all")
    assert not answer["ok"]
    assert "onnxruntime refuses the model" in answer["error"]
    assert "/proc" not in answer["error"]
    sandbox = router.slot(0)
    router.bind(1, "bad")
    router.open(sandbox, 7)
    assert sandbox.compute(7, np.zeros(1, F32)).status is Status.RUNTIME
    assert router.load("bad", onnx_models.scale(2))["ok"], "a failure is not remembered"


def test_a_model_unloaded_while_it_runs_ends_its_run(router: Router) -> None:
    router.load("loop", onnx_models.loop())
    sandbox, late = router.slot(0), router.slot(1)
    router.bind(1, "loop")
    router.open(sandbox, 7)
    router.open(late, 8)
    sandbox.start(7, np.array([300_000], np.int64), np.zeros(1, F32))
    assert late.compute(8, np.ones(1, np.int64), np.zeros(1, F32)).status is Status.OK, "both are with the host now"
    router.unload("loop")
    router.open(late, 9)
    assert late.compute(9, np.ones(1, np.int64), np.zeros(1, F32)).status is Status.RUNTIME
    answer = sandbox.answer(7)
    assert answer.status is Status.OK
    assert answer.outputs[0].tolist() == [300_000]


def test_outputs_that_do_not_fit_the_room(router: Router) -> None:
    router.load("id", onnx_models.identity())
    sandbox = router.slot(0)
    router.bind(1, "id")
    router.open(sandbox, 7)
    x = np.ones(100, F32)
    assert sandbox.compute(7, x, room_bytes=399).status is Status.TOO_LARGE
    assert sandbox.compute(7, x, room_bytes=0).status is Status.TOO_LARGE
    assert sandbox.compute(7, x, room_bytes=400).status is Status.OK


def test_nothing_is_written_outside_the_room(router: Router) -> None:
    router.load("id", onnx_models.identity())
    sandbox = router.slot(0)
    router.bind(1, "id")
    router.open(sandbox, 7)
    refs, _ = sandbox.lay([np.ones(8, F32)])
    sandbox.segment.view[64:4096] = b"\xaa" * (4096 - 64)
    sandbox.ask(7, refs, (1000, 100))
    assert sandbox.answer(7).outputs[0].tolist() == [1] * 8
    left = bytes(sandbox.segment.view[64:4096])
    assert left.count(b"\xaa") == len(left) - 32
    assert left[:960].count(b"\xaa") == 960


def test_a_model_whose_outputs_wasi_nn_cannot_name_does_not_open(router: Router) -> None:
    compared = onnx_models.model(
        [onnx_models.node("Greater", ["x", "x"], ["y"])],
        [onnx_models.value("x", ["n"])],
        [onnx_models.value("y", ["n"], TensorProto.BOOL)],
    )
    answer = router.load("bool", compared.SerializeToString())
    assert not answer["ok"]
    assert "tensor(bool)" in answer["error"]


def test_the_arena_bounds_an_inference(tmp_path: Path) -> None:
    router = Router(tmp_path, arena_bytes=32 << 20)
    router.load("expand", onnx_models.expand())
    sandbox = router.slot(0)
    router.bind(1, "expand")
    router.open(sandbox, 7)
    one = np.ones(1, F32)
    assert sandbox.compute(7, one, np.array([2**34], np.int64)).status is Status.RUNTIME
    assert sandbox.compute(7, one, np.array([10], np.int64)).outputs[0].tolist() == [1] * 10
    assert router.finish() == 0
    assert router.stderr == b""


def test_inputs_changed_under_way_do_not_matter_after_the_copy(router: Router) -> None:
    """The sandbox rewrites its inputs while the model runs: the answer is the one of a single reading of them."""
    router.load("loop", onnx_models.loop())
    sandbox = router.slot(0)
    router.bind(1, "loop")
    router.open(sandbox, 7)
    trips = np.array([200_000], np.int64)
    sandbox.start(7, trips, np.zeros(1, F32))
    values = set()
    for start in range(200):
        sandbox.segment.view[64:68] = np.array([start], F32).tobytes()
        values.add(float(start + 200_000))
    answer = sandbox.answer(7)
    assert answer.status is Status.OK
    assert float(answer.outputs[0][0]) in values


def test_many_slots_at_once_each_get_their_own_answers(router: Router) -> None:
    factors = [2.0, 3.0, 5.0]
    for factor in factors:
        assert router.load(f"x{factor}", onnx_models.scale(factor))["ok"]
    router.bind(1, *(f"x{factor}" for factor in factors), tenant="one")
    router.bind(2, *(f"x{factor}" for factor in factors), tenant="two")
    sandboxes = [router.slot(number, 1 << 16) for number in range(12)]
    for sandbox in sandboxes:
        router.open(sandbox, 100 + sandbox.number, 1 + sandbox.number % 2)

    def work(sandbox: Sandbox) -> int:
        for turn in range(60):
            model = (turn + sandbox.number) % 3
            x = np.full(1 + turn, sandbox.number * 1000 + turn, F32)
            answer = sandbox.compute(100 + sandbox.number, x, model=model)
            assert answer.status is Status.OK
            assert np.array_equal(answer.outputs[0], x * F32(factors[model]))
        return sandbox.number

    with ThreadPoolExecutor(len(sandboxes)) as pool:
        assert list(pool.map(work, sandboxes)) == list(range(12))


@pytest.mark.skipif(not (SHARED / "mnist-8").is_dir(), reason="shared/data/mnist-8 is absent")
@pytest.mark.parametrize("case", ["test_data_set_0", "test_data_set_1"])
def test_the_reference_outputs_of_mnist_8(router: Router, case: str) -> None:
    import onnx
    from onnx import numpy_helper

    def tensor(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        proto = onnx.TensorProto.FromString((SHARED / "mnist-8" / case / name).read_bytes())
        array: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = numpy_helper.to_array(proto)
        return array

    assert router.load("mnist", (SHARED / "mnist-8" / "model.onnx").read_bytes())["ok"]
    sandbox = router.slot(0)
    router.bind(1, "mnist")
    router.open(sandbox, 7)
    answer = sandbox.compute(7, tensor("input_0.pb"))
    np.testing.assert_allclose(answer.outputs[0], tensor("output_0.pb"), rtol=1e-3, atol=1e-3)


def test_the_host_ends_with_its_channel_even_while_it_infers(tmp_path: Path) -> None:
    router = Router(tmp_path, threads=1)
    router.load("loop", onnx_models.loop())
    sandbox = router.slot(0)
    router.bind(1, "loop")
    router.open(sandbox, 7)
    sandbox.start(7, *ENDLESS)
    assert router.finish() == 0
    assert router.stderr == b""

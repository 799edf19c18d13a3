"""The tiny models do what make_tiny.py says of them, so that tests which use them mean what they say."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument

from models.make_tiny import ELEMENTS, tiny_models

TINY = Path(__file__).parent / "tiny"


def session(name: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(TINY / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])


def test_the_committed_files_are_the_made_ones() -> None:
    made = tiny_models()
    assert sorted(made) == sorted(path.stem for path in TINY.glob("*.onnx"))
    for name, model in made.items():
        assert onnx.load(TINY / f"{name}.onnx", load_external_data=False) == model, name


@pytest.mark.parametrize("element", ELEMENTS)
def test_identity_gives_back_any_length(element: str) -> None:
    dtype = np.dtype({"u": "uint", "i": "int", "f": "float"}[element[0]] + element[1:])
    for count in (0, 1, 5):
        x = np.arange(count).astype(dtype)
        (y,) = session(f"identity_{element}").run(None, {"x": x})
        assert y.dtype == dtype
        assert y.tolist() == x.tolist()


def test_two_inputs_and_two_outputs() -> None:
    a, b = np.array([[1, 2], [3, 4]], np.float32), np.array([[10, 20], [30, 40]], np.float32)
    total, difference = session("two_io").run(None, {"a": a, "b": b})
    assert total.tolist() == [[11, 22], [33, 44]]
    assert difference.tolist() == [[-9, -18], [-27, -36]]


def test_static_2x3_takes_that_shape_only() -> None:
    model = session("static_2x3")
    (y,) = model.run(None, {"x": np.array([[-1, 0, 1], [2, -2, 3]], np.float32)})
    assert y.tolist() == [[0, 0, 1], [2, 0, 3]]
    with pytest.raises(InvalidArgument):
        model.run(None, {"x": np.zeros((3, 2), np.float32)})


def test_rows_of_a_batch_are_independent() -> None:
    (y,) = session("batch_rows").run(None, {"x": np.array([[1, 2, 3, 4], [10, 20, 30, 40]], np.float32)})
    assert y.tolist() == [[4, 6], [40, 60]]


def test_grow_makes_as_much_as_it_is_told_to() -> None:
    (y,) = session("grow").run(None, {"n": np.array([70_000], np.int64)})
    assert y.shape == (70_000,)


def test_endless_ends_when_it_is_told_to() -> None:
    options = onnxruntime.RunOptions()
    timer = threading.Timer(0.05, lambda: setattr(options, "terminate", True))
    timer.start()
    with pytest.raises(Fail, match="terminate"):
        session("endless").run(None, {"x": np.array([1], np.float32)}, options)
    timer.join()


def test_slow_gemm_gives_back_its_input_and_can_be_ended() -> None:
    model = session("slow_gemm")
    (y,) = model.run(None, {"x": np.array([1], np.float32)})
    np.testing.assert_allclose(y, [1], rtol=1e-3)
    options = onnxruntime.RunOptions()
    options.terminate = True
    with pytest.raises(Fail, match="terminate"):
        model.run(None, {"x": np.array([1], np.float32)}, options)


def test_fails_loads_and_fails_in_the_run() -> None:
    model = session("fails")
    assert model.run(None, {"x": np.array([0], np.int64)})[0].tolist() == [7]
    with pytest.raises(InvalidArgument):
        model.run(None, {"x": np.array([1], np.int64)})


@pytest.mark.parametrize("name", ["external", "custom_domain"])
def test_what_must_be_refused_does_not_load(name: str) -> None:
    with pytest.raises(Fail):
        session(name)

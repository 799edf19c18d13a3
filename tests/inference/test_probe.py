"""What admission finds by trying a model out: does it run, may rows of several callers share a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from inference.onnx_models import model, node, value
from inference.peers import judge
from wisp.wire.admissions import MAX_BATCH_ROWS, ModelFacts, ModelProbe, Refusal, Terms

TERMS = Terms(max_bytes=64 << 20)
ENDLESS = (Path(__file__).parents[1] / "models" / "tiny" / "endless.onnx").read_bytes()


def probe(made: onnx.ModelProto, cwd: Path) -> ModelProbe:
    verdict = judge(made.SerializeToString(), cwd, TERMS).verdict
    assert isinstance(verdict, ModelFacts), verdict
    return verdict.probe


def gemm(size: int, first: str | int = "n") -> onnx.ModelProto:
    """f32 x[first, size] → x·w."""
    weights = np.eye(size, dtype=np.float32) + np.float32(0.5)
    return model(
        [node("MatMul", ["x", "w"], ["y"])],
        [value("x", [first, size])],
        [value("y", [first, size])],
        [numpy_helper.from_array(weights, "w")],
    )


def branching() -> bytes:
    """A choice between two subgraphs."""
    one, two = (
        helper.make_graph([node("Constant", [], ["c"], value_floats=[number])], "branch", [], [value("c", [1])])
        for number in (1.0, 2.0)
    )
    always = helper.make_tensor("always", TensorProto.BOOL, [], [True])
    made = model(
        [node("If", ["always"], ["c"], then_branch=one, else_branch=two), node("Add", ["x", "c"], ["y"])],
        [value("x", ["n"])],
        [value("y", ["n"])],
        [always],
    )
    data: bytes = made.SerializeToString()
    return data


def test_a_model_whose_weights_are_read_once_for_all_rows_is_batched(tmp_path: Path) -> None:
    """How much a batch saves is this machine's to say; what follows from it is not."""
    found = probe(gemm(1536), tmp_path)
    assert found.latency_us > 0
    assert found.batch_latency_us > 0
    if found.batch_latency_us <= 0.75 * 8 * found.latency_us:
        assert found.batch in (8, MAX_BATCH_ROWS)
        assert found.note == ""
    else:
        assert found.batch == 0
        assert "8 rows together take" in found.note
    assert found.peak_bytes >= 1536 * 1536 * 4


def test_a_first_dimension_that_is_not_open_is_not_batched(tmp_path: Path) -> None:
    found = probe(gemm(64, first=1), tmp_path)
    assert (found.batch, found.batch_latency_us) == (0, 0)
    assert "first dimension" in found.note
    assert found.latency_us > 0


def test_rows_that_look_at_each_other_are_not_batched(tmp_path: Path) -> None:
    """A softmax down the columns: the shapes are those of a batch, the numbers are not."""
    made = model([node("Softmax", ["x"], ["y"], axis=0)], [value("x", ["n", 4])], [value("y", ["n", 4])])
    found = probe(made, tmp_path)
    assert found.batch == 0
    assert "differs from the same row alone" in found.note


def test_a_row_that_looks_at_its_predecessor_is_not_batched(tmp_path: Path) -> None:
    made = model([node("CumSum", ["x", "axis"], ["y"])], [value("x", ["n", 4])], [value("y", ["n", 4])],
                 [helper.make_tensor("axis", TensorProto.INT64, [], [0])])  # fmt: skip
    assert "differs from the same row alone" in probe(made, tmp_path).note


def test_an_output_without_a_row_for_each_input_is_not_batched(tmp_path: Path) -> None:
    made = model([node("ReduceSum", ["x"], ["y"], keepdims=0)], [value("x", ["n", 4])], [value("y", [])])
    found = probe(made, tmp_path)
    assert found.batch == 0
    assert "not one row for each" in found.note


def test_random_answers_are_not_batched(tmp_path: Path) -> None:
    made = model([node("RandomUniformLike", ["x"], ["y"])], [value("x", ["n", 4])], [value("y", ["n", 4])])
    assert "differs from the same row alone" in probe(made, tmp_path).note


def test_a_model_that_wants_other_inputs_is_noted_not_refused(tmp_path: Path) -> None:
    """Its second input must hold the dimensions of its first, which nobody guesses."""
    made = model([node("Reshape", ["x", "to"], ["y"])], [value("x", [1, 7]), value("to", [3], TensorProto.INT64)],
                 [value("y", ["a", "b", "c"])])  # fmt: skip
    found = probe(made, tmp_path)
    assert found.latency_us == 0
    assert found.batch == 0
    assert found.note.startswith("not probed: ")


def test_an_open_dimension_is_tried_at_more_than_one_size(tmp_path: Path) -> None:
    """A window of 16 wants more than one element."""
    made = model([node("MaxPool", ["x"], ["y"], kernel_shape=[16])], [value("x", [1, 1, "length"])],
                 [value("y", [1, 1, "left"])])  # fmt: skip
    assert probe(made, tmp_path).latency_us > 0


def test_a_model_that_never_ends_is_noted_not_refused(tmp_path: Path) -> None:
    verdict = judge(ENDLESS, tmp_path, TERMS).verdict
    assert isinstance(verdict, ModelFacts)
    assert "did not end" in verdict.probe.note


@pytest.mark.parametrize(("level", "refused"), [(0, True), (1, False)], ids=["none", "branches"])
def test_branches_need_the_operator_s_word(tmp_path: Path, level: int, refused: bool) -> None:
    verdict = judge(branching(), tmp_path, Terms(max_bytes=1 << 20, control_flow=level)).verdict
    assert isinstance(verdict, Refusal) is refused
    if isinstance(verdict, Refusal):
        assert 'is "If"; it needs control_flow: branches' in verdict.reason


@pytest.mark.parametrize(("level", "refused"), [(1, True), (2, False)], ids=["branches", "loops"])
def test_loops_need_the_operator_s_word(tmp_path: Path, level: int, refused: bool) -> None:
    verdict = judge(ENDLESS, tmp_path, Terms(max_bytes=1 << 20, control_flow=level)).verdict
    assert isinstance(verdict, Refusal) is refused
    if isinstance(verdict, Refusal):
        assert "it needs control_flow: loops" in verdict.reason

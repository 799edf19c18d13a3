"""Admission as a process: what it accepts, every reason to refuse, and how bombs end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from inference import onnx_models
from inference.onnx_models import model, node, value
from inference.peers import judge
from wisp.wire.admissions import ModelFacts, Refusal, Terms
from wisp.wire.confinement import Limits
from wisp.wire.tensors import ElementType, TensorSpec

TERMS = Terms(max_bytes=1 << 20, max_nodes=100)
SHARED = Path(__file__).parents[3] / "shared" / "data"


def reason(upload: bytes | onnx.ModelProto, cwd: Path, terms: Terms = TERMS) -> str:
    data = upload if isinstance(upload, bytes) else upload.SerializeToString()
    verdict = judge(data, cwd, terms).verdict
    assert isinstance(verdict, Refusal), verdict
    assert verdict.reason.isascii()
    assert verdict.reason.isprintable()
    assert "/proc" not in verdict.reason
    return verdict.reason


def through(*nodes: onnx.NodeProto, initializers: Sequence[onnx.TensorProto] = (), **fields: object) -> onnx.ModelProto:
    """f32 x[n] → the nodes → f32 y[n]."""
    return model(nodes, [value("x", ["n"])], [value("y", ["n"])], initializers, **fields)


def test_the_facts_are_the_session_s(tmp_path: Path) -> None:
    made = model(
        [node("Identity", ["x"], ["y"]), node("Add", ["z", "w"], ["v"])],
        [value("x", ["n", None, 3], TensorProto.FLOAT16), value("z", [1], TensorProto.INT64), value("w", [1], 7)],
        [value("y", ["n", None, 3], TensorProto.FLOAT16), value("v", [1], TensorProto.INT64)],
        [helper.make_tensor("w", TensorProto.INT64, [1], [1])],
    )
    open_shape = (-1, -1, 3)
    facts = judge(made.SerializeToString(), tmp_path, TERMS).verdict
    assert isinstance(facts, ModelFacts)
    assert facts == ModelFacts(
        memory_bytes=facts.memory_bytes,
        probe=facts.probe,
        inputs=(
            TensorSpec(name="x", dtype=ElementType.F16, shape=open_shape),
            TensorSpec(name="z", dtype=ElementType.I64, shape=(1,)),  # w has an initializer: no input
        ),
        outputs=(
            TensorSpec(name="y", dtype=ElementType.F16, shape=open_shape),
            TensorSpec(name="v", dtype=ElementType.I64, shape=(1,)),
        ),
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mnist-8/model.onnx", "mobilenetv2/model.onnx", "mobilenetv2/model_u8weights.onnx"])
def test_real_models_are_admitted(tmp_path: Path, name: str) -> None:
    if not (SHARED / name).is_file():
        pytest.skip(f"shared/data/{name} is absent")
    verdict = judge((SHARED / name).read_bytes(), tmp_path, Terms(max_bytes=64 << 20)).verdict
    assert isinstance(verdict, ModelFacts), verdict
    assert [spec.dtype for spec in verdict.inputs] == [ElementType.F32]
    assert verdict.memory_bytes < 128 << 20


def test_a_small_file_that_takes_much_memory_is_refused(tmp_path: Path) -> None:
    """Constants that each stay within the folding bound add up."""
    upload = adding_up(30)
    assert len(upload) < 8192
    terms = Terms(max_bytes=1 << 20, max_memory_bytes=128 << 20)
    assert "bytes of memory once it is open" in reason(upload, tmp_path, terms)


def test_functions_of_the_model_s_own_are_admitted(tmp_path: Path) -> None:
    function = helper.make_function(
        "own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    made = through(node("Twice", ["x"], ["y"], domain="own"), functions=[function], opset_imports=opsets)
    assert isinstance(judge(made.SerializeToString(), tmp_path, TERMS).verdict, ModelFacts)


IDENTITY = onnx_models.identity()


@pytest.mark.parametrize(
    ("upload", "why"),
    [
        (b"", "empty"),
        (b"# a model card\n\nNot a model at all.\n" * 20, "not an ONNX model"),
        (IDENTITY[: len(IDENTITY) // 2], "not an ONNX model"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "no graph"),
        (onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(name="g")).SerializeToString(), "no nodes"),
        (b"\0asm\1\0\0\0", "not an ONNX model"),
        (b"x" * ((1 << 20) + 1), "at most 1048576"),
    ],
    ids=["nothing", "text", "truncated", "no graph", "empty graph", "wasm", "too large"],
)
def test_what_is_no_model_is_refused(tmp_path: Path, upload: bytes, why: str) -> None:
    assert why in reason(upload, tmp_path)


def external(name: str = "weights") -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def in_subgraph() -> onnx.ModelProto:
    branch = helper.make_graph([node("Constant", [], ["c"], value=external())], "b", [], [value("c", [1])])
    condition = helper.make_tensor("cond", TensorProto.BOOL, [], [True])
    made = node("If", ["cond"], ["y"], then_branch=branch, else_branch=branch)
    return through(made, initializers=[condition])


def in_function() -> onnx.ModelProto:
    body = [node("Constant", [], ["c"], value=external()), node("Add", ["a", "c"], ["b"])]
    function = helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    return through(node("F", ["x"], ["y"], domain="own"), functions=[function])


def sparse(values: onnx.TensorProto, indices: onnx.TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[4])


def in_sparse_initializer() -> onnx.ModelProto:
    made = through(node("Add", ["x", "weights"], ["y"]))
    made.graph.sparse_initializer.append(sparse(external(), helper.make_tensor("i", TensorProto.INT64, [1], [0])))
    return made


def in_sparse_attribute() -> onnx.ModelProto:
    dense = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    constant = node("Constant", [], ["c"], sparse_value=sparse(dense, external()))
    return through(constant, node("Add", ["x", "c"], ["y"]))


def in_unmarked_initializer() -> onnx.ModelProto:
    tensor = external()
    tensor.ClearField("data_location")
    return through(node("Add", ["x", "weights"], ["y"]), initializers=[tensor])


def in_training() -> onnx.ModelProto:
    made = through(node("Identity", ["x"], ["y"]))
    made.training_info.add().initialization.initializer.append(external())
    return made


def in_attribute() -> onnx.ModelProto:
    return through(node("Constant", [], ["c"], value=external()), node("Add", ["x", "c"], ["y"]))


def in_initializer() -> onnx.ModelProto:
    return through(node("Add", ["x", "weights"], ["y"]), initializers=[external()])


@pytest.mark.parametrize(
    "made",
    [
        in_initializer, in_unmarked_initializer, in_attribute, in_subgraph, in_function, in_sparse_initializer,
        in_sparse_attribute, in_training,
    ],
)  # fmt: skip
def test_external_data_is_refused_wherever_it_hides(tmp_path: Path, made: object) -> None:
    assert callable(made)
    assert "another file" in reason(made(), tmp_path)


@pytest.mark.parametrize("domain", ["com.microsoft", "com.example", "ai.onnx.training", "ai.onnx.ml.evil"])
def test_other_operator_sets_are_refused(tmp_path: Path, domain: str) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    said = reason(through(node("Gelu", ["x"], ["y"], domain=domain), opset_imports=opsets), tmp_path)
    assert f'"{domain}"' in said
    assert '"Gelu"' in said


def test_an_ep_context_is_refused_in_any_domain(tmp_path: Path) -> None:
    for domain in ("", "com.microsoft"):
        assert "EPContext" in reason(through(node("EPContext", ["x"], ["y"], domain=domain)), tmp_path)


@pytest.mark.parametrize(("element", "name"), [(TensorProto.BOOL, "bool"), (TensorProto.STRING, "string")])
@pytest.mark.parametrize("side", ["input", "output"])
def test_element_types_that_wasi_nn_cannot_name_are_refused(tmp_path: Path, element: int, name: str, side: str) -> None:
    odd = value("odd", [1], element)
    made = through(node("Identity", ["x"], ["y"]))
    (made.graph.input if side == "input" else made.graph.output).append(odd)
    said = reason(made, tmp_path)
    assert f'{side} "odd" is of {name}' in said
    assert "float32" in said


def test_a_sequence_is_refused(tmp_path: Path) -> None:
    made = through(node("Identity", ["x"], ["y"]))
    made.graph.output.append(helper.make_tensor_sequence_value_info("several", TensorProto.FLOAT, [1]))
    assert 'output "several" is a sequence' in reason(made, tmp_path)


def test_an_input_of_unknown_rank_is_refused(tmp_path: Path) -> None:
    assert "how many dimensions" in reason(onnx_models.identity(shape=None), tmp_path)


@pytest.mark.parametrize("side", ["input", "output"])
def test_too_many_inputs_or_outputs_are_refused(tmp_path: Path, side: str) -> None:
    made = through(node("Identity", ["x"], ["y"]))
    (made.graph.input if side == "input" else made.graph.output).extend(value(f"v{i}", [1]) for i in range(64))
    assert f"65 {side}s" in reason(made, tmp_path)


def test_nodes_are_counted_in_subgraphs_too(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [node("Identity", ["x"], ["v0"])] + [node("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(60)],
        "b",
        [],
        [value("v60", ["n"])],
    )
    condition = helper.make_tensor("cond", TensorProto.BOOL, [], [True])
    made = through(node("If", ["cond"], ["y"], then_branch=branch, else_branch=branch), initializers=[condition])
    assert "more than 100 nodes" in reason(made, tmp_path)


@pytest.mark.parametrize("name", ["", "x" * 257, "a\nb", "é", "\x1b[31m"])
def test_names_that_cannot_be_passed_on_are_refused(tmp_path: Path, name: str) -> None:
    made = model([node("Identity", [name], ["y"])], [value(name, ["n"])], [value("y", ["n"])])
    assert "printable ASCII" in reason(made, tmp_path)


def test_a_dimension_beyond_the_wire_is_refused(tmp_path: Path) -> None:
    made = model([node("Identity", ["x"], ["y"])], [value("x", [2**32])], [value("y", [2**32])])
    assert 'input "x" has a dimension of 4294967296' in reason(made, tmp_path)


def test_what_onnxruntime_refuses_is_told_without_its_paths(tmp_path: Path) -> None:
    said = reason(through(node("NoSuchOperator\x1b[2J\r\n", ["x"], ["y"])), tmp_path)
    assert "onnxruntime refuses the model" in said
    assert "NoSuchOperator" in said


def constant_of(count: int, dims: Sequence[int], *nodes: onnx.NodeProto) -> bytes:
    made = model(
        [node("ConstantOfShape", ["shape"], ["c"]), *nodes],
        [],
        [value("y", ["n"])],
        [helper.make_tensor("shape", TensorProto.INT64, [count], list(dims))],
    )
    data: bytes = made.SerializeToString()
    return data


def doubling(depth: int) -> bytes:
    """Functions that each call the next one twice: 2^depth nodes once they are inlined."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = []
    for level in range(depth):
        callee = (f"F{level + 1}", "own") if level + 1 < depth else ("Neg", "")
        body = [node(callee[0], ["a"], ["m"], domain=callee[1]), node(callee[0], ["m"], ["b"], domain=callee[1])]
        functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], body, opsets))
    made = through(node("F0", ["x"], ["y"], domain="own"), functions=functions, opset_imports=opsets)
    data: bytes = made.SerializeToString()
    return data


def adding_up(times: int) -> bytes:
    """As many constants of 12 MB, each of which is within the folding bound."""
    return constant_of(
        1,
        [3 << 20],
        *(node("Add", [f"v{i}" if i else "c", "c"], [f"v{i + 1}"]) for i in range(times)),
        node("Concat", [f"v{i + 1}" for i in range(times)], ["y"], axis=0),
    )


BOMBS = {
    "a constant of 32 GB": constant_of(1, [2**33], node("Identity", ["c"], ["y"])),
    "constants of 12 MB, many times": adding_up(90),
    "tiles of tiles": constant_of(
        1,
        [1 << 10],
        node("Tile", ["c", "shape"], ["t"]),
        node("Tile", ["t", "shape"], ["u"]),
        node("Tile", ["u", "shape"], ["y"]),
    ),
    "functions that double": doubling(40),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_within_its_limits(tmp_path: Path, name: str) -> None:
    memory_bytes = 1024 << 20
    judgement = judge(BOMBS[name], tmp_path, TERMS, Limits(address_space_bytes=memory_bytes, cpu_s=3))
    assert judgement.peak_bytes < memory_bytes
    # It may also be admitted, where the work waits for the run: there the host's arena and its clock bound it.
    if name == "functions that double":
        assert not isinstance(judgement.verdict, ModelFacts)
    assert isinstance(judge(IDENTITY, tmp_path, TERMS).verdict, ModelFacts), "the next upload is judged as ever"

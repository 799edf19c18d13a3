"""Writes tests/models/tiny/*.onnx: models of a few hundred bytes, each with one thing to show. Run it after a change.

| file | inputs → outputs | shows |
|---|---|---|
| identity_<type>.onnx | `x` [N] → `y` [N] | each element type that wasi-nn can name, any length |
| two_io.onnx | `a`, `b` f32[2,2] → `sum`, `difference` | several inputs and outputs, in order |
| static_2x3.onnx | `x` f32[2,3] → `y` (Relu) | a shape without freedom |
| batch_rows.onnx | `x` f32[N,4] → `y` f32[N,2] (Gemm) | a model that can be batched, row by row |
| grow.onnx | `n` i64[1] → `y` f32[n] | an output much larger than the inputs |
| endless.onnx | `x` f32[1] → `y` | a Loop that ends only when it is told to |
| slow_gemm.onnx | `x` f32[1] → `y` f32[1] | ~0.1 s of matrix products from a few hundred bytes |
| fails.onnx | `x` i64[1] → `y` f32[1] | loads, and fails in the run when x is 1 or more: Gather past the end |
| external.onnx | `x` f32[2] → `y` | weights in another file: must be refused, never read |
| custom_domain.onnx | `x` f32[2] → `y` | an operator that no runtime here has |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
TINY = Path(__file__).parent / "tiny"
ELEMENTS = {
    "f16": TensorProto.FLOAT16,
    "f32": TensorProto.FLOAT,
    "f64": TensorProto.DOUBLE,
    "u8": TensorProto.UINT8,
    "i32": TensorProto.INT32,
    "i64": TensorProto.INT64,
}
Shape = Sequence[int | str]
# slow_gemm: a product of two squares of SIDE takes 2 * SIDE**3 operations; PRODUCTS of them one after another, so that
# a run can be ended between two.
SIDE, PRODUCTS = 640, 40


def value(name: str, element: int, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, list(shape))


def f32(name: str, shape: Shape) -> onnx.ValueInfoProto:
    return value(name, TensorProto.FLOAT, shape)


def constant(name: str, content: object, dtype: type = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(content, dtype=dtype), name)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
    domains: Sequence[str] = ("",),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, list(constants))
    opsets = [helper.make_opsetid(domain, OPSET if domain == "" else 1) for domain in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def identity(element: int) -> onnx.ModelProto:
    return model(
        [helper.make_node("Identity", ["x"], ["y"])], [value("x", element, ["N"])], [value("y", element, ["N"])]
    )


def two_io() -> onnx.ModelProto:
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    square = [2, 2]
    return model(nodes, [f32("a", square), f32("b", square)], [f32("sum", square), f32("difference", square)])


def static_2x3() -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"])], [f32("x", [2, 3])], [f32("y", [2, 3])])


def batch_rows() -> onnx.ModelProto:
    weight = constant("weight", [[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    return model(
        [helper.make_node("Gemm", ["x", "weight"], ["y"])], [f32("x", ["N", 4])], [f32("y", ["N", 2])], [weight]
    )


def grow() -> onnx.ModelProto:
    one = constant("one", [1], np.float32)
    return model(
        [helper.make_node("Expand", ["one", "n"], ["y"])],
        [value("n", TensorProto.INT64, [1])],
        [f32("y", ["M"])],
        [one],
    )


def endless() -> onnx.ModelProto:
    """A Loop without trip count whose condition stays true: x grows by 0 for ever."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition_in"], ["condition_out"]),
            helper.make_node("Add", ["state_in", "zero"], ["state_out"]),
        ],
        "body",
        [value("turn", TensorProto.INT64, []), value("condition_in", TensorProto.BOOL, []), f32("state_in", [1])],
        [value("condition_out", TensorProto.BOOL, []), f32("state_out", [1])],
    )
    loop = helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)
    constants = [constant("true", True, np.bool_), constant("zero", [0], np.float32)]
    return model([loop], [f32("x", [1])], [f32("y", [1])], constants)


def slow_gemm() -> onnx.ModelProto:
    """x is spread over a square that is then multiplied by itself again and again. It starts from the input, so that no
    product is folded into a constant when the model is loaded; a scale after each keeps the numbers at x."""
    nodes = [helper.make_node("Expand", ["x", "square"], ["product_0"])]
    for turn in range(PRODUCTS):
        nodes.append(helper.make_node("MatMul", [f"product_{turn}", "product_0"], [f"sum_{turn}"]))
        nodes.append(helper.make_node("Mul", [f"sum_{turn}", "scale"], [f"product_{turn + 1}"]))
    nodes.append(helper.make_node("ReduceMean", [f"product_{PRODUCTS}"], ["mean"], keepdims=0))
    nodes.append(helper.make_node("Reshape", ["mean", "one"], ["y"]))
    constants = [constant("square", [SIDE, SIDE]), constant("scale", 1 / SIDE, np.float32), constant("one", [1])]
    return model(nodes, [f32("x", [1])], [f32("y", [1])], constants)


def fails() -> onnx.ModelProto:
    table = constant("table", [7], np.float32)
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    return model([node], [value("x", TensorProto.INT64, [1])], [f32("y", [1])], [table])


def external() -> onnx.ModelProto:
    """The initializer names weights.bin, which is not there: only who tries to open it finds out."""
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, entry in {"location": "weights.bin", "offset": "0", "length": "8"}.items():
        weight.external_data.add(key=key, value=entry)
    return model([helper.make_node("Add", ["x", "weight"], ["y"])], [f32("x", [2])], [f32("y", [2])], [weight])


def custom_domain() -> onnx.ModelProto:
    node = helper.make_node("Greet", ["x"], ["y"], domain="com.example")
    return model([node], [f32("x", [2])], [f32("y", [2])], domains=("", "com.example"))


def tiny_models() -> dict[str, onnx.ModelProto]:
    makers = (two_io, static_2x3, batch_rows, grow, endless, slow_gemm, fails, external, custom_domain)
    identities = {f"identity_{name}": identity(element) for name, element in ELEMENTS.items()}
    return identities | {maker.__name__: maker() for maker in makers}


if __name__ == "__main__":
    TINY.mkdir(exist_ok=True)
    for name, made in tiny_models().items():
        (TINY / f"{name}.onnx").write_bytes(made.SerializeToString(deterministic=True))

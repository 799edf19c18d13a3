"""Small ONNX models, written down as their nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dims = Sequence[int | str | None] | None


def value(name: str, shape: Dims, element: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    info: onnx.ValueInfoProto = helper.make_tensor_value_info(name, element, shape)
    return info


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    made: onnx.NodeProto = helper.make_node(op, inputs, outputs, **attributes)
    return made


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
    **fields: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    opsets = fields.pop("opset_imports", [helper.make_opsetid("", 17)])
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8, **fields)
    return made


def identity(element: int = TensorProto.FLOAT, shape: Dims = ("n",)) -> bytes:
    made = model([node("Identity", ["x"], ["y"])], [value("x", shape, element)], [value("y", shape, element)])
    data: bytes = made.SerializeToString()
    return data


def scale(factor: float) -> bytes:
    """y = factor * x."""
    made = model(
        [node("Mul", ["x", "factor"], ["y"])],
        [value("x", ["n"])],
        [value("y", ["n"])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])],
    )
    data: bytes = made.SerializeToString()
    return data


def sum_and_difference() -> bytes:
    """f32 a[n] and b[n] → f32 sum[n], f32 difference[n], i64 shape[1]."""
    made = model(
        [node("Add", ["a", "b"], ["sum"]), node("Sub", ["a", "b"], ["difference"]), node("Shape", ["a"], ["shape"])],
        [value("a", ["n"]), value("b", ["n"])],
        [value("sum", ["n"]), value("difference", ["n"]), value("shape", [1], TensorProto.INT64)],
    )
    data: bytes = made.SerializeToString()
    return data


def expand() -> bytes:
    """f32 x[1], i64 count[1] → f32 y[count]."""
    made = model(
        [node("Expand", ["x", "count"], ["y"])],
        [value("x", [1]), value("count", [1], TensorProto.INT64)],
        [value("y", ["n"])],
    )
    data: bytes = made.SerializeToString()
    return data


def loop() -> bytes:
    """i64 trips[1], f32 x[1] → f32 y[1], adding one `trips` times."""
    body = helper.make_graph(
        [node("Identity", ["go_in"], ["go_out"]), node("Add", ["value_in", "one"], ["value_out"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go_in", [], TensorProto.BOOL), value("value_in", [1])],
        [value("go_out", [], TensorProto.BOOL), value("value_out", [1])],
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])],
    )
    made = model(
        [node("Squeeze", ["trips"], ["count"]), node("Loop", ["count", "", "x"], ["y"], body=body)],
        [value("trips", [1], TensorProto.INT64), value("x", [1])],
        [value("y", [1])],
    )
    data: bytes = made.SerializeToString()
    return data


def gemm(columns: int, seed: int = 7) -> bytes:
    """f32 x[n, columns] → f32 y[n, columns], two dense layers."""
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((columns, columns), np.float32) / np.sqrt(np.float32(columns)) for _ in range(2)]
    made = model(
        [
            node("MatMul", ["x", "first"], ["hidden"]),
            node("Relu", ["hidden"], ["positive"]),
            node("MatMul", ["positive", "second"], ["y"]),
        ],
        [value("x", ["n", columns])],
        [value("y", ["n", columns])],
        [numpy_helper.from_array(array, name) for name, array in zip(("first", "second"), weights, strict=True)],
    )
    data: bytes = made.SerializeToString()
    return data


def company() -> bytes:
    """f32 x[n, k] → f32 y[n, k] = x, f32 rows[n, k]: with how many rows each was run."""
    made = model(
        [
            node("Identity", ["x"], ["y"]),
            node("Shape", ["x"], ["shape"], start=0, end=1),
            node("Cast", ["shape"], ["count"], to=TensorProto.FLOAT),
            node("Mul", ["x", "zero"], ["zeros"]),
            node("Add", ["zeros", "count"], ["rows"]),
        ],
        [value("x", ["n", "k"])],
        [value("y", ["n", "k"]), value("rows", ["n", "k"])],
        [helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])],
    )
    data: bytes = made.SerializeToString()
    return data


def table() -> bytes:
    """i64 x[n] → f32 y[n], the squares of 0 to 7; any other number fails the whole run."""
    made = model(
        [node("Gather", ["squares", "x"], ["y"])],
        [value("x", ["n"], TensorProto.INT64)],
        [value("y", ["n"])],
        [helper.make_tensor("squares", TensorProto.FLOAT, [8], [float(number**2) for number in range(8)])],
    )
    data: bytes = made.SerializeToString()
    return data


def total() -> bytes:
    """f32 x[n, k] → f32 y[k], the sums over all rows: not a row for a row."""
    made = model(
        [node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
        [value("x", ["n", "k"])],
        [value("y", ["k"])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [0])],
    )
    data: bytes = made.SerializeToString()
    return data


def counting(trips: int) -> bytes:
    """f32 x[n, k] → f32 y[n, k] = x + trips, one at a time."""
    body = helper.make_graph(
        [node("Identity", ["go_in"], ["go_out"]), node("Add", ["value_in", "one"], ["value_out"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go_in", [], TensorProto.BOOL), value("value_in", ["n", "k"])],
        [value("go_out", [], TensorProto.BOOL), value("value_out", ["n", "k"])],
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])],
    )
    made = model(
        [node("Loop", ["trips", "", "x"], ["y"], body=body)],
        [value("x", ["n", "k"])],
        [value("y", ["n", "k"])],
        [helper.make_tensor("trips", TensorProto.INT64, [], [trips])],
    )
    data: bytes = made.SerializeToString()
    return data


def huge_product() -> bytes:
    """i64 shape[2] → f32 y[...]: a matrix of that shape times itself."""
    made = model(
        [node("Expand", ["one", "shape"], ["x"]), node("MatMul", ["x", "x"], ["y"])],
        [value("shape", [2], TensorProto.INT64)],
        [value("y", ["n", "m"])],
        [helper.make_tensor("one", TensorProto.FLOAT, [1, 1], [1.0])],
    )
    data: bytes = made.SerializeToString()
    return data

"""What an uploaded ONNX file must not contain, judged on the parsed message before onnxruntime sees it.

The walk visits every message that can hold a tensor, a node or a function, whatever field it hangs from: onnxruntime
reads external data from initializers, attributes, subgraphs, function bodies and sparse tensors alike. See the ONNX
specification, IR.md and onnx.proto.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from wisp.errors import InvalidModel
from wisp.inference.reasons import quote
from wisp.wire.admissions import MAX_NAME_CHARS, ControlFlow, Terms
from wisp.wire.tensors import MAX_TENSORS, NUMPY_NAMES

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""The operator sets that every onnxruntime build has."""
MAX_DEPTH = 16
"""Of graphs in each other, the model's own included."""
MAX_FUNCTIONS = 4096
MAX_CONSTANT_RANK = 64
MAX_ELEMENTS = 1 << 32
GRAPH = onnx.GraphProto.DESCRIPTOR.full_name
CONTROL_FLOW = {
    "If": ControlFlow.BRANCHES,
    "Loop": ControlFlow.LOOPS,
    "Scan": ControlFlow.LOOPS,
    "SequenceMap": ControlFlow.LOOPS,
}
ELEMENTS = {
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
}


def inspect(data: bytes, terms: Terms) -> None:
    """Raises `InvalidModel` with the first reason found."""
    if not data:
        raise InvalidModel("the file is empty")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise InvalidModel("the file is not an ONNX model: it does not parse as one") from error
    if not model.HasField("graph"):
        raise InvalidModel("the file is not an ONNX model: it has no graph")
    if not model.graph.node:
        raise InvalidModel("the model's graph is empty: it has no nodes")
    _walk(model, terms)
    _check_arguments(model.graph)


def walk(model: onnx.ModelProto) -> Iterator[tuple[Any, int]]:
    """Every message from which a tensor or a node can be reached, those included, and how many graphs it lies in."""
    stack: list[tuple[Any, int]] = [(model, 0)]
    while stack:
        message, depth = stack.pop()
        yield message, depth
        if isinstance(message, onnx.TensorProto):
            continue
        for descriptor, value in message.ListFields():
            if descriptor.message_type is not None and descriptor.message_type.full_name in HOLDERS:
                deeper = depth + (descriptor.message_type.full_name == GRAPH)
                stack += [(item, deeper) for item in ((value,) if hasattr(value, "ListFields") else value)]


def _walk(model: onnx.ModelProto, terms: Terms) -> None:
    if len(model.functions) > MAX_FUNCTIONS:
        raise InvalidModel(
            f"the model has {len(model.functions)} functions of its own, at most {MAX_FUNCTIONS} are allowed"
        )
    functions = {(function.domain, function.name) for function in model.functions}
    refused = {op: needed for op, needed in CONTROL_FLOW.items() if needed > ControlFlow(terms.control_flow)}
    nodes = 0
    for message, depth in walk(model):
        if depth > MAX_DEPTH:
            raise InvalidModel(f"the model's graphs lie more than {MAX_DEPTH} deep in each other")
        if isinstance(message, onnx.TensorProto):
            _check_tensor(message)
        elif isinstance(message, onnx.NodeProto):
            nodes += 1
            if nodes > terms.max_nodes:
                raise InvalidModel(f"the model has more than {terms.max_nodes} nodes")
            _check_node(message, functions, refused)


def _check_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise InvalidModel(f"tensor {quote(tensor.name)} keeps its data in another file; save the model in one file")
    if len(tensor.dims) > MAX_CONSTANT_RANK or any(dim < 0 for dim in tensor.dims):
        raise InvalidModel(f"tensor {quote(tensor.name)} has impossible dimensions")
    elements = math.prod(tensor.dims)
    if elements > MAX_ELEMENTS:
        raise InvalidModel(f"tensor {quote(tensor.name)} has {elements} elements, at most {MAX_ELEMENTS} are allowed")


def _check_node(node: onnx.NodeProto, functions: set[tuple[str, str]], refused: dict[str, ControlFlow]) -> None:
    if node.op_type in refused:
        raise InvalidModel(
            f"node {quote(node.name)} is {quote(node.op_type)}; "
            f"it needs control_flow: {refused[node.op_type].word} in the ceiling's models"
        )
    if node.op_type == "EPContext":
        raise InvalidModel(f"node {quote(node.name)} is an EPContext: compiled parts for one device are not accepted")
    if node.domain not in DOMAINS and (node.domain, node.op_type) not in functions:
        raise InvalidModel(
            f"node {quote(node.name)} is {quote(node.op_type)} of the operator set {quote(node.domain)}; "
            "only ai.onnx and ai.onnx.ml are offered"
        )


def _check_arguments(graph: onnx.GraphProto) -> None:
    initialized = {tensor.name for tensor in graph.initializer}
    initialized.update(tensor.values.name for tensor in graph.sparse_initializer)
    inputs = [value for value in graph.input if value.name not in initialized]
    for side, values in (("input", inputs), ("output", list(graph.output))):
        if len(values) > MAX_TENSORS:
            raise InvalidModel(f"the model has {len(values)} {side}s, at most {MAX_TENSORS} are allowed")
        for value in values:
            _check_argument(side, value)
    if not graph.output:
        raise InvalidModel("the model has no output")


def _check_argument(side: str, value: onnx.ValueInfoProto) -> None:
    name = value.name
    if not 0 < len(name) <= MAX_NAME_CHARS or not (name.isascii() and name.isprintable()):
        raise InvalidModel(f"{side} {quote(name)}: a name is 1 to {MAX_NAME_CHARS} printable ASCII characters")
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise InvalidModel(
            f"{side} {quote(name)} is a {(kind or 'value without a type').removesuffix('_type')}, not a tensor"
        )
    tensor = value.type.tensor_type
    if tensor.elem_type not in ELEMENTS:
        raise InvalidModel(
            f"{side} {quote(name)} is of {_element_name(tensor.elem_type)}; "
            f"allowed are {', '.join(NUMPY_NAMES.values())}"
        )
    if side == "input" and not tensor.HasField("shape"):
        raise InvalidModel(f"input {quote(name)} does not say how many dimensions it has")


def _element_name(number: int) -> str:
    names: dict[int, str] = {value: name for name, value in onnx.TensorProto.DataType.items()}
    return names.get(number, f"element type {number}").lower()


def _holders() -> frozenset[str]:
    """The message types from which a tensor or a node can be reached, themselves included."""
    fields = {
        descriptor.full_name: {
            field.message_type.full_name for field in descriptor.fields if field.message_type is not None
        }
        for descriptor in onnx.ModelProto.DESCRIPTOR.file.message_types_by_name.values()
    }
    reached = {onnx.TensorProto.DESCRIPTOR.full_name, onnx.NodeProto.DESCRIPTOR.full_name}
    while more := {name for name, targets in fields.items() if targets & reached} - reached:
        reached |= more
    return frozenset(reached)


HOLDERS = _holders()

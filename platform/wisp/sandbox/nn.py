"""wasi-nn, the witx core ABI (`wasi_ephemeral_nn`): pointers and handles in, an errno out.

Which errno answers which mistake is the last column of the table that ARCHITECTURE.md cites; where published guests
disagree on numbers (tensor types 2 and 3), both readings are tried and the bytes decide. Every function takes the
invocation and the raw i32 arguments, unsigned.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from wisp.errors import InvalidFrame
from wisp.sandbox import memory, remote
from wisp.sandbox.hostline import HostLost
from wisp.sandbox.invocation import STOP, Invocation, Stop
from wisp.sandbox.outputs import bytes_of
from wisp.wire.inferences import Status
from wisp.wire.invocations import Kind, decode_model
from wisp.wire.outbound import Status as Inbound
from wisp.wire.outcome import Outcome
from wisp.wire.tensors import MAX_RANK, ElementType, TensorRef, TensorSpec, tensor_bytes

ENCODING_ONNX, ENCODING_AUTODETECT = 1, 5
TARGET_CPU, TARGET_AUTO = 0, 3
TENSOR_RECORD_BYTES = 20
MAX_NAME_BYTES = 1024
DENIED_INLINE = "inline_models: true"


class Errno(IntEnum):
    """nn_errno of the current specification."""

    SUCCESS = 0
    INVALID_ARGUMENT = 1
    INVALID_ENCODING = 2
    MISSING_MEMORY = 3
    BUSY = 4
    RUNTIME_ERROR = 5
    UNSUPPORTED_OPERATION = 6
    TOO_LARGE = 7
    NOT_FOUND = 8


FAULT = Errno.INVALID_ARGUMENT
"""What a bad pointer answers."""

OF_STATUS = {
    Status.OK: Errno.SUCCESS,
    Status.INVALID_ARGUMENT: Errno.INVALID_ARGUMENT,
    Status.TOO_LARGE: Errno.TOO_LARGE,
    Status.BUDGET: Errno.BUSY,
    Status.MODEL_TIME: Errno.RUNTIME_ERROR,
    Status.RUNTIME: Errno.RUNTIME_ERROR,
    Status.UNKNOWN_INVOCATION: Errno.RUNTIME_ERROR,
}
OF_LOAD = {
    Inbound.INVALID: Errno.INVALID_ENCODING,
    Inbound.TOO_LARGE: Errno.TOO_LARGE,
    Inbound.EXHAUSTED: Errno.BUSY,
    Inbound.UNREACHABLE: Errno.RUNTIME_ERROR,
}
"""How loading the guest's own model went; the words go to the tenant's log."""
# Element types 2 and 3 as the crates up to 0.5 numbered them (u8, i32); the current numbers are ElementType's own.
FORMER_TYPES = {2: ElementType.U8, 3: ElementType.I32}


def load(call: Invocation, builders: int, count: int, encoding: int, target: int, out: int) -> int | Stop:
    memory.check(call.arena, memory.aligned(out, 4), 4)
    if encoding not in (ENCODING_ONNX, ENCODING_AUTODETECT):
        return Errno.INVALID_ENCODING
    if target > TARGET_AUTO or count != 1:
        return Errno.INVALID_ARGUMENT
    pointer, length = memory.read_u32s(call.arena, memory.aligned(builders, 4), 2)
    memory.check(call.arena, pointer, length)
    if not call.link.inline_models:
        return call.refuse("wasi-nn load of model bytes", DENIED_INLINE) or Errno.UNSUPPORTED_OPERATION
    if target != TARGET_CPU or call.responses.line is None:
        return Errno.UNSUPPORTED_OPERATION
    source = memory.view(call.arena, pointer, length)
    answer = call.responses.line.ask(call.number, source, call.deadline_ns, Kind.GRAPH)
    if answer.status is Inbound.DEADLINE:
        return call.stop(Outcome.INFERENCE_TIMEOUT, "the deadline passed while a model of the guest's own was loaded")
    if answer.status is not Inbound.OK:
        call.logs.write(f"[wasi-nn load: {answer.content.decode('utf-8', 'replace')}]\n".encode())
        return OF_LOAD.get(answer.status, Errno.RUNTIME_ERROR)
    handle = call.inferences.add_graph(*decode_model(answer.content))
    if handle is None:
        return Errno.BUSY
    memory.write_u32(call.arena, out, handle)
    return Errno.SUCCESS


def load_by_name(call: Invocation, pointer: int, length: int, out: int) -> int | Stop:
    memory.check(call.arena, memory.aligned(out, 4), 4)
    if length > MAX_NAME_BYTES:
        return Errno.INVALID_ARGUMENT
    try:
        name = memory.read(call.arena, pointer, length).decode()
    except UnicodeDecodeError:
        return Errno.INVALID_ARGUMENT
    for number, model in enumerate(call.link.models):
        if model.name == name:
            if not model.target:
                call.logs.write(
                    f"[wasi-nn load_by_name: {name}: target: gpu, and this node has no GPU for it]\n".encode()
                )
                return Errno.UNSUPPORTED_OPERATION
            handle = call.inferences.add_graph(number, model)
            if handle is None:
                return Errno.BUSY
            memory.write_u32(call.arena, out, handle)
            return Errno.SUCCESS
    shown = ascii(name[:64])
    return call.refuse(f"model {shown}", f"models: [{{name: {shown}, model: …}}]") or Errno.NOT_FOUND


def load_by_name_with_config(
    call: Invocation, pointer: int, length: int, config: int, config_length: int, out: int
) -> int | Stop:
    """WasmEdge's. ONNX takes no configuration at run time: anything but an empty one is not offered."""
    memory.check(call.arena, config, config_length)
    if config_length:
        return Errno.UNSUPPORTED_OPERATION
    return load_by_name(call, pointer, length, out)


def init_execution_context(call: Invocation, graph_handle: int, out: int) -> int:
    graphs = call.inferences
    memory.check(call.arena, memory.aligned(out, 4), 4)
    graph = graphs.graphs.get(graph_handle)
    if graph is None:
        return Errno.INVALID_ARGUMENT
    handle = graphs.add_context(graph)
    if handle is None:
        return Errno.BUSY
    memory.write_u32(call.arena, out, handle)
    return Errno.SUCCESS


def _element_type(spec: TensorSpec, number: int, dims: tuple[int, ...], length: int) -> ElementType | None:
    """The reading of a tensor's type number under which its byte count and the model's declaration agree with it."""
    readings = [ElementType(number)] if number < len(ElementType) else []
    if number in FORMER_TYPES:
        readings.append(FORMER_TYPES[number])
    for reading in readings:
        if tensor_bytes(reading, dims) == length and spec.accepts(reading, dims):
            return reading
    return None


def set_input(call: Invocation, context_handle: int, index: int, record: int) -> int:
    graphs = call.inferences
    context = graphs.contexts.get(context_handle)
    if context is None or index >= len(context.graph.model.inputs):
        return Errno.INVALID_ARGUMENT
    memory.check(call.arena, memory.aligned(record, 4), TENSOR_RECORD_BYTES)
    dims_pointer, rank, kind, data_pointer, length = memory.read_u32s(call.arena, record, 5)
    if rank > MAX_RANK:
        return Errno.INVALID_ARGUMENT
    dims = memory.read_u32s(call.arena, memory.aligned(dims_pointer, 4), rank)
    # Only the lowest byte is the type: older guests leave the three bytes behind it uninitialised.
    dtype = _element_type(context.graph.model.inputs[index], kind & 0xFF, dims, length)
    if dtype is None:
        return Errno.INVALID_ARGUMENT
    source = memory.view(call.arena, data_pointer, length)
    line = graphs.line_of(context.graph)
    offset = graphs.reserve_input(context, index, length)
    if offset is None or line is None:
        return Errno.RUNTIME_ERROR if line is None else Errno.TOO_LARGE
    line.segment.view[offset : offset + length] = source
    context.inputs[index] = TensorRef(index=index, dtype=dtype, dims=dims, offset=offset, length=length)
    graphs.tensor_bytes += length
    return Errno.SUCCESS


def compute(call: Invocation, context_handle: int) -> int | Stop:
    graphs = call.inferences
    context = graphs.contexts.get(context_handle)
    if context is None or context.graph.unloaded:
        return Errno.INVALID_ARGUMENT
    line = graphs.line_of(context.graph)
    if line is None or len(context.inputs) != len(context.graph.model.inputs):
        return Errno.RUNTIME_ERROR
    if graphs.spent[context.graph.number] >= context.graph.model.max_inferences:
        return Errno.BUSY  # what it computed before stays
    graphs.drop_outputs(context)
    room = graphs.room_of(context.graph)
    gap = room.gap(bytes_of(context.graph.model.outputs))
    try:
        if context.graph.model.remote:
            status, outputs, spent_ns = remote.infer(call, context, line, gap)
        else:
            status, outputs, spent_ns = line.infer(
                call.number, context.graph.number, list(context.inputs.values()), gap, call.deadline_ns
            )
        if status is Status.OK:
            context.outputs = room.keep(gap, outputs)
            graphs.tensor_bytes += sum(output.length for output in outputs)
    except (HostLost, InvalidFrame) as error:
        call.logs.write(f"[inference host lost: {error}]\n".encode())
        return Errno.RUNTIME_ERROR
    if status not in (Status.BUDGET, Status.UNKNOWN_INVOCATION):
        graphs.count += 1
        graphs.spent[context.graph.number] += 1
        graphs.time_ns += spent_ns
    if status is Status.DEADLINE:
        call.stop(Outcome.INFERENCE_TIMEOUT, f"the deadline passed inside {context.graph.model.name!r}")
    if spent_ns:
        call.charge(spent_ns)
    if call.stopped is not None:
        return STOP
    return OF_STATUS[status]


def get_output(call: Invocation, context_handle: int, index: int, buffer: int, room: int, written: int) -> int:
    graphs = call.inferences
    context = graphs.contexts.get(context_handle)
    if context is None or index >= len(context.graph.model.outputs):
        return Errno.INVALID_ARGUMENT
    memory.check(call.arena, memory.aligned(written, 4), 4)
    memory.check(call.arena, buffer, room)
    if context.outputs is None:
        return Errno.RUNTIME_ERROR
    if index >= len(context.outputs.parts):
        return Errno.INVALID_ARGUMENT
    _, length = context.outputs.parts[index]
    memory.write_u32(call.arena, written, length)
    if length > room:
        return Errno.TOO_LARGE
    memory.view(call.arena, buffer, length)[:] = graphs.room_of(context.graph).view(context.outputs, index)
    return Errno.SUCCESS


def unload(call: Invocation, graph_handle: int) -> int:
    """WasmEdge's: the handle is gone at once, its contexts keep their outputs and compute no more."""
    graph = call.inferences.graphs.pop(graph_handle, None)
    if graph is None:
        return Errno.INVALID_ARGUMENT
    graph.unloaded = True
    return Errno.SUCCESS


def finalize_execution_context(call: Invocation, context_handle: int) -> int:
    return Errno.SUCCESS if call.inferences.drop_context(context_handle) else Errno.INVALID_ARGUMENT


def unsupported(_call: Invocation, *_arguments: int) -> int:
    """WasmEdge's streaming functions, which only language models have."""
    return Errno.UNSUPPORTED_OPERATION


FUNCTIONS: dict[str, Callable[..., int | Stop]] = {
    "load": load,
    "load_by_name": load_by_name,
    "load_by_name_with_config": load_by_name_with_config,
    "init_execution_context": init_execution_context,
    "set_input": set_input,
    "compute": compute,
    "get_output": get_output,
    "unload": unload,
    "finalize_execution_context": finalize_execution_context,
    "compute_single": unsupported,
    "fini_single": unsupported,
    "get_output_single": unsupported,
}

"""Inference of models that another machine serves: asked of the router, as outbound requests are.

The outputs are put where an inference host would have put them, so that all else is the same.
"""

from __future__ import annotations

from wisp.sandbox.graphs import Context
from wisp.sandbox.hostline import HostLine
from wisp.sandbox.invocation import Invocation
from wisp.sandbox.outputs import aligned
from wisp.wire.inferences import Status
from wisp.wire.invocations import Kind
from wisp.wire.outbound import Status as Inbound
from wisp.wire.remote import decode_carried, encode_carried
from wisp.wire.tensors import TensorRef

OF_INBOUND = {
    Inbound.INVALID: Status.INVALID_ARGUMENT,
    Inbound.TOO_LARGE: Status.TOO_LARGE,
    Inbound.EXHAUSTED: Status.BUDGET,
    Inbound.DEADLINE: Status.DEADLINE,
}


def infer(
    call: Invocation, context: Context, line: HostLine, gap: tuple[int, int]
) -> tuple[Status, list[TensorRef], int]:
    """(status, outputs lying in the segment's gap, ns spent)."""
    asked = call.responses.line
    if asked is None:
        return Status.RUNTIME, [], 0
    inputs = [context.inputs[index] for index in sorted(context.inputs)]
    view = line.segment.view
    message = encode_carried(
        context.graph.number, 0, inputs, [view[one.offset : one.offset + one.length] for one in inputs]
    )
    answer = asked.ask(call.number, memoryview(message), call.deadline_ns, Kind.REMOTE)
    if answer.status is not Inbound.OK:
        if answer.content:
            call.logs.write(f"[remote inference: {answer.content.decode('utf-8', 'replace')}]\n".encode())
        return OF_INBOUND.get(answer.status, Status.RUNTIME), [], 0
    carried = decode_carried(answer.content)
    outputs, (offset, end) = [], (gap[0], gap[0] + gap[1])
    for one in carried.tensors:
        if offset + one.length > end:
            return Status.TOO_LARGE, [], carried.spent_ns
        view[offset : offset + one.length] = carried.data[one.offset : one.offset + one.length]
        outputs.append(TensorRef(index=one.index, dtype=one.dtype, dims=one.dims, offset=offset, length=one.length))
        offset += aligned(one.length)
    return Status.OK, outputs, carried.spent_ns

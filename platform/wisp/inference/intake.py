"""What a slot sends: a frame that may be anything, and the inference that it asks for once it was judged."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from wisp.errors import InvalidFrame
from wisp.inference import batches, runs
from wisp.inference.requests import Request
from wisp.inference.sessions import LoadedModel
from wisp.inference.slots import Fit, Invocation, Job, Slot
from wisp.wire.inferences import Status


class Heard(NamedTuple):
    """`lost`: nobody is at the other end; `reason`: how the frame breaks the protocol. Nothing at all where another
    thread had read it."""

    request: Request | None = None
    lost: bool = False
    reason: str = ""


NOTHING = Heard()


def hear(slot: Slot) -> Heard:
    """One frame of a slot that the caller keeps open."""
    try:
        frame = slot.channel.receive()
        if frame is None:
            return Heard(lost=True)
        request = slot.former = Request.decode(frame, slot.segment.size_bytes, slot.former)
        return Heard(request)
    except BlockingIOError:
        return NOTHING
    except ConnectionError:  # it died with answers unread
        return Heard(lost=True)
    except (InvalidFrame, OSError) as error:
        return Heard(reason=str(error))


def is_known(invocation: Invocation | None, request: Request) -> bool:
    """Whether the router has said all that this request builds on."""
    return (
        invocation is not None
        and invocation.number == request.invocation
        and request.model < len(invocation.binding.models)
    )


def admit(slot: Slot, request: Request, models: Mapping[str, LoadedModel]) -> Job | Status:
    """Its job, or why it is refused. Only an inference that runs counts against the budget."""
    invocation = slot.invocation
    if invocation is None or invocation.number != request.invocation:
        return Status.UNKNOWN_INVOCATION
    if request.model >= len(invocation.binding.models):
        return Status.INVALID_ARGUMENT
    bound = invocation.binding.models[request.model]
    if invocation.spent[request.model] >= bound.max_inferences:
        return Status.BUDGET
    now_ns = time.monotonic_ns()
    if now_ns >= invocation.deadline_ns:
        return Status.DEADLINE
    model = models.get(bound.digest)
    if model is None:
        return Status.RUNTIME
    fit = slot.fit
    if fit is None or fit.inputs is not request.inputs or fit.specs is not model.inputs or fit.batch != model.batch:
        if not runs.accepts(model, request.inputs):
            return Status.INVALID_ARGUMENT
        rows = batches.rows_of(model, request.inputs)
        fit = slot.fit = Fit(request.inputs, model.inputs, model.batch, rows, batches.shape_of(request.inputs))
    invocation.spent[request.model] += 1
    rows = fit.rows
    company = "" if bound.shares_batches else invocation.binding.tenant
    return Job(
        slot=slot,
        invocation=invocation,
        request=request,
        loaded=model,
        bound=bound,
        rows=rows or 1,
        batch=(company, fit.shape) if rows else None,
        arrived_ns=now_ns,
    )

"""One inference, as a worker thread does it: inputs copied out of the segment, the session run, outputs copied back.

Inputs are copied before the run because the sandbox shares the segment and may write to it at any time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from wisp.inference.sessions import LoadedModel
from wisp.wire.admissions import MAX_DIM
from wisp.wire.inferences import Status
from wisp.wire.tensors import MAX_RANK, MAX_TENSORS, NUMPY_NAMES, ElementType, TensorRef

ALIGNMENT_BYTES = 64

Array = npt.NDArray[np.generic]
DTYPES = {element: np.dtype(name) for element, name in NUMPY_NAMES.items()}
# By the type itself: numpy puts its name together anew each time that it is asked.
ELEMENTS = {dtype: element for element, dtype in DTYPES.items()}


class Run(NamedTuple):
    """How a run ended. `nn_ns` is the time of the session's run alone, counted on each of its threads."""

    status: Status
    outputs: tuple[Array, ...] = ()
    nn_ns: int = 0


class Part(NamedTuple):
    """One output for one caller."""

    dtype: ElementType
    dims: tuple[int, ...]
    content: memoryview


def accepts(model: LoadedModel, inputs: list[TensorRef]) -> bool:
    """Whether these are exactly the model's inputs: each index once, of its type and shape."""
    specs = model.inputs
    return sorted(ref.index for ref in inputs) == list(range(len(specs))) and all(
        specs[ref.index].accepts(ref.dtype, ref.dims) for ref in inputs
    )


def read(model: LoadedModel, inputs: list[TensorRef], segment: memoryview) -> dict[str, Array] | None:
    """Copies of the inputs, by name; they must lie inside the segment and have been accepted. None for what numpy
    cannot hold, such as an empty tensor with huge other dimensions."""
    try:
        return {model.inputs[ref.index].name: _copy_in(ref, segment) for ref in inputs}
    except (ValueError, MemoryError):
        return None


def run(model: LoadedModel, feed: dict[str, Array], options: onnxruntime.RunOptions, threads: int = 1) -> Run:
    """Never raises for what a model or a guest does. `threads`: one, or as many as its wide session has."""
    wide = model.wide
    session = model.session if threads == 1 or wide is None else wide.session
    began_ns = time.monotonic_ns()
    try:
        results = session.run(None, feed, options)
    except Exception:  # noqa: BLE001 - the boundary to native code: a terminated run and a failed one raise alike
        return Run(status=Status.RUNTIME, nn_ns=(time.monotonic_ns() - began_ns) * threads)
    nn_ns = (time.monotonic_ns() - began_ns) * threads
    if len(results) > MAX_TENSORS or not all(_is_plain(result) for result in results):
        return Run(status=Status.RUNTIME, nn_ns=nn_ns)
    return Run(status=Status.OK, outputs=tuple(results), nn_ns=nn_ns)


def whole(outputs: Sequence[Array]) -> tuple[Part, ...]:
    """Of a run that had one caller."""
    return tuple([Part(ELEMENTS[output.dtype], output.shape, content_of(output)) for output in outputs])


def content_of(output: Array) -> memoryview:
    """Its bytes, row by row."""
    return output.reshape(-1).view(np.uint8).data


def place(parts: Sequence[Part], room_offset: int, room_bytes: int) -> list[TensorRef] | None:
    """Where each output goes, every one aligned for any element type; None if the room does not hold them."""
    refs = []
    at = room_offset
    for index, (dtype, dims, content) in enumerate(parts):
        at = (at + ALIGNMENT_BYTES - 1) & -ALIGNMENT_BYTES
        length = len(content)
        if at + length > room_offset + room_bytes:
            return None
        refs.append(TensorRef(index, dtype, dims, at, length))
        at += length
    return refs


def copy_out(parts: Sequence[Part], refs: list[TensorRef], segment: memoryview) -> None:
    for part, ref in zip(parts, refs, strict=True):
        segment[ref.offset : ref.offset + ref.length] = part.content


def _copy_in(ref: TensorRef, segment: memoryview) -> Array:
    dtype = DTYPES[ref.dtype]
    if not ref.length:
        return np.empty(ref.dims, dtype)
    view: Array = np.ndarray(ref.dims, dtype, segment, ref.offset)
    return view.copy()


def _is_plain(result: object) -> bool:
    """A dense tensor of a type and shape that the wire can name; sequences, maps, strings and the like are not."""
    return (
        isinstance(result, np.ndarray)
        and result.dtype in ELEMENTS
        and result.ndim <= MAX_RANK
        and all(dim <= MAX_DIM for dim in result.shape)
    )

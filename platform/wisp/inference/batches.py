"""Several inferences of one model run as one: their rows stacked, and each caller's own rows of the answer cut out.

Rows are the first dimension of each input and output. Only models whose probe found that this pays and changes nothing
are run so, and only requests of one type and trailing shape together. The stack lies in memory of the host's own; no
caller's segment ever holds another's rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wisp.inference.runs import DTYPES, ELEMENTS, Part, content_of
from wisp.inference.sessions import LoadedModel
from wisp.wire.tensors import TensorRef

Array = npt.NDArray[np.generic]


def rows_of(model: LoadedModel, inputs: list[TensorRef]) -> int:
    """The rows of a request that may be stacked upon others; 0 for one that may not."""
    if not model.batch:
        return 0
    rows = {ref.dims[0] if ref.dims else 0 for ref in inputs}
    if len(rows) != 1 or any(model.inputs[ref.index].shape[0] != -1 for ref in inputs):
        return 0
    (count,) = rows
    return count if count < model.batch else 0


def shape_of(inputs: list[TensorRef]) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
    """Equal for requests that stack: index, type and trailing shape of each input."""
    return tuple(sorted((ref.index, int(ref.dtype), ref.dims[1:]) for ref in inputs))


def stack(model: LoadedModel, callers: Sequence[tuple[list[TensorRef], memoryview]]) -> dict[str, Array] | None:
    """The model's inputs by name, each of all callers' rows: copies of what lies in their segments, which may change at
    any time. They must have been accepted, and be of one `shape_of`. None for what numpy cannot hold."""
    try:
        return {
            spec.name: _stacked([(_of(inputs, index), segment) for inputs, segment in callers])
            for index, spec in enumerate(model.inputs)
        }
    except (ValueError, MemoryError):
        return None


def split(outputs: Sequence[Array], rows: Sequence[int]) -> list[tuple[Part, ...]] | None:
    """For each caller its own rows, as views; None where an output does not have a row for each row that went in."""
    total = sum(rows)
    if any(output.ndim == 0 or output.shape[0] != total for output in outputs):
        return None
    whole = [
        (ELEMENTS[output.dtype], output.shape[1:], content_of(output), output.nbytes // total) for output in outputs
    ]
    parts, at = [], 0
    for count in rows:
        parts.append(
            tuple(
                [
                    Part(dtype, (count, *trailing), content[at * row_bytes : (at + count) * row_bytes])
                    for dtype, trailing, content, row_bytes in whole
                ]
            )
        )
        at += count
    return parts


def _of(inputs: list[TensorRef], index: int) -> TensorRef:
    return inputs[0] if len(inputs) == 1 else next(ref for ref in inputs if ref.index == index)


def _stacked(refs: Sequence[tuple[TensorRef, memoryview]]) -> Array:
    """Without an array for each caller: that would take longer than its copy."""
    room = np.empty(sum([ref.length for ref, _ in refs]), np.uint8)
    into, at, rows = room.data, 0, 0
    for ref, segment in refs:
        into[at : at + ref.length] = segment[ref.offset : ref.offset + ref.length]
        at += ref.length
        rows += ref.dims[0]
    first = refs[0][0]
    stacked: Array = room.view(DTYPES[first.dtype]).reshape(rows, *first.dims[1:])
    return stacked

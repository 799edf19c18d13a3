"""Several inferences of one model run as one: their rows stacked, and each caller's own rows of the answer cut out.

Rows are the first dimension of each input and output. Only models whose probe found that this pays and changes nothing
are run so, and only requests of one type and trailing shape together. The stack lies in memory of the host's own; no
caller's segment ever holds another's rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

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


def stack(feeds: Sequence[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def split(outputs: Sequence[Array], rows: Sequence[int]) -> list[tuple[Array, ...]] | None:
    """For each caller its own rows, as views; None where an output does not have a row for each row that went in."""
    total = sum(rows)
    if any(output.ndim == 0 or output.shape[0] != total for output in outputs):
        return None
    parts, at = [], 0
    for count in rows:
        parts.append(tuple(output[at : at + count] for output in outputs))
        at += count
    return parts

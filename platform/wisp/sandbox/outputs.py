"""Where a guest's outputs lie until it fetches them: in the half of the tensor segment into which the host wrote them.

They are copied once, from there into guest memory. What one context has computed stays until it computes again, so each
`compute` is given a gap between what the others hold. What they hold is moved only where no gap is large enough.
"""

from __future__ import annotations

from dataclasses import dataclass

from wisp.errors import InvalidFrame
from wisp.wire.segments import Segment
from wisp.wire.tensors import TensorRef, TensorSpec, tensor_bytes

ALIGNMENT = 64
"""Of tensors in the segment, for the host's kernels."""


def aligned(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


def bytes_of(specs: tuple[TensorSpec, ...]) -> int | None:
    """What these outputs take in a segment; None where the model leaves their sizes open."""
    if any(dim < 0 for spec in specs for dim in spec.shape):
        return None
    return sum(aligned(tensor_bytes(spec.dtype, spec.shape)) for spec in specs)


@dataclass(slots=True, eq=False)
class Outputs:
    """Of one context. `parts`: where each begins, from `offset` on, and its bytes."""

    offset: int
    size_bytes: int
    parts: tuple[tuple[int, int], ...]


class OutputRoom:
    """The segment from `start` on, which is a multiple of `ALIGNMENT`."""

    def __init__(self, segment: Segment, start: int) -> None:
        self._segment = segment
        self._start = start
        self._held: list[Outputs] = []
        """In the order in which they lie there."""

    def gap(self, size_bytes: int | None) -> tuple[int, int]:
        """(offset, length) where that much is free, or else all that is free. None: nobody knows how much it takes."""
        free = self._segment.size_bytes - self._start - sum(outputs.size_bytes for outputs in self._held)
        wanted = free if size_bytes is None else min(size_bytes, free)
        end = self._start
        for outputs in self._held:
            if outputs.offset - end >= wanted:
                return end, outputs.offset - end
            end = max(end, outputs.offset + outputs.size_bytes)  # one that holds nothing may lie inside another
        if self._segment.size_bytes - end < wanted:
            self._close_gaps()
            end = self._segment.size_bytes - free
        return end, self._segment.size_bytes - end

    def keep(self, gap: tuple[int, int], refs: list[TensorRef]) -> Outputs:
        """What the host has written there. Raises `InvalidFrame` if it wrote elsewhere."""
        offset, length = gap
        if any(ref.offset < offset or ref.offset + ref.length > offset + length for ref in refs):
            raise InvalidFrame("an output outside of the room that it was given")
        end = max((ref.offset + ref.length for ref in refs), default=offset)
        parts = tuple((ref.offset - offset, ref.length) for ref in refs)
        outputs = Outputs(offset, aligned(end - offset), parts)
        self._held.append(outputs)
        self._held.sort(key=lambda one: one.offset)
        return outputs

    def view(self, outputs: Outputs, index: int) -> memoryview:
        """The bytes themselves, in the segment."""
        start, length = outputs.parts[index]
        start += outputs.offset
        return self._segment.view[start : start + length]

    def drop(self, outputs: Outputs) -> None:
        self._held.remove(outputs)

    def _close_gaps(self) -> None:
        view, end = self._segment.view, self._start
        for outputs in self._held:
            if outputs.offset != end:
                view[end : end + outputs.size_bytes] = view[outputs.offset : outputs.offset + outputs.size_bytes]
                outputs.offset = end
            end += outputs.size_bytes

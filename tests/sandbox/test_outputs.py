"""Where outputs lie between `compute` and `get_output`, and how often they are copied on the way to the guest."""

from __future__ import annotations

import ctypes
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.guests import link, model
from sandbox.pair import f32
from wisp.errors import InvalidFrame
from wisp.sandbox import nn
from wisp.sandbox.arena import Arena
from wisp.sandbox.filesystem import FileTree
from wisp.sandbox.hostline import HostLine
from wisp.sandbox.invocation import Invocation
from wisp.sandbox.nn import Errno
from wisp.sandbox.outputs import ALIGNMENT, OutputRoom, Outputs, bytes_of
from wisp.sandbox.pagemap import PageMap
from wisp.wire.channel import Channel, socket_pair
from wisp.wire.segments import Segment
from wisp.wire.tensors import ElementType, TensorRef

START = 4096
SEGMENT_BYTES = 3 * START
LARGE_BYTES = 16 << 20


@pytest.fixture
def segment() -> Iterator[Segment]:
    with Segment.create("tensors", SEGMENT_BYTES) as made:
        yield made


def ref(offset: int, length: int, index: int = 0) -> TensorRef:
    return TensorRef(index=index, dtype=ElementType.U8, dims=(length,), offset=offset, length=length)


def write(segment: Segment, room: OutputRoom, length: int, fill: int, *, known: bool = True) -> Outputs:
    """As the host does, at the beginning of the gap."""
    gap = room.gap(length if known else None)
    assert gap[1] >= length
    segment.view[gap[0] : gap[0] + length] = bytes([fill]) * length
    return room.keep(gap, [ref(gap[0], length)])


def test_what_contexts_hold_never_overlaps_and_fills_the_room(segment: Segment) -> None:
    room = OutputRoom(segment, START)
    held = [write(segment, room, 1024, fill) for fill in range(8)]
    assert room.gap(1024)[1] == 0
    for fill, outputs in enumerate(held):
        assert room.view(outputs, 0) == bytes([fill]) * 1024
    room.drop(held[3])
    assert room.gap(1024) == (held[3].offset, 1024), "the gap itself, where it is large enough"


@pytest.mark.parametrize("known", [True, False])
def test_what_is_held_moves_together_where_no_gap_is_large_enough(segment: Segment, *, known: bool) -> None:
    room = OutputRoom(segment, START)
    held = [write(segment, room, 1024, fill) for fill in range(8)]
    for fill in (0, 2, 4, 6):
        room.drop(held[fill])
    last = write(segment, room, 4096, 9, known=known)
    assert room.view(last, 0) == bytes([9]) * 4096
    for fill in (1, 3, 5, 7):
        assert room.view(held[fill], 0) == bytes([fill]) * 1024


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4096), st.booleans()), max_size=40))
def test_outputs_stay_as_they_were_written_whatever_the_others_do(steps: list[tuple[int, int, bool]]) -> None:
    with Segment.create("tensors", SEGMENT_BYTES) as segment:
        room = OutputRoom(segment, START)
        held: dict[int, tuple[Outputs, bytes]] = {}
        for fill, (context, length, known) in enumerate(steps, start=1):
            if context in held:
                room.drop(held.pop(context)[0])
            used = sum(-(-len(content) // ALIGNMENT) * ALIGNMENT for _, content in held.values())
            gap = room.gap(length if known else None)
            assert gap[0] >= START
            assert gap[0] + gap[1] <= SEGMENT_BYTES
            fits = length <= SEGMENT_BYTES - START - used
            assert (gap[1] >= length) is fits
            if fits:
                content = bytes([fill]) * length
                segment.view[gap[0] : gap[0] + length] = content
                held[context] = room.keep(gap, [ref(gap[0], length)]), content
            for outputs, content in held.values():
                assert room.view(outputs, 0) == content


@pytest.mark.parametrize(("offset", "length"), [(START - 64, 64), (START, 2049), (0, 8)])
def test_a_host_that_writes_elsewhere_is_not_believed(segment: Segment, offset: int, length: int) -> None:
    with pytest.raises(InvalidFrame):
        OutputRoom(segment, START).keep((START, 2048), [ref(offset, length)])


def test_the_size_of_outputs_is_known_where_the_model_says_it() -> None:
    assert bytes_of((f32("a", 3), f32("b", 16, 2))) == 64 + 128
    assert bytes_of((f32("a", 3), f32("b", -1))) is None


def test_an_output_is_copied_once_on_its_way_to_the_guest() -> None:
    """Nothing of its size is allocated between the segment and guest memory; nor for an input, on its way back."""
    near, far = socket_pair()
    guest = ctypes.create_string_buffer(LARGE_BYTES + 4096)
    arena = Arena(PageMap(-1))
    arena.base, arena.size_bytes = ctypes.addressof(guest), len(guest)
    arena.memory = memoryview(guest).cast("B")
    line = HostLine(Channel(near), Segment.create("tensors", 4 * LARGE_BYTES))
    call = Invocation(number=1, link=link(), deadline_ns=0, arena=arena, lines=(line, None), files=FileTree())
    graphs = call.inferences
    count = LARGE_BYTES // 4
    graph = graphs.add_graph(0, model("m", (f32("x", count),), (f32("y", count),)))
    assert graph is not None
    assert graphs.add_context(graphs.graphs[graph]) == 0
    record, data = LARGE_BYTES, 0
    ctypes.memmove(arena.base + record, b"".join(n.to_bytes(4, "little") for n in (
        record + 32, 1, ElementType.F32, data, LARGE_BYTES, 0, 0, 0, count
    )), 36)  # fmt: skip
    guest.value = b"in!"
    room = graphs.room_of(graphs.graphs[graph])
    gap = room.gap(LARGE_BYTES)
    context = graphs.contexts[0]
    context.outputs = room.keep(gap, [ref(gap[0], LARGE_BYTES)])
    line.segment.view[gap[0] : gap[0] + 4] = b"out!"
    tracemalloc.start()
    try:
        assert nn.set_input(call, 0, 0, record) == Errno.SUCCESS
        assert nn.get_output(call, 0, 0, 0, LARGE_BYTES, record) == Errno.SUCCESS
        assert nn.get_output(call, 0, 0, 0, LARGE_BYTES, record) == Errno.SUCCESS
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bytes(line.segment.view[:3]) == b"in!"
    assert guest.raw[:4] == b"out!"
    assert peak_bytes < LARGE_BYTES // 16
    line.close()
    far.close()

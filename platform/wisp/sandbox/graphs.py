"""A guest's graphs and execution contexts: what stands behind the handles of wasi-nn, for one invocation.

Inputs are copied into the tensor segment the moment they are set, since a guest may reuse its buffer right after.
Outputs stay in it until their context computes again (`sandbox.outputs`), so contexts can be interleaved. Handles count
up from 0, graphs and contexts apart, and are never used again. The inputs' room is given back when the last context is
gone.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from wisp.sandbox.hostline import HostLine
from wisp.sandbox.outputs import ALIGNMENT, OutputRoom, Outputs, aligned
from wisp.wire.invocations import ModelLink
from wisp.wire.tensors import TensorRef

MAX_GRAPHS = 64
MAX_CONTEXTS = 64


@dataclass(slots=True, kw_only=True)
class Graph:
    number: int
    """Its place in the function's models, which is how the host knows it."""
    model: ModelLink
    unloaded: bool = False


@dataclass(slots=True, kw_only=True)
class Context:
    graph: Graph
    inputs: dict[int, TensorRef] = field(default_factory=dict)
    capacities: dict[int, int] = field(default_factory=dict)
    """Bytes reserved in the segment for each input, so that setting it again needs no more room."""
    outputs: Outputs | None = None


class Graphs:
    """`count`, `time_ns` and `tensor_bytes` are what the receipt says of inference."""

    def __init__(self, line: HostLine | None, own_line: HostLine | None = None) -> None:
        """To the shared inference host, and to the tenant's own."""
        self._lines = (line, own_line)
        self._rooms = tuple(None if one is None else OutputRoom(one.segment, one.input_room) for one in self._lines)
        self.graphs: dict[int, Graph] = {}
        self.contexts: dict[int, Context] = {}
        self.count = 0
        self.spent: defaultdict[int, int] = defaultdict(int)
        """Inferences by the graph's number: more than a model may make are not asked for."""
        self.time_ns = 0
        self.tensor_bytes = 0
        self._next_graph = 0
        self._next_context = 0
        self._input_bytes = [0, 0]
        """By line."""

    def line_of(self, graph: Graph) -> HostLine | None:
        """Where its model is; None if there is no such host at present."""
        return self._lines[graph.model.own]

    def room_of(self, graph: Graph) -> OutputRoom:
        """Of a graph that has a line."""
        room = self._rooms[graph.model.own]
        assert room is not None
        return room

    def add_graph(self, number: int, model: ModelLink) -> int | None:
        """The handle, or None when there are too many."""
        if self._next_graph >= MAX_GRAPHS:
            return None
        handle = self._next_graph
        self._next_graph += 1
        self.graphs[handle] = Graph(number=number, model=model)
        return handle

    def add_context(self, graph: Graph) -> int | None:
        if len(self.contexts) >= MAX_CONTEXTS:
            return None
        handle = self._next_context
        self._next_context += 1
        self.contexts[handle] = Context(graph=graph)
        return handle

    def drop_context(self, handle: int) -> bool:
        context = self.contexts.pop(handle, None)
        if context is None:
            return False
        self.drop_outputs(context)
        if not self.contexts:
            self._input_bytes = [0, 0]
        return True

    def reserve_input(self, context: Context, index: int, length: int) -> int | None:
        """An offset in the segment for this input, or None when the inputs' half of it is full."""
        line = self.line_of(context.graph)
        if line is None:
            return None
        if index in context.inputs and context.capacities[index] >= length:
            return context.inputs[index].offset
        room = max(aligned(length), ALIGNMENT)
        offset = self._input_bytes[context.graph.model.own]
        if offset + room > line.input_room:
            return None
        self._input_bytes[context.graph.model.own] = offset + room
        context.capacities[index] = room
        return offset

    def drop_outputs(self, context: Context) -> None:
        if context.outputs is not None:
            self.room_of(context.graph).drop(context.outputs)
            context.outputs = None

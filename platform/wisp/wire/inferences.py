"""The frames to and from an inference host.

The router vouches for every invocation before its guest starts: OPEN names the slot (one sandbox), the function's
binding (tenant, models, bounds) and the deadline. A sandbox then asks over its slot's own socket, and is believed in
nothing beyond which slot it is: models go by their number in the binding, bounds come from the binding.

    router → host      LOAD    JSON {digest, bytes, batch, prepared, gpu, wide} + 1 frozen segment or read-only file
                               with the model. `batch`: rows that may go into one run, 0 for none. `prepared`: the
                               directory, below the one that the host can read, with the optimised model and its
                               weights, or "". `wide`: whether a run is long enough for several threads
                       UNLOAD  digest
                       SLOT    slot u32 + socket + tensor segment + meter (`wire.meters`); replaces the slot's former
                       BIND    JSON `Binding`
                       UNBIND  handle u32
                       OPEN    `OPEN`: slot, handle, invocation, deadline
                       GRANT   JSON {slot, invocation, model: `BoundModel`}: one model more for that invocation alone
                       CLOSE   `CLOSE`: slot, invocation; cancels what the slot still infers
    host → router      READY   JSON {walls, providers: onnxruntime's, that work here}
                       LOADED  JSON {digest, ok, error, load_ms, bytes: that it takes, shared: are its weights mapped}
    sandbox → host     COMPUTE `COMPUTE_HEAD`, then that many packed tensors (`wire.tensors`)
    host → sandbox     DONE    `DONE_HEAD`, then that many packed tensors
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any


class Kind(IntEnum):
    READY = 1
    LOAD = 2
    LOADED = 3
    UNLOAD = 4
    SLOT = 5
    BIND = 6
    UNBIND = 7
    OPEN = 8
    CLOSE = 9
    COMPUTE = 10
    DONE = 11
    GRANT = 12


MOST_THREADS = 4
"""Of one run."""
OPEN = struct.Struct("<IIQQ")
"""slot, handle, invocation, deadline (CLOCK_MONOTONIC, ns)."""
CLOSE = struct.Struct("<IQ")
"""slot, invocation."""
SLOT = struct.Struct("<I")
HANDLE = struct.Struct("<I")
COMPUTE_HEAD = struct.Struct("<QIHHQQ")
"""invocation, sequence, model number in the binding, inputs, where outputs may go in the segment: offset, length."""
DONE_HEAD = struct.Struct("<QIHHQ")
"""invocation, sequence, status (`Status`), outputs, time spent inferring (ns)."""


class Status(IntEnum):
    """How one inference ended, as the host sees it; the wasi-nn front turns it into an errno or an outcome."""

    OK = 0
    INVALID_ARGUMENT = 1
    TOO_LARGE = 2
    """The outputs do not fit into the room that the sandbox named."""
    BUDGET = 3
    """`max_inferences` of the function's model entry is used up."""
    MODEL_TIME = 4
    """The model entry's `max_time` passed."""
    DEADLINE = 5
    """The invocation's deadline passed."""
    RUNTIME = 6
    """The model failed, or is not loaded."""
    UNKNOWN_INVOCATION = 7
    """The router has not opened, or has closed, this invocation on this slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundModel:
    """`shares_batches`: whether its rows may run in one batch with other tenants'."""

    digest: str
    max_inferences: int
    max_time_ns: int
    shares_batches: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What one function may infer, under the same handle as its `FunctionLink`; models in the same order. `weight` is
    the tenant's share where several wait."""

    handle: int
    tenant: str
    models: tuple[BoundModel, ...]
    weight: int = 1

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Binding:
        fields: dict[str, Any] = json.loads(payload)
        fields["models"] = tuple(BoundModel(**model) for model in fields["models"])
        return cls(**fields)

"""The frames to and from the short-lived child that judges one uploaded model.

    child → router   READY    JSON {walls}, before it has read anything
    router → child   JUDGE    JSON `Terms` + 1 read-only descriptor (file or frozen segment) with the model, and where
                              it is to be prepared too, 2 empty memory files: for the optimised model, for its weights
    child → router   VERDICT  JSON {ok: true, inputs, outputs, memory_bytes, probe, weights_bytes}
                              or {ok: false, reason}

Each input and output is {name, dtype (`ElementType`), shape (-1 where the model leaves a dimension open)}. The child
has parsed a stranger's file in native code by the time it answers, so `decode_verdict` takes it for hostile. So are the
memory files, which it can still resize: they are read, never mapped.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from wisp.errors import InvalidFrame
from wisp.wire.tensors import MAX_RANK, MAX_TENSORS, ElementType, TensorSpec

MAX_REASON_CHARS = 400
MAX_NAME_CHARS = 256
MAX_DIM = 2**32 - 1
MAX_BATCH_ROWS = 32
"""Of one run over several callers' rows."""
PREPARED_MODEL, PREPARED_WEIGHTS = "model.onnx", "weights.bin"
"""The files of a model that was optimised once: the second is mapped by every process that opens the first."""


class ControlFlow(IntEnum):
    """How much a model's graph may decide by itself, each level with those before it."""

    NONE = 0
    BRANCHES = 1
    """`If`."""
    LOOPS = 2
    """`Loop`, `Scan`, `SequenceMap`: how long these run, only a deadline bounds."""

    @property
    def word(self) -> str:
        """As it stands in a ceiling."""
        return self.name.lower()


class Kind(IntEnum):
    JUDGE = 1
    VERDICT = 2
    READY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a model may be at most.

    `max_bytes` bounds the file, `max_memory_bytes` what an open session keeps beyond an empty one's (a small file can
    hold constants that take a gigabyte once they are computed); `max_nodes` counts those of subgraphs and functions.
    `control_flow`: the most that its graph may do, a `ControlFlow`.
    """

    max_bytes: int
    max_memory_bytes: int = 512 << 20
    max_nodes: int = 100_000
    control_flow: int = ControlFlow.LOOPS

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Terms:
        """For the child, which trusts the router: a wrong field is a defect and raises."""
        return cls(**json.loads(payload))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProbe:
    """What trying a model out showed, on the node that did. Times are those of one run, the best of a few.

    `latency_us`: of a run at batch 1, 0 if none ended well. `batch_latency_us`: of one over 8 rows, 0 where the model's
    first dimension is not open. `peak_bytes`: what opening and running it took at most. `batch`: how many rows, of
    several callers, may go into one run, 0 if none: their answers would differ, or it does not pay. `note`: why it was
    not probed, or why it is not batched; empty otherwise.
    """

    latency_us: int
    batch_latency_us: int
    peak_bytes: int
    batch: int
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a model takes and gives, in the session's order. An output of unknown rank has the shape ().

    `memory_bytes` is what opening it took, the 9 MB that a process's first session costs included: what a host that
    loads it should count with. `weights_bytes`: what lies in the memory file for weights, 0 if it was not prepared.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    memory_bytes: int
    probe: ModelProbe
    weights_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """`reason` is printable ASCII, names what is wrong, and is safe to show to the uploader."""

    reason: str


def encode_verdict(verdict: ModelFacts | Refusal) -> bytes:
    if isinstance(verdict, Refusal):
        return json.dumps({"ok": False, "reason": verdict.reason[:MAX_REASON_CHARS]}).encode()
    return json.dumps({"ok": True, **asdict(verdict)}).encode()


def decode_verdict(payload: bytes) -> ModelFacts | Refusal:
    """Raises `InvalidFrame` for anything that is not exactly a verdict within its bounds."""
    try:
        fields: Any = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise InvalidFrame("a verdict that is no JSON") from error
    if not isinstance(fields, dict) or type(fields.get("ok")) is not bool:
        raise InvalidFrame("a verdict that says neither yes nor no")
    if not fields["ok"]:
        reason = fields.get("reason")
        if fields.keys() != {"ok", "reason"} or not isinstance(reason, str) or not _is_plain(reason, MAX_REASON_CHARS):
            raise InvalidFrame("a refusal without a plain reason")
        return Refusal(reason=reason)
    if fields.keys() != {"ok", "inputs", "outputs", "memory_bytes", "probe", "weights_bytes"}:
        raise InvalidFrame("a verdict with the wrong fields")
    if not all(_is_amount(fields[name]) for name in ("memory_bytes", "weights_bytes")):
        raise InvalidFrame("a verdict without a size in memory")
    return ModelFacts(
        inputs=_specs(fields["inputs"]),
        outputs=_specs(fields["outputs"]),
        memory_bytes=fields["memory_bytes"],
        probe=_probe(fields["probe"]),
        weights_bytes=fields["weights_bytes"],
    )


def _is_amount(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _probe(entry: Any) -> ModelProbe:
    amounts = ("latency_us", "batch_latency_us", "peak_bytes", "batch")
    if not isinstance(entry, dict) or entry.keys() != {*amounts, "note"}:
        raise InvalidFrame("a probe with the wrong fields")
    if not all(_is_amount(entry[name]) for name in amounts) or entry["batch"] > MAX_BATCH_ROWS:
        raise InvalidFrame("a probe with an impossible amount")
    if not isinstance(entry["note"], str) or not _is_plain(entry["note"], MAX_REASON_CHARS):
        raise InvalidFrame("a probe without a plain note")
    return ModelProbe(**entry)


def _specs(entries: Any) -> tuple[TensorSpec, ...]:
    if not isinstance(entries, list) or len(entries) > MAX_TENSORS:
        raise InvalidFrame(f"a verdict without a list of {MAX_TENSORS} tensors at most")
    specs = tuple(_spec(entry) for entry in entries)
    if len({spec.name for spec in specs}) != len(specs):
        raise InvalidFrame("a verdict that names a tensor twice")
    return specs


def _spec(entry: Any) -> TensorSpec:
    if not isinstance(entry, dict) or entry.keys() != {"name", "dtype", "shape"}:
        raise InvalidFrame("a tensor with the wrong fields")
    name, dtype, shape = entry["name"], entry["dtype"], entry["shape"]
    if not isinstance(name, str) or not name or not _is_plain(name, MAX_NAME_CHARS):
        raise InvalidFrame("a tensor without a plain name")
    if type(dtype) is not int or dtype not in ElementType.__members__.values():
        raise InvalidFrame("a tensor without an element type")
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise InvalidFrame(f"a tensor without a shape of rank {MAX_RANK} at most")
    if not all(type(dim) is int and -1 <= dim <= MAX_DIM for dim in shape):
        raise InvalidFrame("a tensor with an impossible dimension")
    return TensorSpec(name=name, dtype=ElementType(dtype), shape=tuple(shape))


def _is_plain(text: str, max_chars: int) -> bool:
    return len(text) <= max_chars and text.isascii() and text.isprintable()

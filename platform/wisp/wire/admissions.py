"""The frames to and from the short-lived child that judges one uploaded model.

    child → router   READY    JSON {walls}, before it has read anything
    router → child   JUDGE    JSON `Terms` + 1 read-only descriptor (file or frozen segment) with the model
    child → router   VERDICT  JSON {ok: true, inputs, outputs, memory_bytes} or {ok: false, reason}

Each input and output is {name, dtype (`ElementType`), shape (-1 where the model leaves a dimension open)}. The child
has parsed a stranger's file in native code by the time it answers, so `decode_verdict` takes it for hostile.
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


class Kind(IntEnum):
    JUDGE = 1
    VERDICT = 2
    READY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a model may be at most.

    `max_bytes` bounds the file, `max_memory_bytes` what an open session keeps beyond an empty one's (a small file can
    hold constants that take a gigabyte once they are computed); `max_nodes` counts those of subgraphs and functions.
    """

    max_bytes: int
    max_memory_bytes: int = 512 << 20
    max_nodes: int = 100_000

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Terms:
        """For the child, which trusts the router: a wrong field is a defect and raises."""
        return cls(**json.loads(payload))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a model takes and gives, in the session's order. An output of unknown rank has the shape ().

    `memory_bytes` is what opening it took, the 9 MB that a process's first session costs included: what a host that
    loads it should count with.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    memory_bytes: int


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
    if fields.keys() != {"ok", "inputs", "outputs", "memory_bytes"}:
        raise InvalidFrame("a verdict with the wrong fields")
    memory_bytes = fields["memory_bytes"]
    if type(memory_bytes) is not int or not 0 <= memory_bytes < 2**63:
        raise InvalidFrame("a verdict without a size in memory")
    return ModelFacts(inputs=_specs(fields["inputs"]), outputs=_specs(fields["outputs"]), memory_bytes=memory_bytes)


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

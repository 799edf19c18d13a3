"""The frames between the router and a sandbox.

Cold frames (LINK, ATTACH) are JSON, hot ones (INVOKE, RESULT) fixed structures. A sandbox handles frames in order, so
the router may send MODULE, LINK and INVOKE in one go without waiting.

    router → sandbox   MODULE  digest (text) + 1 frozen segment: compiled code, verified by the router
                       UNLOAD  digest
                       LINK    JSON `FunctionLink`; no payload, then 1 frozen segment with it, if it outgrows a frame
                               + 1 frozen segment (`wire.bundles`) where a mount shows the bundle
                               + 1 of the same kind where mounts show directories of the host: the content of all of
                               them, each path behind the number of its mount; sent again when it has changed
                       UNLINK  handle u32
                       ATTACH  JSON {own} + socket + tensor segment: the way to the shared inference host, or to the
                               host of the tenant whose guests come next; it replaces the former one
                       PROBE   `INVOKE_HEAD`, no message: instantiate and initialise only; answered as INVOKE is
                       INVOKE  `INVOKE_HEAD`, exchange head, body (or 1 frozen segment with it), request id
                       LAID    as INVOKE, but its body lies at the start of the slot's segment for bodies
                       NEXT    as INVOKE, sent while others run; in place of the deadline stands how long it may take
                               from its beginning. It does not begin while an answer lies in the answer segment
    sandbox → router   READY   JSON {fingerprint: what compiled code must have been made for, walls, thread: that guests
                               will run on}
                       THREAD  u32: the next guest runs on another one; see `sandbox.shifts`
                       RESULT  `RESULT_HEAD`, detail, denials, response and logs (inline, or both in the answer segment)
                       SKIPPED invocation u64: one by NEXT, which has not begun, and never will
                       FAILED  invocation u64, text: the platform's own fault, not the guest's
    both               OUTBOUND, GRAPH, REMOTE, INBOUND: see `wire.outbound`
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any

from wisp.errors import InvalidFrame
from wisp.wire.outcome import CODES, NUMBERS, Denial, Ending, Receipt, one_line
from wisp.wire.tensors import ElementType, TensorSpec

INLINE_BYTES = 60 * 1024
"""Message bytes that travel inside a frame; above that they go by segment."""
LAID_BYTES = 1 << 20
"""Of a slot's segment for bodies; a larger body comes in one of its own."""
MAX_DETAIL_BYTES = 1024
MAX_TOLD_BYTES = 3500
"""Of detail and denials together: with an inline message they must fit a frame."""
MAX_DENIALS = 5
"""Of one invocation: those that were only an errno, and one that ended it."""
MAX_DENIAL_CHARS = 240
"""Of what was tried, and again of the policy line."""
DENIAL_SEPARATOR, FIELD_SEPARATOR = "\x1e", "\x1f"
"""Behind the detail stands each denial; neither character is left in their texts."""
MAX_NUMBER = 2**63 - 1
"""Of anything that a receipt counts: what comes after (Redis, protocol buffers) counts in signed 64 bits."""


class Kind(IntEnum):
    READY = 1
    MODULE = 2
    UNLOAD = 3
    LINK = 4
    UNLINK = 5
    ATTACH = 6
    PROBE = 7
    INVOKE = 8
    RESULT = 9
    FAILED = 10
    OUTBOUND = 11
    INBOUND = 12
    GRAPH = 13
    THREAD = 14
    REMOTE = 15
    LAID = 16
    NEXT = 17
    SKIPPED = 18


INVOKE_HEAD = struct.Struct("<QIIQQ")
"""invocation, handle, exchange head bytes, body bytes, deadline (CLOCK_MONOTONIC, ns)."""
RESULT_HEAD = struct.Struct("<QBBHIQIIQQQQQQI")
"""invocation, outcome, in segment, detail bytes, log bytes, response bytes, host calls, inferences, fuel, memory peak,
store, guest, nn (ns), tensor bytes, line bytes: the last ones of the logs, which came by log mounts."""
HANDLE = struct.Struct("<I")
THREAD = struct.Struct("<I")
STOP = struct.Struct("<Q?")
"""An invocation that is to end now, or only not to begin: not a frame, but a message of its own on the pipe for it."""
SKIPPED = struct.Struct("<Q")
FAILED_HEAD = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLink:
    """A model as one function may use it. `target`: where it runs, "cpu" or "gpu"; "" where this node cannot run it.
    `max_time_ns` bounds one inference. `own`: it is in the tenant's own host."""

    name: str
    target: str
    max_inferences: int
    max_time_ns: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    own: bool = False
    remote: bool = False
    """Another machine serves it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountLink:
    """A mount as one function has it. `allow`: globs, for a bundle or a host's directory; `quota_bytes`: for scratch,
    else 0."""

    mount: str
    source: str
    allow: tuple[str, ...] = ()
    quota_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionLink:
    """What a sandbox needs to know of a function beside its code: its grants, resolved to numbers."""

    handle: int
    module: str
    abi: str
    entrypoint: str
    fuel: int
    memory_bytes: int
    response_bytes: int
    log_bytes: int
    environment: tuple[tuple[str, str], ...] = field(repr=False)
    models: tuple[ModelLink, ...]
    clock: str
    random: str
    trap_on_violation: bool
    tenant: str = ""
    function: str = ""
    files: tuple[MountLink, ...] = ()
    inline_models: bool = False
    """Whether the guest may bring models of its own."""

    def encode(self) -> bytes:
        # `asdict` alone would copy all that it holds: five times the cost, for each function in each sandbox.
        return json.dumps({name: getattr(self, name) for name in self.__slots__}, default=asdict).encode()

    @classmethod
    def decode(cls, payload: bytes) -> FunctionLink:
        """For the sandbox, which trusts the router: a wrong field is a defect and raises."""
        fields: dict[str, Any] = json.loads(payload)
        fields["environment"] = tuple((name, value) for name, value in fields["environment"])
        fields["models"] = tuple(_model(model) for model in fields["models"])
        fields["files"] = tuple(MountLink(**mount | {"allow": tuple(mount["allow"])}) for mount in fields["files"])
        return cls(**fields)


def encode_model(number: int, model: ModelLink) -> bytes:
    """A model that the guest brought, and its number among those of the invocation."""
    return json.dumps({"number": number, **asdict(model)}).encode()


def decode_model(content: bytes) -> tuple[int, ModelLink]:
    """For the sandbox, which trusts the router: a wrong field is a defect and raises."""
    fields: dict[str, Any] = json.loads(content)
    return fields.pop("number"), _model(fields)


def _model(fields: dict[str, Any]) -> ModelLink:
    for side in ("inputs", "outputs"):
        fields[side] = tuple(
            TensorSpec(name=spec["name"], dtype=ElementType(spec["dtype"]), shape=tuple(spec["shape"]))
            for spec in fields[side]
        )
    return ModelLink(**fields)


def encode_result(invocation: int, ending: Ending, in_segment: int | None = None) -> bytes:
    """With `in_segment` that many bytes of response lie at the start of the answer segment, the logs right behind."""
    outcome, receipt, response, logs, detail, lines, denials = ending
    told = _told(detail, denials) if detail or denials else b""
    head = RESULT_HEAD.pack(
        invocation,
        NUMBERS[outcome],
        in_segment is not None,
        len(told),
        len(logs) + len(lines),
        len(response) if in_segment is None else in_segment,
        receipt.host_calls,
        receipt.inferences,
        receipt.fuel,
        receipt.memory_peak_bytes,
        receipt.store_ns,
        receipt.guest_ns,
        receipt.nn_ns,
        receipt.tensor_bytes,
        len(lines),
    )
    if in_segment is not None:
        return head + told
    return b"".join((head, told, response, logs, lines))


def _told(detail: str, denials: tuple[Denial, ...]) -> bytes:
    told = one_line(detail).encode("utf-8", "replace")[:MAX_DETAIL_BYTES]
    for denial in denials[:MAX_DENIALS]:
        texts = (one_line(text)[:MAX_DENIAL_CHARS] for text in (denial.what, denial.allow))
        told += f"{DENIAL_SEPARATOR}{FIELD_SEPARATOR.join(texts)}".encode("utf-8", "replace")
    return told[:MAX_TOLD_BYTES]


def bytes_in_segment(payload: bytes, answer_bytes: int) -> tuple[int, int]:
    """(invocation, bytes of its response and logs that lie in the answer segment). Raises `InvalidFrame`."""
    try:
        number, _, in_segment, _, log_bytes, response_bytes, *_ = RESULT_HEAD.unpack_from(payload)
    except struct.error as error:
        raise InvalidFrame("a result that is none") from error
    used = response_bytes + log_bytes if in_segment else 0
    if used > answer_bytes:
        raise InvalidFrame("a result whose response passes its end")
    return number, used


def decode_result(payload: bytes, answer: memoryview, *, taken_out: bool = False) -> tuple[int, Ending]:
    """(invocation, ending). The sandbox is hostile here: each length and number is checked, the detail made printable.
    `taken_out`: the answer is the router's own, so that the response may go on lying there.

    Raises `InvalidFrame`.
    """
    try:
        (
            invocation, number, in_segment, detail_bytes, log_bytes, response_bytes, host_calls, inferences,
            fuel, memory_peak, store_ns, guest_ns, nn_ns, tensor_bytes, line_bytes,
        ) = RESULT_HEAD.unpack_from(payload)  # fmt: skip
        outcome = CODES[number]
    except (struct.error, IndexError) as error:
        raise InvalidFrame("a result that is none") from error
    if max(fuel, memory_peak, store_ns, guest_ns, nn_ns, tensor_bytes) > MAX_NUMBER:
        raise InvalidFrame("a result with an impossible receipt")
    at = RESULT_HEAD.size + detail_bytes
    if at > len(payload):
        raise InvalidFrame("a result whose detail passes its end")
    detail = ""
    denials: tuple[Denial, ...] = ()
    if detail_bytes:
        detail, *told = payload[RESULT_HEAD.size : at].decode("utf-8", "replace").split(DENIAL_SEPARATOR, MAX_DENIALS)
        detail, denials = one_line(detail), tuple(_denial(text) for text in told)
    source, start = (answer, 0) if in_segment else (payload, at)
    end = start + response_bytes
    if line_bytes > log_bytes or end + log_bytes > len(source):
        raise InvalidFrame("a result whose response passes its end")
    logs = lines = b""
    if log_bytes:
        split = end + log_bytes - line_bytes
        logs, lines = bytes(source[end:split]), bytes(source[split : end + log_bytes])
    receipt = Receipt(fuel, 0, memory_peak, 0, 0, store_ns, guest_ns, nn_ns, host_calls, inferences, tensor_bytes)
    response = source[start:end] if taken_out and in_segment else bytes(source[start:end])
    return invocation, Ending(outcome, receipt, response, logs, detail, lines, denials)


def _denial(text: str) -> Denial:
    what, _, allow = text.partition(FIELD_SEPARATOR)
    return Denial(what=one_line(what)[:MAX_DENIAL_CHARS], allow=one_line(allow)[:MAX_DENIAL_CHARS])

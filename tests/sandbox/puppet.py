"""A guest that makes whatever host calls its message lists, so that tests of host functions are written in Python.

The body is a number of steps (u32, then 4 unused bytes), that many steps, and free data. A step is the function's
number in `NAMES` and nine arguments, each a u64. Errnos come back as the first words of the response's body, behind
them the scratch memory: all that lies between `SCRATCH` and `SCRATCH + SCRATCH_BYTES` when the last step is done.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from wisp.policy.capabilities import CAPABILITIES
from wisp.wire.exchange import decode_response
from wisp.wire.outcome import Ending

NAMES: dict[str, tuple[str, tuple[str, ...], bool]] = {
    name: (capability.module, params, bool(results))
    for capability in CAPABILITIES.values()
    for name, (params, results) in capability.functions.items()
}
"""Function → (import module, parameter types, whether it answers an errno); in this order."""
NUMBERS = {name: number for number, name in enumerate(NAMES)}
MAX_STEPS = 500
MAX_ARGUMENTS = 9
STEP_BYTES = 8 * (1 + MAX_ARGUMENTS)
PAGES = 16
MEMORY_BYTES = PAGES * 65536
RESPONSE = 0x0800
SCRATCH = 0x1000
SCRATCH_BYTES = 0x4000
ROOM = 0x10000
"""Where the message is laid."""

Step = tuple[str | int, ...]


def _imports() -> str:
    lines = []
    for number, (name, (module, params, result)) in enumerate(NAMES.items()):
        types = f"(param {' '.join(params)})" if params else ""
        lines.append(f'(import "{module}" "{name}" (func $f{number} {types} {"(result i32)" if result else ""}))')
    return "\n".join(lines)


def _cases() -> str:
    lines = []
    for number, (_, params, result) in enumerate(NAMES.values()):
        loads = " ".join(f"({kind}.load offset={8 * (1 + at)} (local.get $at))" for at, kind in enumerate(params))
        call = f"(call $f{number} {loads})"
        answer = f"(return {call})" if result else f"{call} (return (i32.const 0))"
        lines.append(f"(if (i32.eq (local.get $which) (i32.const {number})) (then {answer}))")
    return "\n".join(lines)


@cache
def puppet() -> str:
    head = r"\01\00\00\00\c8\00\00\00\00\00\00\00"
    length = SCRATCH + SCRATCH_BYTES - RESPONSE
    return f"""(module {_imports()}
      (memory (export "memory") {PAGES})
      (data (i32.const {RESPONSE}) "{head}")
      (func $step (param $at i32) (result i32) (local $which i32)
        (local.set $which (i32.load (local.get $at)))
        {_cases()}
        unreachable)
      (func (export "wisp_alloc") (param i32) (result i32) (i32.const {ROOM}))
      (func (export "wisp_handle") (param $ptr i32) (param $len i32) (result i64) (local $i i32) (local $count i32)
        (local.set $count (i32.load (local.get $ptr)))
        (loop $next
          (if (i32.lt_u (local.get $i) (local.get $count)) (then
            (i32.store
              (i32.add (i32.const {RESPONSE + 12}) (i32.mul (local.get $i) (i32.const 4)))
              (call $step (i32.add (local.get $ptr)
                (i32.add (i32.const 8) (i32.mul (local.get $i) (i32.const {STEP_BYTES}))))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br $next))))
        (i64.const {RESPONSE << 32 | length})))"""


@dataclass(slots=True)
class Script:
    """Steps and data on their way to the guest. `data` gives the address at which the bytes will lie."""

    content: bytearray
    steps: list[Step]

    def __init__(self, steps: int) -> None:
        assert steps <= MAX_STEPS
        self.content = bytearray()
        self.steps = []
        self._start = ROOM + 8 + steps * STEP_BYTES
        self._room = steps

    _start: int
    _room: int

    def data(self, content: bytes, alignment: int = 8) -> int:
        while (self._start + len(self.content)) % alignment:
            self.content.append(0)
        address = self._start + len(self.content)
        self.content += content
        return address

    def words(self, *values: int) -> int:
        return self.data(struct.pack(f"<{len(values)}I", *values))

    def call(self, name: str, *arguments: int) -> None:
        self.steps.append((name, *arguments))

    def body(self) -> bytes:
        assert len(self.steps) <= self._room
        packed = b"".join(pack_step(step) for step in self.steps)
        gap = bytes(STEP_BYTES * (self._room - len(self.steps)))
        return struct.pack("<II", len(self.steps), 0) + packed + gap + bytes(self.content)


def pack_step(step: Step) -> bytes:
    name, *arguments = step
    number = NUMBERS[name] if isinstance(name, str) else name
    values = [int(argument) & 2**64 - 1 for argument in arguments]
    return struct.pack("<10Q", number, *values, *[0] * (MAX_ARGUMENTS - len(values)))


def pack(*steps: Step) -> bytes:
    return struct.pack("<II", len(steps), 0) + b"".join(map(pack_step, steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    errnos: list[int]
    scratch: bytes

    def u32(self, address: int) -> int:
        value: int = struct.unpack_from("<I", self.scratch, address - SCRATCH)[0]
        return value

    def u64(self, address: int) -> int:
        value: int = struct.unpack_from("<Q", self.scratch, address - SCRATCH)[0]
        return value

    def at(self, address: int, length: int) -> bytes:
        return self.scratch[address - SCRATCH : address - SCRATCH + length]


def read(ending: Ending, steps: int) -> Told:
    """What a puppet that ended well has to tell."""
    body = bytes(decode_response(memoryview(ending.response)).body)
    at = SCRATCH - RESPONSE - 12
    errnos = list(struct.unpack_from(f"<{steps}I", body))
    return Told(errnos=errnos, scratch=body[at:])


def told(ending: Ending, script: Script | Sequence[Step]) -> Told:
    steps = script.steps if isinstance(script, Script) else script
    return read(ending, len(steps))

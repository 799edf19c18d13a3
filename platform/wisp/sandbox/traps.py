"""How a guest is stopped, and how the engine refuses: wasmtime's trap codes, and the two exceptions for them."""

from __future__ import annotations

from enum import IntEnum


class TrapCode(IntEnum):
    """wasmtime/trap.h, wasmtime_trap_code_enum."""

    STACK_OVERFLOW = 0
    MEMORY_OUT_OF_BOUNDS = 1
    HEAP_MISALIGNED = 2
    TABLE_OUT_OF_BOUNDS = 3
    INDIRECT_CALL_TO_NULL = 4
    BAD_SIGNATURE = 5
    INTEGER_OVERFLOW = 6
    INTEGER_DIVISION_BY_ZERO = 7
    BAD_CONVERSION_TO_INTEGER = 8
    UNREACHABLE = 9
    INTERRUPT = 10
    OUT_OF_FUEL = 11


class EngineError(Exception):
    """The engine refused: the text is wasmtime's own, bounded and with control characters escaped."""


class Trapped(Exception):
    """The guest stopped: `code` is wasmtime's trap code, or None for a trap that a host function made."""

    def __init__(self, code: int | None, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

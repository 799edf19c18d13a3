"""A bounded memory of what was found and, apart from it and shorter, of what was not.

Misses are kept apart because callers make them up: a flood of unknown names must not push out what is in use.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from enum import Enum
from typing import Final, Generic, Literal, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Unknown(Enum):
    """Neither found nor missed: ask the registry."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN


class Memory(Generic[K, V]):
    """`capacity` bounds each half. What was found stays until it is forgotten or pushed out, a miss for `absent_s`."""

    def __init__(self, *, capacity: int, absent_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self.absent_s = absent_s
        self.clock = clock
        self.found: OrderedDict[K, V] = OrderedDict()
        self.absent: OrderedDict[K, float] = OrderedDict()
        self.changes = 0
        """Counts whatever `peek` may answer otherwise for, but for misses that are too old."""

    def peek(self, key: K) -> V | Literal[Unknown.UNKNOWN] | None:
        """The value, None where it is known to be missing, or `UNKNOWN`."""
        value = self.found.get(key)
        if value is not None:
            self.found.move_to_end(key)
            return value
        expires = self.absent.get(key)
        if expires is None:
            return UNKNOWN
        if expires <= self.clock():
            del self.absent[key]
            return UNKNOWN
        return None

    def store(self, key: K, value: V | None) -> None:
        self.forget(key)
        if value is not None:
            self.found[key] = value
            if len(self.found) > self.capacity:
                self.found.popitem(last=False)
        else:
            self.absent[key] = self.clock() + self.absent_s
            if len(self.absent) > self.capacity:
                self.absent.popitem(last=False)

    def forget(self, key: K) -> None:
        self.changes += 1
        self.found.pop(key, None)
        self.absent.pop(key, None)

    def forget_where(self, matches: Callable[[K], bool]) -> None:
        for key in [key for key in (*self.found, *self.absent) if matches(key)]:
            self.forget(key)

    def clear(self) -> None:
        self.changes += 1
        self.found.clear()
        self.absent.clear()

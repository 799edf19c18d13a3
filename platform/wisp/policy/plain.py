"""Plain values from another process or a stored record, taken with their type and bounds checked.

The reader's errors are ValueError, always, and name the field: what comes in is hostile until it has passed here.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

_E = TypeVar("_E", bound=StrEnum)
_T = TypeVar("_T")


class Plain:
    """One JSON object, read key by key; `close` refuses what was not asked for."""

    def __init__(self, value: object, where: str) -> None:
        if type(value) is not dict:
            raise ValueError(f"{where}: expected an object")
        self._items: dict[str, object] = value
        self._where = where
        self._taken: set[str] = set()

    def integer(self, key: str, low: int, high: int) -> int:
        value = self._take(key)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{self._where}.{key}: expected a whole number from {low} to {high}")
        return value

    def boolean(self, key: str) -> bool:
        value = self._take(key)
        if type(value) is not bool:
            raise ValueError(f"{self._where}.{key}: expected a boolean")
        return value

    def text(self, key: str, longest: int) -> str:
        return check_text(self._take(key), f"{self._where}.{key}", longest)

    def parsed(self, key: str, longest: int, parse: Callable[[str], _T]) -> _T:
        """A text that `parse` takes; it raises ValueError for others."""
        return parse(self.text(key, longest))

    def choice(self, key: str, kind: type[_E]) -> _E:
        return kind(self.text(key, 64))

    def items(self, key: str, most: int) -> list[object]:
        return check_list(self._take(key), f"{self._where}.{key}", most)

    def inner(self, key: str) -> Plain:
        return Plain(self._take(key), f"{self._where}.{key}")

    def mapping(self, key: str, most: int) -> dict[object, object]:
        value = self._take(key)
        if type(value) is not dict or len(value) > most:
            raise ValueError(f"{self._where}.{key}: expected an object of at most {most} keys")
        return value

    def is_null(self, key: str) -> bool:
        """Whether `key` is there and null; it then counts as taken."""
        if key in self._items and self._items[key] is None:
            self._taken.add(key)
            return True
        return False

    def close(self) -> None:
        if self._taken != self._items.keys():
            raise ValueError(f"{self._where}: unknown keys")

    def _take(self, key: str) -> object:
        if key not in self._items:
            raise ValueError(f"{self._where}.{key}: missing")
        self._taken.add(key)
        return self._items[key]


def check_text(value: object, where: str, longest: int) -> str:
    if type(value) is not str or len(value) > longest:
        raise ValueError(f"{where}: expected text of at most {longest} characters")
    return value


def check_list(value: object, where: str, most: int) -> list[object]:
    if type(value) is not list or len(value) > most:
        raise ValueError(f"{where}: expected a list of at most {most} items")
    return value

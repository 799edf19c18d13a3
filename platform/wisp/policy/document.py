"""A YAML document as plain values, with the line and column of every key and value.

Values are `str`, `int`, `float`, `bool`, tuples and dicts with text keys, and nothing else. Only `true` and `false`
are bools, only plain decimal digits are numbers; `yes`, `0o17`, `1e5`, `190:20:30` and dates are text. Bounded on every
side: 64 KiB, 16 levels, 4,096 values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from yaml.events import Event, MappingEndEvent, MappingStartEvent, ScalarEvent, SequenceEndEvent, SequenceStartEvent

from wisp.errors import Fault
from wisp.policy.scanner import MAX_DEPTH, decode, refuse, scan
from wisp.policy.shown import shown_text

MAX_VALUES = 4_096
MAX_DIGITS = 18

Path: TypeAlias = tuple[str | int, ...]
Value: TypeAlias = "str | int | float | bool | tuple[Value, ...] | dict[str, Value]"

_INT = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(r"-?[0-9]+\.[0-9]+", re.ASCII)
# A double-quoted escape can make what the scanner refuses raw; tab and line feed are text.
_UNSPEAKABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Counted from 1, in characters."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Positions:
    """Where each key and value stands. All are equal: where something stands is no part of what it says."""

    keys: Mapping[Path, Position] = field(default_factory=dict, compare=False)
    values: Mapping[Path, Position] = field(default_factory=dict, compare=False)

    def fault(
        self, path: Path, message: str, *, at_key: bool = False, asked: str | None = None, allowed: str | None = None
    ) -> Fault:
        """A fault at `path`, or at the nearest thing around it that stands in the document."""
        position = self.keys.get(path) if at_key else None
        around = path
        while position is None and around:
            position = self.values.get(around)
            around = around[:-1]
        position = position or self.values.get(())
        return Fault(
            field=field_name(path),
            message=message,
            line=position.line if position else None,
            column=position.column if position else None,
            asked=asked,
            allowed=allowed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """`faults` do not stop the reading; what stands at a `spoiled` path is a stand-in and means nothing."""

    value: Value
    positions: Positions
    faults: tuple[Fault, ...]
    spoiled: frozenset[Path]


def read(text: bytes) -> Document:
    """Read one document. Raises InvalidPolicy, with one fault, where reading cannot go on."""
    return _Composer(scan(decode(text))).compose()


def field_name(path: Path) -> str:
    """`("models", 0, "max_time")` -> `models[0].max_time`; odd or long keys escaped and cut."""
    name = ""
    for step in path:
        if isinstance(step, int):
            name += f"[{step}]"
        else:
            name += ("." if name else "") + shown_text(step)
    return name or "document"


class _Composer:
    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self._keys: dict[Path, Position] = {}
        self._values: dict[Path, Position] = {}
        self._positions = Positions(self._keys, self._values)
        self._faults: list[Fault] = []
        self._spoiled: set[Path] = set()
        self._count = 0

    def compose(self) -> Document:
        value = self._value(next(self._events), ())
        for _ in self._events:  # the end of the stream, or the refusal of a second document
            pass
        return Document(
            value=value, positions=self._positions, faults=tuple(self._faults), spoiled=frozenset(self._spoiled)
        )

    def _value(self, event: Event, path: Path) -> Value:
        position = _position(event)
        self._count += 1
        if self._count > MAX_VALUES:
            refuse(f"more than {MAX_VALUES} values", position.line, position.column)
        if len(path) > MAX_DEPTH:
            refuse(f"nested deeper than {MAX_DEPTH} levels", position.line, position.column)
        self._values[path] = position
        if isinstance(event, ScalarEvent):
            return self._scalar(event, path)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(path)
        assert isinstance(event, MappingStartEvent)
        return self._mapping(path)

    def _sequence(self, path: Path) -> tuple[Value, ...]:
        items: list[Value] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
        return tuple(items)

    def _mapping(self, path: Path) -> dict[str, Value]:
        items: dict[str, Value] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            position = _position(event)
            if not isinstance(event, ScalarEvent):
                refuse("a key must be a single word", position.line, position.column)
            key = str(event.value)
            here = (*path, key)
            first = self._keys.get(here)
            if first is not None:
                self._faults.append(
                    Fault(
                        field=field_name(here),
                        message=f"this key stands already on line {first.line}",
                        line=position.line,
                        column=position.column,
                    )
                )
                self._skip(next(self._events))
                continue
            self._keys[here] = position
            items[key] = self._value(next(self._events), here)
            if _UNSPEAKABLE.search(key) is not None:
                self._spoil(here, "a control character or half a character stands in this key", at_key=True)
        return items

    def _skip(self, event: Event) -> None:
        """Pass over a duplicate's value; what the scanner refuses is refused in there too."""
        depth = 0
        while True:
            if isinstance(event, SequenceStartEvent | MappingStartEvent):
                depth += 1
            elif isinstance(event, SequenceEndEvent | MappingEndEvent):
                depth -= 1
            self._count += 1
            if self._count > MAX_VALUES or depth > MAX_DEPTH:
                position = _position(event)
                refuse("too many or too deep values under a repeated key", position.line, position.column)
            if depth == 0:
                return
            event = next(self._events)

    def _scalar(self, event: ScalarEvent, path: Path) -> str | int | float | bool:
        text = str(event.value)
        if event.style is not None:  # quoted, or a block: always text
            if _UNSPEAKABLE.search(text) is not None:
                self._spoil(path, "a control character or half a character stands in this text")
            return text
        if text in ("true", "false"):
            return text == "true"
        if text in ("", "~", "null", "Null", "NULL"):
            self._spoil(path, "nothing stands here: give a value, leave the key out, or quote the text if it is meant")
            return ""
        if _INT.fullmatch(text) is not None or _FLOAT.fullmatch(text) is not None:
            if len(text) > MAX_DIGITS:
                self._spoil(path, f"a number of more than {MAX_DIGITS} digits; quote it if it is text")
                return ""
            return float(text) if "." in text else int(text)
        return text

    def _spoil(self, path: Path, message: str, *, at_key: bool = False) -> None:
        self._spoiled.add(path)
        self._faults.append(self._positions.fault(path, message, at_key=at_key))


def _position(event: Event) -> Position:
    mark = event.start_mark
    assert mark is not None, "a scanned event stands somewhere"
    return Position(line=mark.line + 1, column=mark.column + 1)

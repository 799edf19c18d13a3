"""Records as bytes and back, by their types: unknown, missing and mistyped fields are refused, flipped bytes noticed.
A field with a default may be missing: the record is older than the field.

A stored record is 16 hexadecimal digits and a JSON object. The digits are the head of the SHA-1 of the object's bytes:
a check against damage (an append-only file loads a flipped byte silently), not against forgery, and the one digest that
Redis' scripts can compute too (`redis.sha1hex`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

from wisp.errors import RegistryUnavailable
from wisp.wire.tensors import BY_NUMPY_NAME, NUMPY_NAMES, ElementType

T = TypeVar("T")

SEAL_CHARS = 16


def seal(body: bytes) -> bytes:
    return hashlib.sha1(body, usedforsecurity=False).hexdigest()[:SEAL_CHARS].encode() + body


def unseal(raw: bytes) -> bytes:
    """The object's bytes; raises `ValueError` if they are not those that were sealed."""
    body = raw[SEAL_CHARS:]
    if seal(body) != raw:
        raise ValueError("the checksum does not fit")
    return body


def plain(value: object) -> Any:
    """A record as what `json` can write; element types go by their numpy names."""
    if isinstance(value, ElementType):
        return NUMPY_NAMES[value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


def body_of(record: object, *, without: str | None = None) -> bytes:
    """The JSON object of a record, less one field that a script is going to give it."""
    fields = plain(record)
    if without is not None:
        del fields[without]
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=True).encode()


def encode(record: object) -> bytes:
    return seal(body_of(record))


def decode(kind: type[T], raw: bytes, *, place: str) -> T:
    """The record stored at `place`; a damaged one is `RegistryUnavailable`, never a guess."""
    try:
        record = build(kind, json.loads(unseal(raw)))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RegistryUnavailable(f"the registry's record of {place} is damaged: restore it from a backup") from error
    return typing.cast(T, record)


@cache
def field_types(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


@cache
def required(kind: type) -> frozenset[str]:
    return frozenset(
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )


def build(hint: Any, value: Any) -> Any:
    """`value`, as `json` read it, made into what the annotation says; `ValueError` where it does not fit."""
    while isinstance(hint, typing.NewType):
        hint = hint.__supertype__
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):  # a NewType's | makes the latter
        return build_optional(typing.get_args(hint), value)
    if origin is tuple:
        item, _ellipsis = typing.get_args(hint)
        if type(value) is not list:
            raise ValueError(f"an array is wanted, not {type(value).__name__}")
        return tuple(build(item, each) for each in value)
    if hint is ElementType:
        return BY_NUMPY_NAME[value]
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint(value)
    if dataclasses.is_dataclass(hint):
        return build_record(hint, value)
    if type(value) is not hint:  # exact: a bool is an int to isinstance
        raise ValueError(f"{hint} is wanted, not {type(value).__name__}")
    return value


def build_optional(arguments: tuple[Any, ...], value: Any) -> Any:
    if value is None and types.NoneType in arguments:
        return None
    (hint,) = [argument for argument in arguments if argument is not types.NoneType]
    return build(hint, value)


def build_record(kind: Any, value: Any) -> Any:
    hints = field_types(kind)
    if type(value) is not dict or not required(kind) <= value.keys() <= hints.keys():
        raise ValueError(f"the fields of {kind.__name__} are wanted: {', '.join(hints)}")
    return kind(**{name: build(hints[name], stored) for name, stored in value.items()})

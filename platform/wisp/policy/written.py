"""Validated values as a document would write them again: `64Mi`, `2s`, words; and such values as YAML text.

What is written reads back to the same values. Only what this vocabulary needs: mappings, lists, texts, numbers, bools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TypeAlias

from pydantic import BaseModel

from wisp.policy.quantity import print_amount, print_size, print_time
from wisp.policy.schema import OutboundHost

Written: TypeAlias = "str | int | bool | list[Written] | dict[str, Written]"

TIMES = frozenset({"timeout", "max_time", "queue_timeout", "cpu"})
SIZES = frozenset(
    {"memory", "request_body", "response_body", "logs", "module", "size", "bundle", "scratch", "storage", "quota"}
)
AMOUNTS = frozenset({"fuel", "fuel_per_day"})

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@-]*|[1-9][0-9]*([kMGT]i?|ms|s)", re.ASCII)
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def written(value: object, key: str = "") -> Written:
    """A section, or a part of one, with what was left out left out; plain JSON values likewise. `key`: what it stands
    at, which tells a size from a time."""
    if isinstance(value, OutboundHost):
        return written(value.rule.as_json())
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        items = {field.alias or name: getattr(value, name) for name, field in fields}
        return {name: written(item, name) for name, item in items.items() if item is not None}
    if isinstance(value, Mapping):
        return {str(name): written(item, str(name)) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [written(item) for item in value]
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _quantity(value, key)
    return str(value)


def _quantity(value: int, key: str) -> str | int:
    if key in TIMES:
        return print_time(value)
    text = print_size(value) if key in SIZES else print_amount(value) if key in AMOUNTS else ""
    return text if text and not text.isdigit() else value


def print_document(document: Mapping[str, Written]) -> str:
    """One key a line; what stands below in flow style, entries with keys of their own a line each."""
    lines = []
    for key, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{key}:", *(f"  - {print_flow(item)}" for item in value)]
        else:
            lines.append(f"{key}: {print_flow(value)}")
    return "".join(f"{line}\n" for line in lines)


def print_flow(value: Written) -> str:
    """On one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(key)}: {print_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(print_flow(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else _text(value)


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return json.dumps(text, ensure_ascii=False)

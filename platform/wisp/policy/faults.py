"""What pydantic says about a document, in the vocabulary's words and at a line and column."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from wisp.errors import Fault
from wisp.policy.document import Document, Path
from wisp.policy.schema import Section
from wisp.policy.shown import shown

_EXPECTED = {
    "bool_type": "expected true or false",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "tuple_type": "expected a list",
}


def schema_faults(error: ValidationError, document: Document, root: type[Section]) -> list[Fault]:
    """One fault for each of pydantic's, but for those where the document itself already has one."""
    faults = []
    for detail in error.errors(include_url=False):
        path: Path = detail["loc"]
        at_key = detail["type"] == "extra_forbidden"
        # pydantic marks a bad mapping key by one more step; a document may use the same word as a key.
        if path and path[-1] == "[key]" and path not in document.positions.values:
            path, at_key = path[:-1], True
        if any(path[:length] in document.spoiled for length in range(len(path) + 1)):
            continue
        faults.append(document.positions.fault(path, _message(detail, path, root), at_key=at_key))
    return faults


def _message(detail: Any, path: Path, root: type[Section]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return "this key is required"
    if kind == "extra_forbidden":
        return _unknown(str(path[-1]), _section(root, path[:-1]))
    if kind == "too_long":
        return f"expected at most {context['max_length']} entries"
    expected = str(context["error"]) if kind == "value_error" else _EXPECTED.get(kind, "expected something else")
    return f"{expected}, not {shown(detail['input'])}"


def _unknown(key: str, section: type[BaseModel]) -> str:
    known = [field.alias or name for name, field in section.model_fields.items()]
    near = difflib.get_close_matches(key[:32], known, n=1)
    return f"unknown key; did you mean {near[0]}?" if near else f"unknown key; known here are {', '.join(known)}"


def _section(root: type[BaseModel], path: Path) -> type[BaseModel]:
    """The section that stands at `path`."""
    section = root
    for step in path:
        if isinstance(step, str):
            field = next(field for name, field in section.model_fields.items() if step in (field.alias or name, name))
            section = _find_section(field.annotation) or section
    return section


def _find_section(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _find_section(inner)) is not None), None)

"""JSON Schema of the three documents, for editors and for the API's own description."""

from __future__ import annotations

from typing import Any, Literal

from wisp.policy.quantity import print_time
from wisp.policy.schema import Ceiling, Policy, Section, TenantClass

_KINDS: dict[str, type[Section]] = {kind.kind_name: kind for kind in (Policy, Ceiling, TenantClass)}


def json_schema(kind: Literal["policy", "ceiling", "class"]) -> dict[str, Any]:
    """JSON Schema 2020-12. It says what parsing says, but for what takes two keys to see."""
    schema = _as_written(_KINDS[kind].model_json_schema(by_alias=True))
    assert isinstance(schema, dict)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": f"wisp {kind}"}


def _as_written(node: object) -> object:
    """Turn what the models hold into what a document says: no nulls, and times with their unit."""
    if isinstance(node, list):
        return [_as_written(item) for item in node]
    if not isinstance(node, dict):
        return node
    written = {key: _as_written(value) for key, value in node.items() if not (key == "default" and value is None)}
    choices = written.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        rest = [choice for choice in choices if choice != {"type": "null"}]
        del written["anyOf"]
        written |= rest[0] if len(rest) == 1 else {"anyOf": rest}
    default = written.get("default")
    if written.get("type") == "string" and type(default) is int:
        written["default"] = print_time(default)
    return written

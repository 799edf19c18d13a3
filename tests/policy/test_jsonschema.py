from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from wisp.policy.jsonschema import json_schema
from wisp.policy.schema import Ceiling, Policy, Section, TenantClass


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from nodes(value)


@pytest.mark.parametrize(
    ("schema", "kind"),
    [(json_schema("policy"), Policy), (json_schema("ceiling"), Ceiling), (json_schema("class"), TenantClass)],
    ids=["policy", "ceiling", "class"],
)
def test_a_schema_is_closed_and_has_every_key(schema: dict[str, Any], kind: type[Section]) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["properties"].keys() == kind.model_fields.keys()
    objects = [node for node in nodes(schema) if "properties" in node and node.get("type") == "object"]
    assert objects
    assert all(node["additionalProperties"] is False for node in objects)
    assert not [node for node in nodes(schema) if node.get("type") == "null"]


@pytest.mark.parametrize("schema", [json_schema("policy"), json_schema("ceiling")], ids=["policy", "ceiling"])
def test_an_outbound_host_is_text_or_a_mapping(schema: dict[str, Any]) -> None:
    text, mapping = schema["$defs"]["OutboundHost"]["anyOf"]
    assert text == {"type": "string"}
    assert mapping["required"] == ["host"]
    assert schema["$defs"]["Method"]["enum"] == ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    limits = schema["$defs"]["PolicyLimits" if "PolicyLimits" in schema["$defs"] else "Limits"]
    assert limits["properties"]["outbound_requests"]["maximum"] == 64


def test_it_speaks_of_documents_and_not_of_what_is_made_of_them() -> None:
    definitions = json_schema("policy")["$defs"]
    assert "from" in definitions["Mount"]["properties"]
    assert definitions["ConcurrencyLimits"]["properties"]["queue_timeout"]["default"] == "500ms"
    assert json_schema("policy")["required"] == ["wisp", "abi"]
    assert json_schema("ceiling")["properties"]["kind"]["const"] == "ceiling"

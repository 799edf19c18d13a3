from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.policy.facts import MAX_IMPORTS, MAX_NAME, VALUE_TYPES, Export, ExternKind, Import, ModuleFacts

_TYPES = st.lists(st.sampled_from(sorted(VALUE_TYPES)), max_size=3).map(tuple)
_NAMES = st.text(max_size=8)
_KINDS = st.sampled_from(ExternKind)
_COUNTS = st.integers(0, 2**32 - 1)
FACTS = st.builds(
    ModuleFacts,
    size_bytes=_COUNTS,
    imports=st.lists(
        st.builds(Import, module=_NAMES, name=_NAMES, kind=_KINDS, params=_TYPES, results=_TYPES), max_size=3
    ).map(tuple),
    exports=st.lists(st.builds(Export, name=_NAMES, kind=_KINDS, params=_TYPES, results=_TYPES), max_size=3).map(tuple),
    memories=_COUNTS,
    memory_min_pages=st.integers(0, 2**48),
    memory_max_pages=st.none() | st.integers(0, 2**64 - 1),
    tables=_COUNTS,
    table_min_elements=st.integers(0, 2**64 - 1),
    functions=_COUNTS,
    globals=_COUNTS,
    data_segments=_COUNTS,
    has_start=st.booleans(),
)


@given(FACTS)
def test_json_reads_back(facts: ModuleFacts) -> None:
    assert ModuleFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size_bytes", -1),
        ("size_bytes", True),
        ("size_bytes", 2**32),
        ("size_bytes", 1.0),
        ("size_bytes", "1"),
        ("memories", None),
        ("memory_max_pages", -1),
        ("memory_max_pages", "x"),
        ("has_start", 0),
        ("imports", {}),
        ("imports", ["env"]),
        ("imports", [["a", "b", "func", []]]),
        ("imports", [["a", "b", "func", [], [], []]]),
        ("imports", [[1, "b", "func", [], []]]),
        ("imports", [["a", "b", "fun", [], []]]),
        ("imports", [["a", "b", "func", ["i33"], []]]),
        ("imports", [["a", "b", "func", "i32", []]]),
        ("imports", [["a", "b", "func", ["i32"] * 1001, []]]),
        ("imports", [["a" * (MAX_NAME + 1), "b", "func", [], []]]),
        ("imports", [["a", "b", "func", [], []]] * (MAX_IMPORTS + 2)),
        ("exports", [["a", "func", []]]),
        ("exports", [["a", None, [], []]]),
        ("unknown", 1),
    ],
)
def test_anything_else_is_refused(key: str, value: object) -> None:
    plain: dict[str, Any] = ModuleFacts(size_bytes=8).to_json()
    plain[key] = value
    with pytest.raises(ValueError, match=r".+"):
        ModuleFacts.from_json(plain)


@pytest.mark.parametrize("key", ModuleFacts(size_bytes=8).to_json())
def test_every_key_is_required(key: str) -> None:
    plain = ModuleFacts(size_bytes=8).to_json()
    del plain[key]
    with pytest.raises(ValueError, match=f"facts.{key}: missing"):
        ModuleFacts.from_json(plain)

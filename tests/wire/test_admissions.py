"""The verdict's decoder takes the child for hostile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.errors import InvalidFrame
from wisp.wire.admissions import (
    MAX_BATCH_ROWS,
    MAX_DIM,
    MAX_NAME_CHARS,
    MAX_REASON_CHARS,
    ModelFacts,
    ModelProbe,
    Refusal,
    Terms,
    decode_verdict,
    encode_verdict,
)
from wisp.wire.tensors import MAX_RANK, MAX_TENSORS, ElementType, TensorSpec

SPEC = {"name": "x", "dtype": 1, "shape": [-1, 3]}
NAMES = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=MAX_NAME_CHARS)
SPECS = st.builds(
    TensorSpec,
    name=NAMES,
    dtype=st.sampled_from(ElementType),
    shape=st.lists(st.integers(-1, MAX_DIM), max_size=MAX_RANK).map(tuple),
)
LISTS = st.lists(SPECS, max_size=4, unique_by=lambda spec: spec.name).map(tuple)


AMOUNTS = st.integers(0, 2**40)
PROBES = st.builds(
    ModelProbe,
    latency_us=AMOUNTS,
    batch_latency_us=AMOUNTS,
    peak_bytes=AMOUNTS,
    batch=st.integers(0, MAX_BATCH_ROWS),
    note=NAMES,
)


@given(st.builds(ModelFacts, inputs=LISTS, outputs=LISTS, memory_bytes=AMOUNTS, probe=PROBES, weights_bytes=AMOUNTS))
def test_facts_come_back(facts: ModelFacts) -> None:
    assert decode_verdict(encode_verdict(facts)) == facts


def test_a_refusal_comes_back_and_is_cut() -> None:
    assert decode_verdict(encode_verdict(Refusal(reason="no graph"))) == Refusal(reason="no graph")
    long = decode_verdict(encode_verdict(Refusal(reason="x" * 10_000)))
    assert long == Refusal(reason="x" * MAX_REASON_CHARS)


def test_terms_come_back() -> None:
    terms = Terms(max_bytes=5, max_memory_bytes=7, max_nodes=6)
    assert Terms.decode(terms.encode()) == terms


PROBE = {"latency_us": 1, "batch_latency_us": 1, "peak_bytes": 1, "batch": 0, "note": ""}
REST = {"memory_bytes": 1, "probe": PROBE, "weights_bytes": 0}


def facts(**spec: Any) -> dict[str, Any]:
    return {"ok": True, "inputs": [{**SPEC, **spec}], "outputs": [], **REST}


def probed(**odd: Any) -> dict[str, Any]:
    return {**facts(), "probe": {**PROBE, **odd}}


@pytest.mark.parametrize(
    "fields",
    [
        [],
        None,
        {},
        {"ok": 1, "inputs": [], "outputs": [], **REST},
        {"ok": True},
        {"ok": True, "inputs": [], "outputs": []},
        {**facts(), "memory_bytes": -1},
        {**facts(), "memory_bytes": 2**63},
        {**facts(), "memory_bytes": True},
        {**facts(), "weights_bytes": 0.5},
        {**facts(), "probe": None},
        {**facts(), "more": 1},
        probed(latency_us=-1),
        probed(peak_bytes="1"),
        probed(batch=MAX_BATCH_ROWS + 1),
        probed(note="\n"),
        probed(note=None),
        probed(more=1),
        {"ok": True, "inputs": {}, "outputs": [], **REST},
        {"ok": True, "inputs": [SPEC, SPEC], "outputs": [], **REST},
        {
            "ok": True,
            "inputs": [{**SPEC, "name": str(i)} for i in range(MAX_TENSORS + 1)],
            "outputs": [],
            **REST,
        },
        {"ok": True, "inputs": [7], "outputs": [], **REST},
        facts(more=1),
        facts(name=""),
        facts(name=7),
        facts(name="x" * (MAX_NAME_CHARS + 1)),
        facts(name="a\nb"),
        facts(name="é"),
        facts(dtype=6),
        facts(dtype=-1),
        facts(dtype=True),
        facts(dtype=1.0),
        facts(dtype="1"),
        facts(dtype=[]),
        facts(shape=None),
        facts(shape=[1] * (MAX_RANK + 1)),
        facts(shape=[-2]),
        facts(shape=[MAX_DIM + 1]),
        facts(shape=[True]),
        facts(shape=[1.5]),
        {"ok": False},
        {"ok": False, "reason": None},
        {"ok": False, "reason": "x" * (MAX_REASON_CHARS + 1)},
        {"ok": False, "reason": "\x1b[2J"},
        {"ok": False, "reason": "no", "inputs": []},
    ],
)
def test_anything_else_is_an_invalid_frame(fields: Any) -> None:
    with pytest.raises(InvalidFrame):
        decode_verdict(json.dumps(fields).encode())


@pytest.mark.parametrize("payload", [b"", b"\xff", b"[" * 60_000, b'{"ok":' + b"9" * 60_000 + b"}"])
def test_bytes_that_are_no_json_are_an_invalid_frame(payload: bytes) -> None:
    with pytest.raises(InvalidFrame):
        decode_verdict(payload)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_raise_anything_else(payload: bytes) -> None:
    with pytest.raises(InvalidFrame):
        decode_verdict(payload)

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.samples import ACME, CLASSIFY, FREE, INPUTS, MOBILENET, OUTPUTS, digest, draft, pin
from wisp.errors import RegistryUnavailable
from wisp.names import parse_key_id
from wisp.registry.codec import decode, encode, seal
from wisp.registry.records import Function, Key, Model, Role, Tenant, Version

TENANT = Tenant(name=ACME, class_name=FREE, suspended=False, created_at=1)
MODEL = Model(
    name=MOBILENET,
    tenant=None,
    version=3,
    digest=digest("m"),
    size_bytes=9,
    inputs=INPUTS,
    outputs=OUTPUTS,
    created_at=4,
)
FUNCTION = Function(
    tenant=ACME, name=CLASSIFY, active=None, suspended=True, latest=2, versions=(1, 2), created_at=1_760_000_000
)
KEY = Key(
    id=parse_key_id("0" * 16),
    tenant=ACME,
    role=Role.INVOKE,
    functions=(CLASSIFY,),
    secret_sha256="f" * 64,
    created_at=1,
)
BASE = draft("a", models=(pin(MODEL),))
VERSION = Version(number=7, **{name: getattr(BASE, name) for name in BASE.__dataclass_fields__})


@pytest.mark.parametrize("record", [TENANT, MODEL, FUNCTION, KEY, replace(KEY, functions=None), VERSION], ids=repr)
def test_a_record_comes_back_equal(record: object) -> None:
    assert decode(type(record), encode(record), place="here") == record


@given(bit=st.integers(min_value=0, max_value=8 * len(encode(VERSION)) - 1))
def test_any_flipped_bit_is_noticed(bit: int) -> None:
    raw = bytearray(encode(VERSION))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RegistryUnavailable, match="acme/classify is damaged"):
        decode(Version, bytes(raw), place="acme/classify")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "acme", "class_name": "free", "suspended": False},
        {"name": "acme", "class_name": "free", "suspended": False, "created_at": 1, "more": 1},
        {"name": "acme", "class_name": "free", "suspended": 0, "created_at": 1},
        {"name": "acme", "class_name": "free", "suspended": False, "created_at": True},
        {"name": "acme", "class_name": "free", "suspended": False, "created_at": 1.0},
        {"name": None, "class_name": "free", "suspended": False, "created_at": 1},
        ["acme"],
        None,
    ],
)
def test_missing_unknown_and_mistyped_fields_are_refused(change: object) -> None:
    with pytest.raises(RegistryUnavailable):
        decode(Tenant, seal(json.dumps(change).encode()), place="acme")


@pytest.mark.parametrize("raw", [b"", b"0123", seal(b""), seal(b"{"), seal(b"[" * 100_000), seal(b"\xff")])
def test_what_is_no_record_is_refused(raw: bytes) -> None:
    with pytest.raises(RegistryUnavailable):
        decode(Tenant, raw, place="acme")


def test_a_secrets_hash_is_not_shown() -> None:
    assert "ffff" not in repr(KEY)

from __future__ import annotations

import re

import pytest

from registry.samples import ACME, BETA
from wisp.errors import InvalidName
from wisp.names import parse_tenant
from wisp.registry.keys import SHARED_TAG, Kind, everywhere, key, owner_tag


def test_a_slots_keys_differ_by_their_kind_alone() -> None:
    for owner in (ACME, BETA, None):
        tag = owner or SHARED_TAG
        assert {key(owner, kind) for kind in Kind} == {f"wisp:{{{tag}}}:{kind}" for kind in Kind}
        assert {owner_tag(key(owner, kind)) for kind in Kind} == {tag}


def test_no_tenant_can_be_called_like_the_operators_slot() -> None:
    with pytest.raises(InvalidName):
        parse_tenant(SHARED_TAG)


def test_the_pattern_of_a_kind_is_a_key_with_any_owner() -> None:
    for kind in Kind:
        pattern = re.escape(everywhere(kind)).replace(r"\*", ".*")
        assert [other for other in Kind if re.fullmatch(pattern, key(ACME, other))] == [kind]

from __future__ import annotations

import pytest

from platforms import REPOSITORY
from wisp.names import parse_class
from wisp.policy.allowance import Allowance
from wisp.policy.ceilings import Ceilings


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("models: [{name: 'a', model: …}]", True),
        ("files: [{mount: /a, from: scratch}]", True),
        ("files: [{mount: /a, from: scratch, quota: 1Gi}]", False),
        ("inline_models: true", False),
        ("allowed_outbound_hosts: ['https://a.org:443']", False),
        ('allowed_outbound_hosts: [{host: "https://a.org:443", methods: [PUT]}]', False),
        ("limits: {fuel: 900G}", False),
        ("blocked_networks: []", None),
        ("the operator's blocked_networks", None),
        ("", True),
    ],
)
def test_a_line_is_judged_by_class_and_ceiling(line: str, allowed: bool | None) -> None:
    ceilings = Ceilings.load(REPOSITORY / "policies")
    judged = Allowance(ceilings.for_class(parse_class("standard")), ceilings.ceiling)
    assert judged.allows(line) is allowed
    assert judged.allows(line) is allowed

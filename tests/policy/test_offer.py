from __future__ import annotations

import pytest

from wisp.policy.offer import NOT_YET_OFFERED, Unoffered, unavailable
from wisp.policy.parse import parse_policy

ASKED = {
    "target: gpu": (
        b"abi: handler\nmodels: [{name: a, model: m}, {name: b, model: m, target: gpu}]\n",
        "models[1].target",
        3,
        59,
    ),
}


@pytest.mark.parametrize("unoffered", NOT_YET_OFFERED, ids=lambda unoffered: unoffered.what)
def test_what_is_not_offered_is_refused_with_its_line(unoffered: Unoffered) -> None:
    text, field, line, column = ASKED[unoffered.what]
    faults = unavailable(parse_policy(b"wisp: 1\n" + text))
    assert [(fault.field, fault.line, fault.column) for fault in faults] == [(field, line, column)]
    assert unoffered.what in faults[0].message


def test_the_rest_is_offered() -> None:
    policy = parse_policy(
        b"wisp: 1\nabi: command\nlimits: {fuel: 1G}\nmodels: [{name: a, model: m, target: any}]\ninline_models: true\n"
        b"environment: {A: b}\nclock: real\nrandom: frozen\non_violation: errno\naccess: public\n"
        b"files: [{mount: /a, from: bundle}, {mount: /b, from: scratch}, {mount: /c, from: log},"
        b" {mount: /d, from: host, path: /srv/d}]\n"
        b"concurrency: {max_inflight: 1}\nsecrets: [S]\nallowed_outbound_hosts: ['https://a.org']\n"
    )
    assert unavailable(policy) == ()

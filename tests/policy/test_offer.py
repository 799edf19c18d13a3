from __future__ import annotations

from collections.abc import Iterator

import pytest

from wisp.policy import offer
from wisp.policy.choices import Target
from wisp.policy.document import Path
from wisp.policy.offer import Unoffered, unavailable
from wisp.policy.parse import parse_policy
from wisp.policy.schema import Policy


def gpu_entries(policy: Policy) -> Iterator[Path]:
    for index, entry in enumerate(policy.models):
        if entry.target is Target.GPU:
            yield "models", index, "target"


def test_what_is_not_offered_is_refused_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = parse_policy(b"wisp: 1\nabi: handler\nmodels: [{name: a, model: m}, {name: b, model: m, target: gpu}]\n")
    assert unavailable(policy) == ()
    monkeypatch.setattr(offer, "NOT_YET_OFFERED", (Unoffered(what="target: gpu", asked_at=gpu_entries),))
    faults = unavailable(policy)
    assert [(fault.field, fault.line, fault.column) for fault in faults] == [("models[1].target", 3, 59)]
    assert "target: gpu" in faults[0].message


def test_the_rest_is_offered() -> None:
    policy = parse_policy(
        b"wisp: 1\nabi: command\nlimits: {fuel: 1G}\nmodels: [{name: a, model: m, target: any},"
        b" {name: b, model: m, target: gpu}]\ninline_models: true\n"
        b"environment: {A: b}\nclock: real\nrandom: frozen\non_violation: errno\naccess: public\n"
        b"files: [{mount: /a, from: bundle}, {mount: /b, from: scratch}, {mount: /c, from: log},"
        b" {mount: /d, from: host, path: /srv/d}]\n"
        b"concurrency: {max_inflight: 1}\nsecrets: [S]\nallowed_outbound_hosts: ['https://a.org']\n"
    )
    assert unavailable(policy) == ()

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from policy.documents import ceilings, classes, policies
from wisp.policy.ceilings import Ceilings, default_policies_dir
from wisp.policy.choices import Clock
from wisp.policy.differences import Change, Effect, document_changes, grants_changes
from wisp.policy.narrowing import narrow
from wisp.policy.parse import parse_ceiling, parse_class, parse_policy
from wisp.policy.schema import Ceiling, Policy, TenantClass

SHIPPED = Ceilings.load(default_policies_dir())
POLICY = b"wisp: 1\nabi: handler\n"


def rows(changes: tuple[Change, ...]) -> list[tuple[str, str | None, str | None, str]]:
    return [(change.field, change.before, change.after, change.effect.value) for change in changes]


@pytest.mark.parametrize(
    ("former", "latter", "expected"),
    [
        (b"fuel: 20G", b"fuel: 10G", ("limits.fuel", "20G", "10G", "loses")),
        (b"memory: 512Mi", b"memory: 1Gi", ("limits.memory", "512Mi", "1Gi", "gains")),
        (b"timeout: 30s", b"timeout: 1500ms", ("limits.timeout", "30s", "1500ms", "loses")),
        (b"clock: real", b"clock: frozen", ("clock", "real", "frozen", "loses")),
        (b"[private]", b"[private, 192.0.2.0/24]", ("blocked_networks[192.0.2.0/24]", None, '"192.0.2.0/24"', "loses")),
        (
            b"blocked_networks: [private]",
            b"blocked_networks: []",
            ("blocked_networks[private]", "private", None, "gains"),
        ),
        (b"host: []", b"host: [/srv]", ("files.host[/srv]", None, "/srv", "gains")),
        (b"inline: false", b"inline: true", ("models.inline", "false", "true", "gains")),
        (b"targets: [cpu]", b"targets: []", ("models.targets[cpu]", "cpu", None, "loses")),
    ],
)
def test_a_ceiling(former: bytes, latter: bytes, expected: tuple[str, str | None, str | None, str]) -> None:
    text = SHIPPED.texts["ceiling"]
    assert former in text
    changed = text.replace(former, latter)
    assert rows(document_changes(parse_ceiling(text), parse_ceiling(changed))) == [expected]


def test_a_class_with_its_quota() -> None:
    text = SHIPPED.texts["class-free"]
    changed = text.replace(b"burst: 200", b"burst: 100").replace(b"weight: 1", b"weight: 2")
    assert rows(document_changes(parse_class(text), parse_class(changed))) == [
        ("quota.burst", "200", "100", "loses"),
        ("weight", "1", "2", "gains"),
    ]


def test_a_policys_entries_go_by_their_names_wherever_they_stand() -> None:
    before = parse_policy(POLICY + b"models: [{name: a, model: m, max_inferences: 3}, {name: b, model: o}]\n")
    after = parse_policy(POLICY + b"models: [{name: c, model: o}, {name: a, model: m@1, max_inferences: 4}]\n")
    assert rows(document_changes(before, after)) == [
        ("models[a].model", "m", "m@1", "changes"),
        ("models[a].max_inferences", "3", "4", "gains"),
        ("models[b]", "{name: b, model: o, target: cpu, batch: shared}", None, "loses"),
        ("models[c]", None, "{name: c, model: o, target: cpu, batch: shared}", "gains"),
    ]


def test_methods_and_the_request_budget_come_and_go() -> None:
    before = parse_policy(
        POLICY + b"allowed_outbound_hosts: ['https://a.org', {host: 'https://b.org', methods: [GET]}]\n"
    )
    after = parse_policy(
        POLICY + b"allowed_outbound_hosts: [{host: 'https://a.org', methods: [GET, HEAD, POST, PUT, PATCH, DELETE]},\n"
        b"  {host: 'https://b.org', methods: [PUT]}, {host: 'https://c.org', methods: [GET]}]\n"
    )
    assert rows(document_changes(before, after)) == [
        ("allowed_outbound_hosts[https://a.org:443].methods[OPTIONS]", "OPTIONS", None, "loses"),
        ("allowed_outbound_hosts[https://b.org:443].methods[GET]", "GET", None, "loses"),
        ("allowed_outbound_hosts[https://b.org:443].methods[PUT]", None, "PUT", "gains"),
        ("allowed_outbound_hosts[https://c.org:443]", None, '{host: "https://c.org:443", methods: [GET]}', "gains"),
    ]
    lower = SHIPPED.texts["ceiling"].replace(b"limits: {", b"limits: {outbound_requests: 4, ")
    assert rows(document_changes(SHIPPED.ceiling, parse_ceiling(lower))) == [
        ("limits.outbound_requests", "8", "4", "loses")
    ]


def test_what_is_neither_more_nor_less() -> None:
    before = parse_policy(POLICY + b"limits: {fuel: 1G}\nenvironment: {timeout: a}\n")
    after = parse_policy(POLICY + b"environment: {timeout: b}\naccess: public\non_violation: errno\n")
    assert {change.field: change.effect for change in document_changes(before, after)} == dict.fromkeys(
        ("limits.fuel", "environment.timeout", "access", "on_violation"), Effect.CHANGES
    )


def test_grants() -> None:
    policy = parse_policy(POLICY + b"limits: {fuel: 1G}\nclock: real\n")
    before = narrow(policy, SHIPPED.for_class(next(iter(SHIPPED.classes))), SHIPPED.ceiling)
    after = replace(before, fuel=5 * 10**8, clock=Clock.FROZEN, inline_models=True)
    assert rows(grants_changes(before, after)) == [
        ("limits.fuel", "1G", "500M", "loses"),
        ("inline_models", "false", "true", "gains"),
        ("clock", "real", "frozen", "loses"),
    ]


@given(policies(), classes(), ceilings())
def test_nothing_changes_from_a_thing_to_itself(policy: Policy, tenant_class: TenantClass, ceiling: Ceiling) -> None:
    grants = narrow(policy, tenant_class, ceiling)
    assert grants_changes(grants, grants) == ()
    assert document_changes(policy, policy) == document_changes(ceiling, ceiling) == ()
    assert document_changes(tenant_class, tenant_class) == ()


@given(policies(), classes(), ceilings(), ceilings())
def test_grants_that_differ_show_it_and_the_way_back_is_the_mirror(
    policy: Policy, tenant_class: TenantClass, one: Ceiling, other: Ceiling
) -> None:
    former, latter = narrow(policy, tenant_class, one), narrow(policy, tenant_class, other)
    there, back = grants_changes(former, latter), grants_changes(latter, former)
    assert bool(there) == (former.as_json() != latter.as_json())
    assert {(c.field, c.before, c.after) for c in there} == {(c.field, c.after, c.before) for c in back}
    mirrored = {Effect.GAINS: Effect.LOSES, Effect.LOSES: Effect.GAINS, Effect.CHANGES: Effect.CHANGES}
    assert {c.field: c.effect for c in there} == {c.field: mirrored[c.effect] for c in back}

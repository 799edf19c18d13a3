from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.documents import ceilings, classes, host_patterns, policies
from wisp.errors import ExceedsCeiling
from wisp.names import ClassName
from wisp.policy.ceilings import Ceilings
from wisp.policy.choices import Clock, Method, MountSource, Target
from wisp.policy.grants import Grants
from wisp.policy.hostrules import HostRule, meet_all, methods_for
from wisp.policy.hosts import HostPattern, parse_host_pattern
from wisp.policy.narrowing import LIMITS, check, narrow, refuse_excess
from wisp.policy.parse import parse_ceiling, parse_class, parse_policy
from wisp.policy.schema import Ceiling, Policy, TenantClass

POLICIES = Path(__file__).parents[2] / "policies"
IN_FORCE = {
    "fuel": "fuel",
    "memory": "memory_bytes",
    "timeout": "timeout_ns",
    "request_body": "request_body_bytes",
    "response_body": "response_body_bytes",
    "logs": "log_bytes",
    "outbound_requests": "outbound_requests",
}
FINENESS = [Clock.FROZEN, Clock.COARSE, Clock.REAL]


@pytest.fixture(scope="module")
def free() -> tuple[TenantClass, Ceiling]:
    loaded = Ceilings.load(POLICIES)
    return loaded.for_class(ClassName("free")), loaded.ceiling


def test_what_is_left_out_is_the_class_default(free: tuple[TenantClass, Ceiling]) -> None:
    grants = narrow(parse_policy(b"wisp: 1\nabi: handler\n"), *free)
    assert (grants.fuel, grants.memory_bytes, grants.timeout_ns) == (10**9, 32 * 2**20, 10**9)
    assert (grants.request_body_bytes, grants.response_body_bytes, grants.log_bytes) == (2**23, 2**22, 2**13)
    assert grants.clock is Clock.COARSE
    assert grants.concurrency.max_inflight == 16
    assert grants.entrypoint is None
    assert narrow(parse_policy(b"wisp: 1\nabi: command\n"), *free).entrypoint == "_start"


def test_every_excess_is_named_with_its_place(free: tuple[TenantClass, Ceiling]) -> None:
    policy = parse_policy(
        b"wisp: 1\nabi: handler\nlimits: {fuel: 30G, memory: 64Mi, timeout: 40s}\n"
        b"models:\n  - {name: a, model: m, target: gpu, max_inferences: 65, max_time: 11s}\n"
        b"inline_models: true\n"
        b"files:\n  - {mount: /a, from: scratch, quota: 9Mi}\n  - {mount: /b, from: scratch, quota: 9Mi}\n"
        b"  - {mount: /c, from: host, path: /etc}\n"
        b"allowed_outbound_hosts: ['https://a.org']\nconcurrency: {max_inflight: 17}\n"
    )
    assert [(fault.line, fault.column, fault.field, fault.asked, fault.allowed) for fault in check(policy, *free)] == [
        (3, 16, "limits.fuel", "30G", "2G"),
        (3, 44, "limits.timeout", "40s", "2s"),
        (5, 33, "models[0].target", "gpu", "cpu"),
        (5, 54, "models[0].max_inferences", "65", "64"),
        (5, 68, "models[0].max_time", "11s", "10s"),
        (6, 16, "inline_models", "true", "false"),
        (9, 39, "files[1].quota", "9Mi", "7Mi more"),
        (10, 35, "files[2].path", "/etc", "none"),
        (11, 26, "allowed_outbound_hosts[0]", "https://a.org:443", "no host"),
        (12, 29, "concurrency.max_inflight", "17", "16"),
    ]
    with pytest.raises(ExceedsCeiling, match=r"limits.fuel asks for 30G; the class allows 2G.*and 7 more") as caught:
        refuse_excess(policy, *free)
    assert caught.value.faults == check(policy, *free)


def test_a_policy_within_its_limits_is_not_refused(free: tuple[TenantClass, Ceiling]) -> None:
    policy = parse_policy(b"wisp: 1\nabi: handler\nlimits: {fuel: 2G, memory: 64Mi, timeout: 2s}\nclock: real\n")
    refuse_excess(policy, *free)
    assert check(policy, *free) == ()


@given(policies(), classes(), ceilings())
def test_rule_4_grants_only_narrow(policy: Policy, tenant_class: TenantClass, ceiling: Ceiling) -> None:
    grants = narrow(policy, tenant_class, ceiling)
    assert_limits(grants, policy, tenant_class, ceiling)
    assert_models(grants, policy, ceiling)
    assert_files(grants, policy, ceiling)
    assert grants.inline_models <= (policy.inline_models and ceiling.models.inline)
    assert set(grants.secrets) <= set(policy.secrets)
    assert dict(grants.environment) == policy.environment
    for rule in grants.allowed_outbound_hosts:
        assert rule.methods
        assert set(rule.methods) <= set(methods_for(rule.pattern, rules(ceiling)))
        assert all(covered(rule.pattern, method, rules(policy)) for method in rule.methods)
    fineness = FINENESS.index(grants.clock)
    assert fineness <= FINENESS.index(policy.clock or Clock.COARSE)
    assert fineness <= FINENESS.index(ceiling.clock)
    assert (grants.abi, grants.random, grants.on_violation, grants.access) == (
        policy.abi,
        policy.random,
        policy.on_violation,
        policy.access,
    )
    assert grants.concurrency.max_inflight <= tenant_class.quota.max_inflight
    assert grants.concurrency.max_inflight <= (policy.concurrency.max_inflight or tenant_class.quota.max_inflight)
    assert grants.concurrency.max_queue == policy.concurrency.max_queue
    assert grants.concurrency.queue_timeout_ns == policy.concurrency.queue_timeout


def assert_limits(grants: Grants, policy: Policy, tenant_class: TenantClass, ceiling: Ceiling) -> None:
    assert LIMITS.keys() == IN_FORCE.keys()
    for key, name in IN_FORCE.items():
        granted = getattr(grants, name)
        assert granted <= getattr(tenant_class.limits, key)
        assert granted <= getattr(ceiling.limits, key)
        asked = getattr(policy.limits, key)
        unasked = getattr(tenant_class.defaults, key)
        assert asked is None or granted <= asked
        assert asked is not None or unasked is None or granted <= unasked


def assert_models(grants: Grants, policy: Policy, ceiling: Ceiling) -> None:
    asked = {entry.name: entry for entry in policy.models}
    for grant in grants.models:
        entry = asked[grant.name]
        assert grant.model == entry.model
        places = {Target.CPU, Target.GPU} if grant.target is Target.ANY else {grant.target}
        assert places <= set(ceiling.models.targets)
        assert entry.target is Target.ANY or places == {entry.target}
        assert 1 <= grant.max_inferences <= min(entry.max_inferences or 10**9, ceiling.models.max_inferences)
        assert grant.batch is entry.batch
        assert 1 <= grant.max_time_ns <= min(entry.max_time or 10**18, ceiling.models.max_time)


def assert_files(grants: Grants, policy: Policy, ceiling: Ceiling) -> None:
    asked = {mount.mount: mount for mount in policy.files}
    scratch = 0
    for grant in grants.files:
        mount = asked[grant.mount]
        assert (grant.source, grant.allow, grant.path) == (mount.source, mount.allow, mount.path)
        assert grant.source is not MountSource.BUNDLE or ceiling.files.bundle > 0
        if grant.source is MountSource.HOST:
            assert any(f"{grant.path}/".startswith(f"{allowed}/") for allowed in ceiling.files.host)
        assert mount.quota is None or grant.quota_bytes <= mount.quota
        scratch += grant.quota_bytes
    assert scratch <= ceiling.files.scratch


def rules(document: Policy | Ceiling) -> tuple[HostRule, ...]:
    return tuple(entry.rule for entry in document.allowed_outbound_hosts)


def covered(pattern: HostPattern, method: Method, by: tuple[HostRule, ...]) -> bool:
    return any(rule.pattern.covers(pattern) and method in rule.methods for rule in by)


_PLACES = st.builds(
    "{}://{}:{}".format,
    st.sampled_from(["http", "https"]),
    st.sampled_from(["a.org", "x.a.org", "x.b.a.org", "192.0.2.1", "[2001:db8::1]", "c.org"]),
    st.sampled_from(["80", "443", "8080"]),
).map(parse_host_pattern)


@given(policies(), classes(), ceilings(), _PLACES, st.sampled_from(Method))
def test_a_request_is_granted_exactly_if_both_documents_allow_it(
    policy: Policy, tenant_class: TenantClass, ceiling: Ceiling, place: HostPattern, method: Method
) -> None:
    grants = narrow(policy, tenant_class, ceiling)
    both = covered(place, method, rules(policy)) and covered(place, method, rules(ceiling))
    assert covered(place, method, grants.allowed_outbound_hosts) is both


_RULES = st.lists(
    st.builds(
        HostRule,
        pattern=host_patterns(),
        methods=st.sets(st.sampled_from(Method), min_size=1).map(lambda some: tuple(m for m in Method if m in some)),
    ),
    max_size=4,
)


@given(_RULES, _RULES, _PLACES)
def test_methods_intersect_wherever_the_lists_meet(
    asked: list[HostRule], allowed: list[HostRule], place: HostPattern
) -> None:
    met = meet_all(asked, allowed)
    both = set(methods_for(place, asked)) & set(methods_for(place, allowed))
    assert set(methods_for(place, met)) == both
    assert meet_all(met, allowed) == met
    assert len({rule.pattern for rule in met}) == len(met)


METHODS_POLICY = b"""\
wisp: 1
abi: handler
limits: {outbound_requests: 20}
allowed_outbound_hosts:
  - {host: "https://a.org", methods: [POST, GET]}
  - "https://b.org"
  - {host: "https://c.org", methods: [GET]}
"""


def test_methods_and_the_request_budget_narrow(free: tuple[TenantClass, Ceiling]) -> None:
    text = (
        Ceilings.load(POLICIES)
        .texts["ceiling"]
        .replace(
            b"allowed_outbound_hosts: []",
            b"allowed_outbound_hosts: [{host: 'https://*', methods: [DELETE, GET]}, "
            b"{host: 'https://c.org', methods: [PUT]}]",
        )
    )
    ceiling, policy = parse_ceiling(text), parse_policy(METHODS_POLICY)
    grants = narrow(policy, free[0], ceiling)
    assert grants.outbound_requests == 8
    assert grants.as_json()["allowed_outbound_hosts"] == [
        {"host": "https://a.org:443", "methods": ["GET"]},
        {"host": "https://b.org:443", "methods": ["GET", "DELETE"]},
        {"host": "https://c.org:443", "methods": ["GET"]},
    ]
    whole = "https://*:443 (GET, DELETE), https://c.org:443 (PUT)"
    assert [
        (fault.line, fault.column, fault.field, fault.asked, fault.allowed) for fault in check(policy, free[0], ceiling)
    ] == [
        (3, 29, "limits.outbound_requests", "20", "8"),
        (5, 38, "allowed_outbound_hosts[0].methods", "GET, POST", "GET"),
        (6, 5, "allowed_outbound_hosts[1]", "https://b.org:443", whole),
    ]


@pytest.mark.parametrize(
    ("asked", "default", "most", "ceiling", "granted"),
    [
        (None, None, None, None, 8),
        (3, None, None, None, 3),
        (0, None, 64, 64, 0),
        (20, None, None, 64, 8),
        (20, None, 64, None, 8),
        (20, None, 64, 64, 20),
        (None, None, 64, 32, 32),
        (None, 4, 64, 32, 4),
        (None, 40, 64, 32, 32),
        (10, 4, 64, 32, 10),
    ],
)
def test_the_request_budget(
    asked: int | None,
    default: int | None,
    most: int | None,
    ceiling: int | None,
    granted: int,
) -> None:
    texts = Ceilings.load(POLICIES).texts

    def said(text: bytes, section: bytes, number: int | None) -> bytes:
        assert section + b": {" in text
        return (
            text if number is None else text.replace(section + b": {", section + b": {outbound_requests: %d, " % number)
        )

    policy = parse_policy(
        b"wisp: 1\nabi: handler\n" + (b"" if asked is None else b"limits: {outbound_requests: %d}" % asked)
    )
    free_class = parse_class(said(said(texts["class-free"], b"limits", most), b"defaults", default))
    grants = narrow(policy, free_class, parse_ceiling(said(texts["ceiling"], b"limits", ceiling)))
    assert grants.outbound_requests == granted


@given(policies(), classes(), ceilings())
def test_narrowing_what_is_narrow_changes_nothing(policy: Policy, tenant_class: TenantClass, ceiling: Ceiling) -> None:
    grants = narrow(policy, tenant_class, ceiling)
    again = parse_policy(json.dumps(grants.as_json(), ensure_ascii=False).encode())
    assert narrow(again, tenant_class, ceiling) == grants
    assert check(again, tenant_class, ceiling) == ()


@given(policies(), classes(), ceilings())
def test_nothing_is_found_exactly_if_nothing_is_cut(
    policy: Policy, tenant_class: TenantClass, ceiling: Ceiling
) -> None:
    grants = narrow(policy, tenant_class, ceiling)
    cut = (
        any(
            asked is not None and getattr(grants, IN_FORCE[key]) < asked
            for key, asked in policy.limits.model_dump().items()
        )
        or len(grants.models) < len(policy.models)
        or any(
            (entry.max_inferences or 0) > grant.max_inferences or (entry.max_time or 0) > grant.max_time_ns
            for entry, grant in zip(policy.models, grants.models, strict=False)
        )
        or policy.inline_models is not grants.inline_models
        or len(grants.files) < len(policy.files)
        or any((mount.quota or 0) > grant.quota_bytes for mount, grant in zip(policy.files, grants.files, strict=False))
        or grants.allowed_outbound_hosts != rules(policy)
        or (policy.clock is not None and policy.clock is not grants.clock)
        or (policy.concurrency.max_inflight or 0) > grants.concurrency.max_inflight
    )
    assert bool(check(policy, tenant_class, ceiling)) is cut

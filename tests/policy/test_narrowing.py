from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given

from policy.documents import ceilings, classes, policies
from wisp.errors import ExceedsCeiling
from wisp.names import ClassName
from wisp.policy.ceilings import Ceilings
from wisp.policy.choices import Clock, MountSource, Target
from wisp.policy.grants import Grants
from wisp.policy.hosts import HostPattern
from wisp.policy.narrowing import LIMITS, check, narrow, refuse_excess
from wisp.policy.parse import parse_policy
from wisp.policy.schema import Ceiling, Policy, TenantClass

POLICIES = Path(__file__).parents[2] / "policies"
IN_FORCE = {
    "fuel": "fuel",
    "memory": "memory_bytes",
    "timeout": "timeout_ns",
    "request_body": "request_body_bytes",
    "response_body": "response_body_bytes",
    "logs": "log_bytes",
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
    for pattern in grants.allowed_outbound_hosts:
        assert covered(pattern, policy.allowed_outbound_hosts)
        assert covered(pattern, ceiling.allowed_outbound_hosts)
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


def covered(pattern: HostPattern, by: tuple[HostPattern, ...]) -> bool:
    return any(other.covers(pattern) for other in by)


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
        or grants.allowed_outbound_hosts != tuple(dict.fromkeys(policy.allowed_outbound_hosts))
        or (policy.clock is not None and policy.clock is not grants.clock)
        or (policy.concurrency.max_inflight or 0) > grants.concurrency.max_inflight
    )
    assert bool(check(policy, tenant_class, ceiling)) is cut

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from policy.documents import ceilings, classes, policies
from wisp.policy.grants import Grants
from wisp.policy.narrowing import narrow
from wisp.policy.parse import parse_ceiling, parse_class, parse_policy
from wisp.policy.schema import Ceiling, Policy, TenantClass

POLICY = b"""\
wisp: 1
abi: command
models: [{name: a, model: m@1, max_time: 1500ms}]
files: [{mount: /a, from: bundle, allow: ["*"]}, {mount: /b, from: host, path: /srv/x}, {mount: /t, from: scratch}]
environment: {A: b}
allowed_outbound_hosts: ["https://a.org"]
"""
CEILING = b"""\
wisp: 1
kind: ceiling
limits: {fuel: 20G, memory: 512Mi, timeout: 30s, request_body: 32Mi, response_body: 32Mi, logs: 256Ki}
compile: {cpu: 30s, memory: 1536Mi, module: 16Mi}
models: {max_inferences: 64, max_time: 10s, targets: [cpu]}
files: {bundle: 1Mi, scratch: 2Mi, host: [/srv]}
allowed_outbound_hosts: ["*://*"]
clock: real
"""
CLASS = b"""\
wisp: 1
kind: class
limits: {fuel: 2G, memory: 64Mi, timeout: 2s, request_body: 8Mi, response_body: 8Mi, logs: 16Ki}
quota: {requests_per_second: 1, burst: 1, max_inflight: 16, fuel_per_day: 1, nn_seconds_per_day: 1, storage: 1,
        functions: 1, models: 1}
"""


@pytest.fixture
def plain() -> dict[str, Any]:
    return narrow(parse_policy(POLICY), parse_class(CLASS), parse_ceiling(CEILING)).as_json()


def test_the_json_is_in_the_policys_vocabulary(plain: dict[str, Any]) -> None:
    assert plain == {
        "wisp": 1,
        "abi": "command",
        "entrypoint": "_start",
        "limits": {
            "fuel": 2 * 10**9,
            "memory": 64 * 2**20,
            "timeout": "2s",
            "request_body": 2**23,
            "response_body": 2**23,
            "logs": 2**14,
            "outbound_requests": 8,
        },
        "models": [
            {
                "name": "a",
                "model": "m@1",
                "target": "cpu",
                "max_inferences": 64,
                "max_time": "1500ms",
                "batch": "shared",
            }
        ],
        "inline_models": False,
        "files": [
            {"mount": "/a", "from": "bundle", "allow": ["*"]},
            {"mount": "/b", "from": "host", "allow": [], "path": "/srv/x"},
            {"mount": "/t", "from": "scratch", "quota": 2 * 2**20},
        ],
        "environment": {"A": "b"},
        "secrets": [],
        "allowed_outbound_hosts": ["https://a.org:443"],
        "clock": "coarse",
        "random": "real",
        "on_violation": "trap",
        "access": "key",
        "concurrency": {"max_inflight": 16, "max_queue": 32, "queue_timeout": "500ms"},
    }


@given(policies(), classes(), ceilings())
def test_json_reads_back(policy: Policy, tenant_class: TenantClass, ceiling: Ceiling) -> None:
    grants = narrow(policy, tenant_class, ceiling)
    assert Grants.from_json(json.loads(json.dumps(grants.as_json()))) == grants


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("wisp",), 2),
        (("wisp",), True),
        (("limits", "fuel"), True),
        (("limits", "fuel"), 0),
        (("limits", "fuel"), 2**63),
        (("limits", "fuel"), 1.0),
        (("limits", "memory"), -1),
        (("limits", "timeout"), 2),
        (("limits", "timeout"), "2h"),
        (("limits", "extra"), 1),
        (("limits",), []),
        (("extra",), 1),
        (("inline_models",), 0),
        (("models",), {}),
        (("models", 0), []),
        (("models", 0, "target"), "tpu"),
        (("models", 0, "batch"), "alone"),
        (("models", 0, "model"), "../m"),
        (("models", 0, "max_inferences"), 0),
        (("models", 0, "extra"), 0),
        (("files", 0, "mount"), "/../a"),
        (("files", 0, "allow"), ["../*"]),
        (("files", 0, "allow"), "*"),
        (("files", 1, "path"), None),
        (("files", 2, "allow"), []),
        (("environment",), {"A": 1}),
        (("environment",), []),
        (("secrets",), [1]),
        (("secrets",), ["S"] * 1001),
        (("allowed_outbound_hosts",), ["a.org"]),
        (("allowed_outbound_hosts",), [{"host": "https://a.org:443", "methods": ["TRACE"]}]),
        (("limits", "outbound_requests"), 65),
        (("clock",), "fine"),
        (("clock",), None),
        (("concurrency", "max_inflight"), 0),
    ],
)
def test_anything_else_is_refused(plain: dict[str, Any], path: tuple[Any, ...], value: object) -> None:
    target: Any = plain
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    with pytest.raises(ValueError, match=r".+"):
        Grants.from_json(plain)


@pytest.mark.parametrize("key", ["wisp", "abi", "limits", "models", "clock", "concurrency", "entrypoint"])
def test_every_key_is_required(plain: dict[str, Any], key: str) -> None:
    del plain[key]
    with pytest.raises(ValueError, match=f"grants.{key}: missing"):
        Grants.from_json(plain)


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_only_an_object_is_grants(value: object) -> None:
    with pytest.raises(ValueError, match="expected an object"):
        Grants.from_json(value)

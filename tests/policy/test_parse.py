from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.errors import InvalidPolicy
from wisp.policy.choices import Abi, Access, Clock, MountSource, OnViolation, Random, Target
from wisp.policy.parse import MAX_FAULTS, parse_ceiling, parse_class, parse_policy

WHOLE = b"""\
wisp: 1                       # unknown keys are errors
abi: handler
limits: {fuel: 2G, memory: 64Mi, timeout: 2s, request_body: 8Mi, response_body: 4Mi, logs: 16Ki}
models:
  - {name: classify, model: mobilenet@1, target: cpu, max_inferences: 4, max_time: 300ms}
inline_models: false
files:
  - {mount: /models, from: bundle, allow: ["*.txt"]}
  - {mount: /tmp/logs, from: log}
environment: {LOG_LEVEL: info}
secrets: [API_TOKEN]
allowed_outbound_hosts: ["https://api.example.com:443"]
clock: coarse
on_violation: trap
access: key                   # or public
concurrency: {max_inflight: 8, max_queue: 32, queue_timeout: 500ms}
"""

CEILING = b"""\
wisp: 1
kind: ceiling
limits: {fuel: 20G, memory: 512Mi, timeout: 30s, request_body: 32Mi, response_body: 32Mi, logs: 256Ki}
compile: {cpu: 30s, memory: 1536Mi, module: 16Mi}
"""

CLASS = b"""\
wisp: 1
kind: class
limits: {fuel: 2G, memory: 64Mi, timeout: 2s, request_body: 8Mi, response_body: 8Mi, logs: 16Ki}
quota: {requests_per_second: 100, burst: 200, max_inflight: 16, fuel_per_day: 10T, nn_seconds_per_day: 3600,
        storage: 512Mi, functions: 32, models: 16}
"""


def test_a_whole_policy() -> None:
    policy = parse_policy(WHOLE)
    assert policy.limits.model_dump() == {
        "fuel": 2 * 10**9,
        "memory": 64 * 2**20,
        "timeout": 2 * 10**9,
        "request_body": 8 * 2**20,
        "response_body": 4 * 2**20,
        "logs": 16 * 2**10,
        "outbound_requests": None,
    }
    entry = policy.models[0]
    assert (entry.name, str(entry.model), entry.target, entry.max_inferences, entry.max_time) == (
        "classify",
        "mobilenet@1",
        Target.CPU,
        4,
        300_000_000,
    )
    assert [(mount.mount, mount.source, mount.allow) for mount in policy.files] == [
        ("/models", MountSource.BUNDLE, ("*.txt",)),
        ("/tmp/logs", MountSource.LOG, ()),
    ]
    assert policy.environment == {"LOG_LEVEL": "info"}
    assert policy.secrets == ("API_TOKEN",)
    assert [str(entry.rule) for entry in policy.allowed_outbound_hosts] == ["https://api.example.com:443"]
    assert policy.concurrency.model_dump() == {"max_inflight": 8, "max_queue": 32, "queue_timeout": 500_000_000}


def test_the_least_policy_has_the_documented_defaults() -> None:
    policy = parse_policy(b"wisp: 1\nabi: handler\n")
    assert policy.abi is Abi.HANDLER
    assert (policy.access, policy.on_violation, policy.random) == (Access.KEY, OnViolation.TRAP, Random.REAL)
    assert policy.clock is None
    assert policy.inline_models is False
    assert (policy.models, policy.files, policy.secrets, policy.allowed_outbound_hosts) == ((), (), (), ())
    assert policy.environment == {}
    assert set(policy.limits.model_dump().values()) == {None}


def test_where_it_stands_is_no_part_of_what_it_says() -> None:
    one, other = parse_policy(b"wisp: 1\nabi: handler\n"), parse_policy(b"{abi: handler,\n\n wisp: 1}")
    assert one == other
    assert one.positions.values[("abi",)] != other.positions.values[("abi",)]
    assert one != parse_policy(b"wisp: 1\nabi: command\n")


def test_a_ceiling_is_closed_where_it_says_nothing() -> None:
    ceiling = parse_ceiling(CEILING)
    assert ceiling.models.max_inferences == 0
    assert ceiling.models.targets == ()
    assert ceiling.models.inline is False
    assert (ceiling.files.bundle, ceiling.files.scratch, ceiling.files.host) == (0, 0, ())
    assert ceiling.allowed_outbound_hosts == ()
    assert ceiling.blocked_networks == ("private",)
    assert ceiling.clock is Clock.COARSE


def test_a_class() -> None:
    tenant_class = parse_class(CLASS)
    assert tenant_class.weight == 1
    assert tenant_class.trusted_models is False
    assert tenant_class.quota.fuel_per_day == 10**13
    assert tenant_class.defaults.fuel is None


def test_a_class_that_gives_unasked_what_it_forbids() -> None:
    with pytest.raises(InvalidPolicy) as caught:
        parse_class(CLASS + b"defaults: {fuel: 3G, memory: 64Mi, timeout: 3s}\n")
    assert [(fault.field, fault.line, fault.column, fault.message) for fault in caught.value.faults] == [
        ("defaults.fuel", 6, 18, "expected at most this class's limits.fuel, which is 2G"),
        ("defaults.timeout", 6, 45, "expected at most this class's limits.timeout, which is 2s"),
    ]


def test_a_class_that_is_silent_of_outbound_requests_gives_no_more_than_the_usual() -> None:
    assert parse_class(CLASS + b"defaults: {outbound_requests: 8}\n").defaults.outbound_requests == 8
    with pytest.raises(InvalidPolicy) as caught:
        parse_class(CLASS + b"defaults: {outbound_requests: 9}\n")
    assert [(fault.field, fault.line, fault.column, fault.message) for fault in caught.value.faults] == [
        ("defaults.outbound_requests", 6, 31, "expected at most this class's limits.outbound_requests, which is 8"),
    ]


def test_an_outbound_host_with_its_methods() -> None:
    entries = b"[{host: 'https://a.org', methods: [POST, GET]}, {host: 'https://b.org'}, 'https://c.org']\n"
    for head, parse in ((b"wisp: 1\nabi: handler\n", parse_policy), (CEILING, parse_ceiling)):
        document = parse(head + b"allowed_outbound_hosts: " + entries)
        assert [entry.rule.as_json() for entry in document.allowed_outbound_hosts] == [
            {"host": "https://a.org:443", "methods": ["GET", "POST"]},
            "https://b.org:443",
            "https://c.org:443",
        ]


def test_a_ceiling_with_every_fault_at_once() -> None:
    with pytest.raises(InvalidPolicy) as caught:
        parse_ceiling(
            b"wisp: 1\nkind: class\nlimits: {fuel: 1G}\ncompile: {cpu: 1s, memory: 1Mi, module: 1Mi}\n"
            b"models: {targets: [any], inline: 1}\nblocked_networks: [privat, 10.0.0.1/8, private, private]\n"
        )
    assert [(fault.field, fault.line, fault.column) for fault in caught.value.faults] == [
        ("kind", 2, 7),
        *((f"limits.{key}", 3, 9) for key in ("memory", "timeout", "request_body", "response_body", "logs")),
        ("models.targets[0]", 5, 20),
        ("models.inline", 5, 34),
        ("blocked_networks[0]", 6, 20),
        ("blocked_networks[1]", 6, 28),
        ("blocked_networks[3]", 6, 49),
    ]


def test_the_error_says_which_document_and_the_first_fault() -> None:
    with pytest.raises(InvalidPolicy, match=r"the policy has 1 fault: line 2, abi: expected one of handler, command"):
        parse_policy(b"wisp: 1\nabi: x\n")
    with pytest.raises(InvalidPolicy, match=r"the class has \d+ faults, the first: line 1, "):
        parse_class(b"wisp: 1\n")


def test_the_number_of_faults_is_bounded() -> None:
    with pytest.raises(InvalidPolicy, match="the policy has 1003 faults") as caught:
        parse_policy(b"".join(b"k%d: 1\n" % number for number in range(1001)))
    assert len(caught.value.faults) == MAX_FAULTS


@given(st.data())
def test_a_damaged_policy_is_a_policy_or_invalid(data: st.DataObject) -> None:
    text = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 20))
        text[at : at + length] = data.draw(st.binary(max_size=6) | st.sampled_from([b"\n", b": ", b"{", b"[", b"'"]))
    try:
        parse_policy(bytes(text))
    except InvalidPolicy as error:
        refused = error.faults
    else:
        return
    assert refused
    for fault in refused:
        assert fault.line is not None
        assert fault.message.isprintable()
        assert fault.field.isprintable()
        assert len(fault.message) < 400

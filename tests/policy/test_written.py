from __future__ import annotations

import pytest
from hypothesis import given

from policy.documents import ceilings, classes, policies
from wisp.policy.parse import parse_ceiling, parse_class, parse_policy
from wisp.policy.schema import Ceiling, Policy, TenantClass
from wisp.policy.written import print_document, print_flow, written


def text_of(document: Policy | Ceiling | TenantClass) -> bytes:
    plain = written(document)
    assert isinstance(plain, dict)
    return print_document(plain).encode()


def readable(policy: Policy) -> Policy:
    """Without what is a mount's by default and may not be said of every kind."""
    mounts = tuple(mount.model_copy(update={"allow": mount.allow or ("*",)}) for mount in policy.files)
    return policy.model_copy(
        update={"files": tuple(mount for mount in mounts if mount.source in ("bundle", "host")), "secrets": ()}
    )


@given(policies())
def test_a_policy_reads_back(policy: Policy) -> None:
    policy = readable(policy)
    if policy.abi == "handler" and policy.entrypoint is None:
        assert parse_policy(text_of(policy)).model_dump() == policy.model_dump()


@given(ceilings())
def test_a_ceiling_reads_back(ceiling: Ceiling) -> None:
    assert parse_ceiling(text_of(ceiling)) == ceiling


@given(classes())
def test_a_class_reads_back(tenant_class: TenantClass) -> None:
    bounded = tenant_class.model_copy(update={"defaults": type(tenant_class.defaults)()})
    assert parse_class(text_of(bounded)) == bounded


def test_a_host_is_text_where_every_method_is_allowed() -> None:
    policy = parse_policy(
        b"wisp: 1\nabi: handler\n"
        b"allowed_outbound_hosts: ['https://a.org', {host: 'https://b.org', methods: [PUT, GET]}]\n"
    )
    assert written(policy.allowed_outbound_hosts) == [
        "https://a.org:443",
        {"host": "https://b.org:443", "methods": ["GET", "PUT"]},
    ]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("memory", 64 * 2**20, "64Mi"),
        ("memory", 65537, "65537"),
        ("fuel", 2 * 10**9, "2G"),
        ("timeout", 1_500_000_000, "1500ms"),
        ("max_queue", 1000, "1000"),
    ],
)
def test_quantities_have_their_unit(key: str, value: int, text: str) -> None:
    assert print_flow(written({key: value})) == f"{{{key}: {text}}}"


@pytest.mark.parametrize("text", ["yes", "1", "1.5", "1e5", "", "a: b", "[x", "*", "sha256:00", "é", "0x10", "-"])
def test_texts_that_another_reader_might_take_for_something_else_are_quoted(text: str) -> None:
    assert print_flow(text).startswith('"')

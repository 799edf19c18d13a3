from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.documents import ceilings, classes, policies
from policy.test_admission import ALLOC, EVERY_IMPORT, HANDLE, HANDLER, MEMORY, START
from wisp.policy.admission import admit
from wisp.policy.capabilities import NN_MODULE, WASI_MODULE
from wisp.policy.ceilings import Ceilings, default_policies_dir
from wisp.policy.explanation import Explanation, explain
from wisp.policy.facts import ExternKind, Import, ModuleFacts
from wisp.policy.narrowing import check, narrow
from wisp.policy.offer import unavailable
from wisp.policy.parse import parse_policy
from wisp.policy.proposal import least_policy
from wisp.policy.schema import Ceiling, Policy, TenantClass
from wisp.policy.uses import SERVED, is_known, is_used

SHIPPED = Ceilings.load(default_policies_dir())
FREE = SHIPPED.for_class(next(iter(SHIPPED.classes)))
COMMAND = ModuleFacts(size_bytes=100, exports=(MEMORY, START), memories=1, memory_min_pages=17)


def importing(*names: str, facts: ModuleFacts = HANDLER) -> ModuleFacts:
    found = tuple(one for one in EVERY_IMPORT if one.name in names)
    assert len(found) == len(names)
    return replace(facts, imports=found)


def explained(facts: ModuleFacts, policy: bytes | None, abi: bytes = b"handler") -> Explanation:
    parsed = None if policy is None else parse_policy(b"wisp: 1\nabi: " + abi + b"\n" + policy)
    return explain(facts, parsed, FREE, SHIPPED.ceiling)


def rows(explanation: Explanation) -> list[tuple[str, tuple[str, ...], bool, str | None, int | None]]:
    return [(one.name, one.needs, one.granted, one.by, one.line) for one in explanation.imports]


def test_each_import_with_the_line_that_gives_it() -> None:
    found = explained(
        importing("compute", "path_open", "random_get"),
        b"models: [{name: a, model: m}]\nfiles: [{mount: /m, from: bundle, allow: [x]}]\n",
    )
    assert rows(found) == [
        (f"{WASI_MODULE}.path_open", ("files",), True, "files", 4),
        (f"{WASI_MODULE}.random_get", (), True, None, None),
        (f"{NN_MODULE}.compute", ("models", "inline_models"), True, "models", 3),
    ]
    assert found.unused == found.refused == ()


def test_what_is_missing_is_refused_and_proposed() -> None:
    found = explained(importing("load_by_name", "path_open"), b"")
    assert rows(found) == [
        (f"{WASI_MODULE}.path_open", ("files",), False, None, None),
        (f"{NN_MODULE}.load_by_name", ("models", "inline_models"), False, None, None),
    ]
    assert [fault.field for fault in found.refused] == ["models"]  # files are refused one by one, at run time
    least = parse_policy(found.least_policy.encode())
    assert len(least.models) == 1
    assert not least.files
    assert "until files: mounts something" in found.least_policy


def test_what_is_granted_for_nothing_is_named_with_its_line_and_left_out() -> None:
    text = b"models: [{name: a, model: m}]\nenvironment: {A: b}\nclock: real\nrandom: frozen\n"
    text += b"files: [{mount: /l, from: log}]\n"
    found = explained(HANDLER, text)
    assert [(fault.field, fault.line) for fault in found.unused] == [
        ("models", 3),
        ("environment", 4),
        ("clock", 5),
        ("random", 6),
        ("files", 7),
    ]
    least = parse_policy(found.least_policy.encode())
    assert (least.models, least.environment, least.clock, least.files) == ((), {}, None, ())
    used = explained(importing("compute", "environ_get", "clock_time_get", "random_get", "path_open"), text)
    assert used.unused == ()
    kept = parse_policy(used.least_policy.encode())
    assert (kept.environment, kept.clock, kept.random) == ({"A": "b"}, "real", "frozen")
    assert [mount.mount for mount in kept.files] == ["/l"]


def test_what_no_policy_can_mend_stands_in_refused() -> None:
    strange = Import(module="env", name="launch\nmissiles", kind=ExternKind.FUNC)
    wrong = Import(module=WASI_MODULE, name="random_get", kind=ExternKind.FUNC, params=("i64",))
    found = explained(replace(HANDLER, imports=(strange, wrong, wrong)), b"")
    assert [(name, granted) for name, _, granted, _, _ in rows(found)] == [
        ("env.launch\\nmissiles", False),
        (f"{WASI_MODULE}.random_get", False),
    ]
    assert {fault.field for fault in found.refused} == {f"imports.{name}" for name, *_ in rows(found)}


def test_above_the_ceiling_and_not_offered_are_refused_with_their_lines() -> None:
    found = explained(HANDLER, b"limits: {fuel: 900G}\ninline_models: true\n")
    assert {(fault.field, fault.line) for fault in found.refused} >= {("limits.fuel", 3), ("inline_models", 4)}


@pytest.mark.parametrize("pages", [0, 1, 17, 1023, 1024])
def test_the_least_memory_is_enough_to_begin_with(pages: int) -> None:
    facts = replace(HANDLER, memory_min_pages=pages)
    least = parse_policy(least_policy(facts, None, FREE, SHIPPED.ceiling).encode())
    assert admit(facts, narrow(least, FREE, SHIPPED.ceiling)) == ()
    assert least.limits.memory is not None
    assert least.limits.memory <= FREE.limits.memory
    tight = replace(facts, memory_max_pages=pages)
    bounded = parse_policy(least_policy(tight, None, FREE, SHIPPED.ceiling).encode())
    assert bounded.limits.memory == max(pages, 1) * 65536


def test_the_abi_is_what_the_module_looks_like() -> None:
    assert parse_policy(explained(COMMAND, None).least_policy.encode()).abi == "command"
    assert parse_policy(explained(HANDLER, None).least_policy.encode()).abi == "handler"
    both = replace(COMMAND, exports=(MEMORY, START, ALLOC, HANDLE))
    assert parse_policy(explained(both, b"", abi=b"command").least_policy.encode()).abi == "command"
    renamed = replace(COMMAND, exports=(MEMORY, replace(START, name="run")))
    least = parse_policy(explained(renamed, b"entrypoint: run\n", abi=b"command").least_policy.encode())
    assert least.entrypoint == "run"


def test_each_key_that_is_told_about_is_used_by_some_import() -> None:
    for key in Policy.model_fields:
        if is_known(key):
            assert is_used(key, EVERY_IMPORT), key
            assert not is_used(key, ())
    assert SERVED.keys() <= Policy.model_fields.keys()


@given(policies(), classes(), ceilings(), st.sets(st.sampled_from(EVERY_IMPORT), max_size=8), st.integers(0, 2000))
def test_the_least_policy_parses_is_offered_and_asks_for_no_more_than_is_allowed(
    policy: Policy, tenant_class: TenantClass, ceiling: Ceiling, imports: set[Import], pages: int
) -> None:
    base = HANDLER if policy.abi == "handler" else COMMAND
    facts = replace(base, imports=tuple(imports), memory_min_pages=pages)
    least = parse_policy(least_policy(facts, policy, tenant_class, ceiling).encode())
    assert unavailable(least) == ()
    excess = {fault.field for fault in check(least, tenant_class, ceiling)}
    # What cannot be had is still what it would take: more memory than is allowed, a model or a host where
    # there are none.
    assert excess <= {"limits.memory", "models[0]", "models[0].target", "allowed_outbound_hosts[0]"}
    left = [fault.field for fault in admit(facts, narrow(least, tenant_class, ceiling))]
    assert set(left) <= {"limits.memory", "models", "allowed_outbound_hosts"}
    if not excess:
        assert left == []

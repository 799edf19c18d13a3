from __future__ import annotations

from dataclasses import replace

import pytest

from wisp.policy.admission import MAX_FAULTS, admit
from wisp.policy.capabilities import CAPABILITIES, NN_MODULE, WASI_MODULE
from wisp.policy.ceilings import Ceilings, default_policies_dir
from wisp.policy.choices import Abi
from wisp.policy.facts import (
    MAX_EXPORTS,
    MAX_IMPORTS,
    MAX_TABLE_ELEMENTS,
    MAX_TABLES,
    Export,
    ExternKind,
    Import,
    ModuleFacts,
)
from wisp.policy.grants import Grants
from wisp.policy.hostrules import HostRule
from wisp.policy.hosts import parse_host_pattern
from wisp.policy.narrowing import narrow
from wisp.policy.parse import parse_policy

I32 = ("i32",)
MEMORY = Export(name="memory", kind=ExternKind.MEMORY)
ALLOC = Export(name="wisp_alloc", kind=ExternKind.FUNC, params=I32, results=I32)
HANDLE = Export(name="wisp_handle", kind=ExternKind.FUNC, params=("i32", "i32"), results=("i64",))
START = Export(name="_start", kind=ExternKind.FUNC)
HANDLER = ModuleFacts(size_bytes=100, exports=(MEMORY, ALLOC, HANDLE), memories=1, memory_min_pages=17)
EVERY_IMPORT = tuple(
    Import(module=module, name=name, kind=ExternKind.FUNC, params=params, results=results)
    for module, capability in CAPABILITIES.items()
    for name, (params, results) in capability.functions.items()
)


def grants(more: bytes = b"", abi: bytes = b"handler") -> Grants:
    loaded = Ceilings.load(default_policies_dir())
    policy = parse_policy(b"wisp: 1\nabi: " + abi + b"\n" + more)
    return narrow(policy, next(iter(loaded.classes.values())), loaded.ceiling)


def messages(facts: ModuleFacts, in_force: Grants) -> list[tuple[str, str]]:
    return [(fault.field, fault.message) for fault in admit(facts, in_force)]


def test_a_handler() -> None:
    assert admit(HANDLER, grants()) == ()


def test_a_handler_that_imports_everything_there_is() -> None:
    facts = replace(HANDLER, imports=EVERY_IMPORT)
    given = replace(
        grants(b"models: [{name: a, model: m}]\n"),
        allowed_outbound_hosts=(HostRule(pattern=parse_host_pattern("https://a.org")),),
    )
    assert admit(facts, given) == ()


def test_capabilities_that_are_not_granted_name_the_lines_that_would_allow_them() -> None:
    assert messages(replace(HANDLER, imports=EVERY_IMPORT), grants()) == [
        (
            "models",
            'import "wasi_ephemeral_nn" "load" needs the policy to say models or inline_models; '
            "for example models: [{name: classify, model: mobilenet@1}]",
        ),
        (
            "allowed_outbound_hosts",
            'import "wisp" "http_send" needs the policy to say allowed_outbound_hosts; '
            'for example allowed_outbound_hosts: ["https://api.example.com:443"]',
        ),
    ]


def test_what_a_handler_must_export() -> None:
    assert messages(ModuleFacts(size_bytes=8), grants()) == [
        ("exports.memory", "the module does not export a memory called memory; the platform reads and writes it"),
        (
            "exports.wisp_alloc",
            "the module does not export a function wisp_alloc (i32) -> i32; the platform calls it",
        ),
        (
            "exports.wisp_handle",
            "the module does not export a function wisp_handle (i32, i32) -> i64; the platform calls it",
        ),
    ]


def test_exports_of_another_shape() -> None:
    exports = (
        Export(name="memory", kind=ExternKind.FUNC),
        Export(name="wisp_alloc", kind=ExternKind.GLOBAL),
        Export(name="wisp_handle", kind=ExternKind.FUNC, params=("i32", "i32"), results=I32),
        Export(name="_initialize", kind=ExternKind.FUNC, params=("v128",)),
    )
    assert messages(ModuleFacts(size_bytes=8, exports=exports), grants()) == [
        ("exports.memory", "the module does not export a memory called memory; the platform reads and writes it"),
        ("exports.wisp_alloc", "expected a function (i32) -> i32, not a global"),
        ("exports.wisp_handle", "expected (i32, i32) -> i64, not (i32, i32) -> i32"),
        ("exports._initialize", "expected () -> (), not (v128) -> ()"),
    ]


def test_a_program_deployed_as_a_handler() -> None:
    facts = ModuleFacts(size_bytes=8, exports=(MEMORY, START))
    assert messages(facts, grants()) == [
        (
            "exports.wisp_handle",
            "the module does not export the handler's entry points; it has _start: a program, for abi: command",
        )
    ]


def test_a_command() -> None:
    in_force = grants(abi=b"command")
    assert in_force.abi is Abi.COMMAND
    assert admit(ModuleFacts(size_bytes=8, exports=(MEMORY, START)), in_force) == ()
    assert messages(HANDLER, in_force) == [
        ("exports._start", "the module does not export a function _start () -> (); the platform calls it")
    ]
    run = grants(b"entrypoint: run\n", abi=b"command")
    assert messages(ModuleFacts(size_bytes=8, exports=(MEMORY, START)), run) == [
        ("exports.run", "the module does not export a function run () -> (); the platform calls it")
    ]


def test_imports_that_nobody_offers() -> None:
    imports = (
        Import(module="env", name="foo\r\n\x1b", kind=ExternKind.FUNC),
        Import(module=WASI_MODULE, name="fork", kind=ExternKind.FUNC),
        Import(module=WASI_MODULE, name="fd_write", kind=ExternKind.MEMORY),
        Import(module=WASI_MODULE, name="fd_read", kind=ExternKind.FUNC, params=("i64",), results=I32),
        Import(module="x" * 1000, name="y", kind=ExternKind.GLOBAL),
    )
    found = messages(replace(HANDLER, imports=imports), grants())
    assert found == [
        (
            "imports.env.foo\\r\\n\\x1b",
            'unknown import "env" "foo\\r\\n\\x1b"; a guest may import from '
            "wasi_snapshot_preview1, wasi_ephemeral_nn, wisp",
        ),
        (
            "imports.wasi_snapshot_preview1.fork",
            'unknown import "wasi_snapshot_preview1" "fork"; wasi_snapshot_preview1 has no such function',
        ),
        (
            "imports.wasi_snapshot_preview1.fd_write",
            'import "wasi_snapshot_preview1" "fd_write" is a memory; only functions are offered',
        ),
        (
            "imports.wasi_snapshot_preview1.fd_read",
            'import "wasi_snapshot_preview1" "fd_read": expected (i32, i32, i32, i32) -> i32, not (i64) -> i32',
        ),
        (
            f"imports.{'x' * 64}....y",
            f'unknown import "{"x" * 64}..." "y"; a guest may import from '
            "wasi_snapshot_preview1, wasi_ephemeral_nn, wisp",
        ),
    ]


def test_the_memory_it_begins_with_must_fit() -> None:
    fits = replace(HANDLER, memory_min_pages=512)
    assert admit(fits, grants(b"limits: {memory: 32Mi}\n")) == ()
    (fault,) = admit(replace(fits, memory_min_pages=513), grants(b"limits: {memory: 32Mi}\n"))
    assert (fault.field, fault.asked, fault.allowed) == ("limits.memory", "32832Ki", "32Mi")
    assert admit(replace(fits, memory_min_pages=2**48), grants()) != ()


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        (replace(HANDLER, memories=2), "memories"),
        (replace(HANDLER, tables=MAX_TABLES + 1), "tables"),
        (replace(HANDLER, table_min_elements=MAX_TABLE_ELEMENTS + 1), "tables"),
        (replace(HANDLER, imports=(EVERY_IMPORT[0],) * (MAX_IMPORTS + 1)), "imports"),
        (replace(HANDLER, exports=HANDLER.exports + (START,) * (MAX_EXPORTS - 2)), "exports"),
    ],
)
def test_counts_are_bounded(facts: ModuleFacts, field: str) -> None:
    assert [fault.field for fault in admit(facts, grants())] == [field]


def test_counts_at_their_bounds() -> None:
    facts = replace(
        HANDLER,
        tables=MAX_TABLES,
        table_min_elements=MAX_TABLE_ELEMENTS,
        imports=(EVERY_IMPORT[0],) * MAX_IMPORTS,
        exports=HANDLER.exports + (START,) * (MAX_EXPORTS - 3),
    )
    assert admit(facts, grants()) == ()


def test_the_number_and_length_of_faults_is_bounded() -> None:
    long = Import(module=WASI_MODULE, name="fd_read", kind=ExternKind.FUNC, params=("v128",) * 1000)
    faults = admit(replace(HANDLER, imports=(long,) * MAX_IMPORTS), grants())
    assert len(faults) == MAX_FAULTS
    assert all(len(fault.message) < 400 for fault in faults)


def test_one_refusal_for_a_whole_capability() -> None:
    imports = tuple(one for one in EVERY_IMPORT if one.module == NN_MODULE)
    assert len(admit(replace(HANDLER, imports=imports), grants())) == 1

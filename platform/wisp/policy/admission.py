"""Whether a module, by its facts, may be deployed under its grants. Data only: nothing of the module is touched here.

All faults at once; the caller raises them as InvalidModule. Names from the module are escaped and cut before they stand
in a message.
"""

from __future__ import annotations

from collections.abc import Iterator

from wisp.errors import Fault
from wisp.policy.capabilities import CAPABILITIES, Capability, print_signature
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
from wisp.policy.quantity import PAGE_BYTES, print_size
from wisp.policy.shown import shown_text

MAX_FAULTS = 100

_HANDLER_EXPORTS = {
    "wisp_alloc": (("i32",), ("i32",)),
    "wisp_handle": (("i32", "i32"), ("i64",)),
}
_INITIALIZE = "_initialize"


def admit(facts: ModuleFacts, grants: Grants) -> tuple[Fault, ...]:
    """What stands against deploying it; nothing means that it links and has its entry points."""
    faults: list[Fault] = []
    for fault in (*_shape(facts, grants), *_abi(facts, grants), *_imports(facts, grants)):
        if len(faults) < MAX_FAULTS:
            faults.append(fault)
    return tuple(faults)


def _shape(facts: ModuleFacts, grants: Grants) -> Iterator[Fault]:
    if len(facts.imports) > MAX_IMPORTS:
        yield Fault(field="imports", message=f"more than {MAX_IMPORTS} imports", allowed=str(MAX_IMPORTS))
    if len(facts.exports) > MAX_EXPORTS:
        yield Fault(field="exports", message=f"more than {MAX_EXPORTS} exports", allowed=str(MAX_EXPORTS))
    if facts.memories > 1:
        yield Fault(field="memories", message="more than one memory", asked=str(facts.memories), allowed="1")
    if facts.tables > MAX_TABLES:
        message = f"more than {MAX_TABLES} tables"
        yield Fault(field="tables", message=message, asked=str(facts.tables), allowed=str(MAX_TABLES))
    if facts.table_min_elements > MAX_TABLE_ELEMENTS:
        yield Fault(
            field="tables",
            message=f"a table begins with more than {MAX_TABLE_ELEMENTS} elements",
            asked=str(facts.table_min_elements),
            allowed=str(MAX_TABLE_ELEMENTS),
        )
    memory_bytes = facts.memory_min_pages * PAGE_BYTES
    if memory_bytes > grants.memory_bytes:
        asked, allowed = print_size(memory_bytes), print_size(grants.memory_bytes)
        yield Fault(
            field="limits.memory",
            message=f"the module's memory begins at {asked} and the policy grants {allowed}; ask for limits.memory: "
            f"{asked} or more, or link it with a smaller initial memory",
            asked=asked,
            allowed=allowed,
        )


def _abi(facts: ModuleFacts, grants: Grants) -> Iterator[Fault]:
    exports = {export.name: export for export in facts.exports}
    memory = exports.get("memory")
    if memory is None or memory.kind is not ExternKind.MEMORY:
        yield _missing("memory", "a memory called memory", "the platform reads and writes it")
    if grants.abi is Abi.COMMAND:
        entrypoint = grants.entrypoint or "_start"
        yield from _entry(exports, entrypoint, (), ())
        if _INITIALIZE in exports:
            yield from _entry(exports, _INITIALIZE, (), ())
        return
    if "wisp_handle" not in exports and "_start" in exports:
        yield _missing("wisp_handle", "the handler's entry points", "it has _start: a program, for abi: command")
        return
    for name, (params, results) in _HANDLER_EXPORTS.items():
        yield from _entry(exports, name, params, results)
    if _INITIALIZE in exports:
        yield from _entry(exports, _INITIALIZE, (), ())


def _entry(exports: dict[str, Export], name: str, params: tuple[str, ...], results: tuple[str, ...]) -> Iterator[Fault]:
    export, expected = exports.get(name), print_signature(params, results)
    if export is None:
        yield _missing(name, f"a function {shown_text(name)} {expected}", "the platform calls it")
    elif export.kind is not ExternKind.FUNC:
        message = f"expected a function {expected}, not a {export.kind}"
        yield Fault(field=f"exports.{shown_text(name)}", message=message, asked=export.kind, allowed=expected)
    elif (export.params, export.results) != (params, results):
        actual = _signature(export)
        message = f"expected {expected}, not {actual}"
        yield Fault(field=f"exports.{shown_text(name)}", message=message, asked=actual, allowed=expected)


def _missing(name: str, what: str, why: str) -> Fault:
    return Fault(field=f"exports.{shown_text(name)}", message=f"the module does not export {what}; {why}")


def _imports(facts: ModuleFacts, grants: Grants) -> Iterator[Fault]:
    refused: set[str] = set()
    for one in facts.imports:
        capability = CAPABILITIES.get(one.module)
        if capability is None or one.name not in capability.functions:
            message = f"unknown import {_quoted(one)}; {_known(capability)}"
            yield Fault(field=_field(one), message=message)
        elif one.kind is not ExternKind.FUNC:
            message = f"import {_quoted(one)} is a {one.kind}; only functions are offered"
            yield Fault(field=_field(one), message=message, asked=one.kind, allowed="func")
        else:
            params, results = capability.functions[one.name]
            if (one.params, one.results) != (params, results):
                expected, actual = print_signature(params, results), _signature(one)
                message = f"import {_quoted(one)}: expected {expected}, not {actual}"
                yield Fault(field=_field(one), message=message, asked=actual, allowed=expected)
            if one.module not in refused and not _granted(capability, grants):
                refused.add(one.module)
                yield Fault(
                    field=capability.needs[0],
                    message=f"import {_quoted(one)} needs the policy to say {' or '.join(capability.needs)}; "
                    f"for example {capability.hint}",
                )


def _granted(capability: Capability, grants: Grants) -> bool:
    return not capability.needs or any(getattr(grants, key) for key in capability.needs)


def _known(capability: Capability | None) -> str:
    if capability is None:
        return f"a guest may import from {', '.join(CAPABILITIES)}"
    return f"{capability.module} has no such function"


def _signature(one: Import | Export) -> str:
    """An actual signature, cut: a type may have a thousand parameters."""
    text = print_signature(one.params[:16], one.results[:16])
    return text if max(len(one.params), len(one.results)) <= 16 else f"{text} and more"


def _quoted(one: Import) -> str:
    return f'"{shown_text(one.module)}" "{shown_text(one.name)}"'


def _field(one: Import) -> str:
    return f"imports.{shown_text(one.module)}.{shown_text(one.name)}"

"""`wisp policy`: check, explain, compare and describe documents, without a server."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wisp.code import compile_limits
from wisp.errors import Fault, InvalidPolicy, WispError
from wisp.inspection import read_facts
from wisp.names import parse_class
from wisp.policy.ceilings import Ceilings, default_policies_dir
from wisp.policy.differences import Effect, document_changes
from wisp.policy.document import read
from wisp.policy.explanation import Explanation, explain
from wisp.policy.facts import ModuleFacts
from wisp.policy.jsonschema import json_schema
from wisp.policy.offer import unavailable
from wisp.policy.parse import parse_ceiling, parse_policy
from wisp.policy.parse import parse_class as parse_class_document
from wisp.policy.scanner import MAX_BYTES
from wisp.policy.schema import Ceiling, Policy, TenantClass
from wisp.scheduling.children import make_empty_directory
from wisp.scheduling.compilers import Compilers

SIGNS = {Effect.GAINS: "+", Effect.LOSES: "-", Effect.CHANGES: "~"}

policy = typer.Typer(name="policy", help="Look at policies, ceilings and tenant classes; no server is needed.")


class Kind(StrEnum):
    POLICY = "policy"
    CEILING = "ceiling"
    CLASS = "class"


Files = Annotated[list[Path], typer.Argument(metavar="FILE...", show_default=False)]
Policies = Annotated[
    Path | None, typer.Option("--policies", metavar="DIR", help="the operator's documents; else as shipped")
]
ClassOption = Annotated[str, typer.Option("--class", metavar="NAME", help="the tenant's class")]


@policy.command(short_help="Print every fault of documents, by line.")
def check(files: Files) -> None:
    """Print every fault of these documents, with its line and column; 1 if there are any."""
    faults = 0
    for file in files:
        for fault in _faults(file):
            faults += 1
            print(f"{file}:{fault.line or 1}:{fault.column or 1}: {fault.field}: {fault.message}")
    if faults:
        print(f"{faults} fault{'' if faults == 1 else 's'} in {len(files)} file{'' if len(files) == 1 else 's'}")
    raise typer.Exit(1 if faults else 0)


@policy.command(name="explain", short_help="Say why a module may run, or not.")
def explain_module(
    module: Annotated[Path, typer.Argument(metavar="MODULE", show_default=False)],
    policy: Annotated[Path | None, typer.Argument(metavar="[POLICY]", show_default=False)] = None,
    policies: Policies = None,
    class_name: ClassOption = "free",
    as_json: Annotated[bool, typer.Option("--json", help="as POST /v1/policies:explain answers")] = False,
) -> None:
    """Say what a module needs, what a policy grants it, and the least policy that would do; 1 if it is refused."""
    logging.getLogger("wisp").addHandler(logging.NullHandler())  # what a platform would log of its children
    try:
        asked = None if policy is None else parse_policy(_text(policy))
        ceilings = Ceilings.load(policies or default_policies_dir())
        tenant_class = ceilings.for_class(parse_class(class_name))
        facts = asyncio.run(_facts(module, ceilings))
    except InvalidPolicy as error:
        for fault in error.faults:
            print(f"{policy or policies}:{fault.line or 1}:{fault.column or 1}: {fault.field}: {fault.message}")
        raise typer.Exit(1) from error
    except (WispError, OSError) as error:
        raise _ended(f"{module}: {error}") from error
    found = explain(facts, asked, tenant_class, ceilings.ceiling)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        _print(found)
    raise typer.Exit(1 if found.refused else 0)


async def _facts(module: Path, ceilings: Ceilings) -> ModuleFacts:
    with tempfile.TemporaryDirectory(prefix="wisp-") as directory:
        compilers = Compilers(empty_directory=make_empty_directory(Path(directory)))
        return await read_facts(compilers, module, compile_limits(ceilings))


@policy.command(short_help="Say what is gained and lost, by field.")
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", show_default=False)],
    new: Annotated[Path, typer.Argument(metavar="NEW", show_default=False)],
) -> None:
    """Say, field by field, what whoever stands under a document gains (+), loses (-) or finds changed (~)."""
    before, after = _document(old), _document(new)
    if type(before) is not type(after):
        raise _ended(f"{old} is a {before.kind_name}, {new} a {after.kind_name}: nothing to compare")
    for change in document_changes(before, after):
        print(f"{SIGNS[change.effect]} {change.field}: {change.before or '(nothing)'} -> {change.after or '(nothing)'}")


@policy.command()
def schema(kind: Annotated[Kind, typer.Argument(show_default=False)] = Kind.POLICY) -> None:
    """Print the JSON Schema of a kind of document."""
    print(json.dumps(json_schema(kind.value), indent=2))


def _print(found: Explanation) -> None:
    print("imports:")
    for one in found.imports:
        how = "everybody has it"
        if one.needs:
            line = "" if one.line is None else f", line {one.line}"
            how = f"by {one.by}{line}" if one.by else f"needs {' or '.join(one.needs)}{line}"
        print(f"  {'yes' if one.granted else 'no '}  {one.name}: {how}")
    for title, faults in (("unused", found.unused), ("refused", found.refused)):
        if faults:
            print(f"{title}:")
            for fault in faults:
                print(f"  {fault.field}{'' if fault.line is None else f', line {fault.line}'}: {fault.message}")
    print("least policy:")
    print("".join(f"  {line}\n" for line in found.least_policy.splitlines()), end="")


def _text(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(MAX_BYTES + 1)  # one more is enough to be refused


def _parse(text: bytes) -> Policy | Ceiling | TenantClass:
    value = read(text).value
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind == "ceiling":
        return parse_ceiling(text)
    if kind == "class":
        return parse_class_document(text)
    return parse_policy(text)


def _faults(file: Path) -> tuple[Fault, ...]:
    try:
        parsed = _parse(_text(file))
    except InvalidPolicy as error:
        return error.faults
    except OSError as error:
        return (Fault(field="document", message=f"it cannot be read: {error.strerror}"),)
    return unavailable(parsed) if isinstance(parsed, Policy) else ()


def _document(file: Path) -> Policy | Ceiling | TenantClass:
    try:
        return _parse(_text(file))
    except InvalidPolicy as error:
        raise _ended(f"{file}: {error.message}") from error
    except OSError as error:
        raise _ended(f"{file}: {error.strerror}") from error


def _ended(message: str) -> typer.Exit:
    print(f"wisp: {message}", file=sys.stderr)
    return typer.Exit(2)

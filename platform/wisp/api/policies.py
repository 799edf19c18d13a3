"""`/v1/policies`: the operator's documents and their history; and why a module may run under a policy, or not."""

from __future__ import annotations

import asyncio
from typing import Final, Literal

from starlette.responses import Response

from wisp.api.authentication import Right, refuse_suspended
from wisp.api.moments import moment
from wisp.api.multipart import Caps, boundary_of
from wisp.api.operations import BODY_ERRORS, Context, Form, Operation, document, listing
from wisp.api.preconditions import expected, tagged
from wisp.api.uploads import received_function
from wisp.code import compile_limits
from wisp.errors import (
    Conflict,
    ExceedsCeiling,
    InvalidModule,
    InvalidName,
    InvalidPolicy,
    InvalidRequest,
    NotFound,
)
from wisp.forecast import foresee
from wisp.inspection import read_facts
from wisp.names import ClassName, parse_class
from wisp.policy.ceilings import CEILING, Ceilings, check_document, class_of
from wisp.policy.differences import document_changes
from wisp.policy.explanation import explain
from wisp.policy.jsonschema import json_schema
from wisp.policy.parse import parse_policy
from wisp.policy.scanner import MAX_BYTES
from wisp.policy.schema import Ceiling, TenantClass
from wisp.policy.textdiff import unified_diff
from wisp.registry.policies import PolicyText

YAML = "application/yaml"
SCHEMA = "application/schema+json"
DEFAULT_CLASS = "free"
KINDS: Final[tuple[Literal["policy", "ceiling", "class"], ...]] = ("policy", "ceiling", "class")


def _named(context: Context) -> str:
    """The document in the path, spelled as documents are; raises `InvalidName`."""
    name: str = context.request.path_params["name"]
    try:
        return name if name == CEILING else f"class-{class_of(name)}"
    except InvalidPolicy as error:
        raise InvalidName(error.message, error.faults) from error


def _known(context: Context) -> PolicyText:
    name: str = context.request.path_params["name"]
    found = context.node.book.documents.get(name)
    if found is None:
        raise NotFound(f"there is no policy {name[:80]!a}; there are: {', '.join(context.node.book.documents)}")
    return found


def show(change: PolicyText) -> dict[str, object]:
    return {
        "name": change.name,
        "source": change.source.value,
        "generation": change.generation,
        "digest": change.digest,
        "author": change.author,
        "updated": moment(change.changed_at),
    }


async def list_all(context: Context) -> Response:
    book = context.node.book
    rows = []
    for name in sorted({*book.documents, *book.faults}):
        known = book.documents.get(name)
        row: dict[str, object] = {"name": name, "source": book.source.value} if known is None else show(known)
        if name in book.faults:
            row["faults"] = [fault.as_json() for fault in book.faults[name]]
        if name == CEILING and book.waits_for_restart:
            row["note"] = "limits.response_body and limits.logs hold in full when this node starts again"
        rows.append(row)
    return listing(rows)


async def get(context: Context) -> Response:
    found = _known(context)
    return tagged(Response(found.text, media_type=YAML), found.digest)


async def put(context: Context) -> Response:
    name = _named(context)
    text = await context.read(MAX_BYTES, "a policy")
    former = expected(context)
    if context.switch("dry_run", default=False):
        return document(await _foreseen(context, name, text))
    placed = await context.node.book.put(name, text, author=context.caller.author, expected=former)
    shown = show(placed.document) | {"changed": placed.changed, "pending": list(placed.pending)}
    return tagged(document(shown, 202 if placed.pending else 200), placed.document.digest)


async def _foreseen(context: Context, name: str, text: bytes) -> dict[str, object]:
    await asyncio.to_thread(check_document, name, text)
    before = context.node.ceilings
    after = (await asyncio.to_thread(context.node.book.read_as, name, text)).ceilings
    touched = await foresee(context.node.registry, before, after)
    former, latter = _parsed(before, name), _parsed(after, name)
    assert latter is not None
    changes = () if former is None else document_changes(former, latter)
    return {
        "name": name,
        "dry_run": True,
        "new": former is None,
        "changes": [change.as_json() for change in changes],
        "items": [
            {
                "tenant": one.tenant,
                "function": one.function,
                "version": one.version,
                "changes": [change.as_json() for change in one.changes],
            }
            for one in touched
        ],
    }


def _parsed(ceilings: Ceilings, name: str) -> Ceiling | TenantClass | None:
    return ceilings.ceiling if name == CEILING else ceilings.classes.get(class_of(name))


async def history(context: Context) -> Response:
    name: str = context.request.path_params["name"]
    changes = await context.node.registry.policies.history(name)
    if not changes:
        _known(context)
    return listing(await asyncio.to_thread(_with_differences, changes))


def _with_differences(changes: tuple[PolicyText, ...]) -> list[dict[str, object]]:
    """Latest first. What the oldest that is kept changed is known only if it was the first."""
    rows: list[dict[str, object]] = []
    for change, former in zip(changes, (*changes[1:], None), strict=True):
        difference = unified_diff(None if former is None else former.text, change.text, change.name)
        rows.append(show(change) | {"diff": difference})
    return rows


async def explain_module(context: Context) -> Response:
    ceilings = context.node.ceilings
    tenant_class = ceilings.for_class(await _class_of_caller(context))
    limits = compile_limits(ceilings)
    async with received_function(
        context.request.receive,
        context.node.staging,
        boundary=boundary_of(context.request.headers.get("content-type", "")),
        length=context.length,
        caps=Caps(module_bytes=limits.module_bytes, policy_bytes=MAX_BYTES, bundle_bytes=0),
        idle_s=context.node.settings.body_timeout_s,
    ) as upload:
        policy = await asyncio.to_thread(parse_policy, upload.policy)
        facts = await read_facts(context.node.stores.code.compilers, upload.module, limits)
    return document((await asyncio.to_thread(explain, facts, policy, tenant_class, ceilings.ceiling)).as_json())


async def _class_of_caller(context: Context) -> ClassName:
    """A tenant's own; the operator says which."""
    asked = context.request.query_params.get("class")
    if context.caller.key is None:
        return parse_class(asked or DEFAULT_CLASS)
    if asked is not None:
        raise InvalidRequest("?class= is for the operator's key; a tenant's is judged by its own class")
    tenant = await context.node.registry.tenants.get(context.caller.key.tenant)
    refuse_suspended(context.caller, tenant)
    return tenant.class_name


async def schema(context: Context) -> Response:
    name: str = context.request.path_params["document"]
    for kind in KINDS:
        if name == f"{kind}.json":
            response = document(json_schema(kind))
            response.headers["content-type"] = SCHEMA
            return response
    raise NotFound(f"there are the schemas {', '.join(f'{kind}.json' for kind in KINDS)}")


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/policies",
        name="listPolicies",
        summary="The operator's documents in force, and what is wrong with those that are not taken over.",
        right=Right.OPERATOR,
        handler=list_all,
        answers=((200, "the documents, by name"),),
    ),
    Operation(
        method="GET",
        path="/v1/policies/{name}",
        name="getOperatorPolicy",
        summary="One of the operator's documents as it was written: ceiling, or class-<name>.",
        right=Right.OPERATOR,
        handler=get,
        media_type=YAML,
        answers=((200, "the document; its ETag is its digest"),),
        raises=(NotFound,),
    ),
    Operation(
        method="PUT",
        path="/v1/policies/{name}",
        name="putOperatorPolicy",
        summary="Change one of the operator's documents, or add a class; running functions stand under it at once.",
        right=Right.OPERATOR,
        handler=put,
        query=(("dry_run", "1: change nothing, list the functions whose grants would change"),),
        body=Form(media_type=YAML),
        answers=((200, "in force on every live node"), (202, "stored; the nodes in pending have not applied it yet")),
        conditional=True,
        raises=(*BODY_ERRORS, InvalidName, InvalidPolicy, Conflict),
    ),
    Operation(
        method="GET",
        path="/v1/policies/{name}/history",
        name="listPolicyChanges",
        summary="The newest changes of one of the operator's documents, latest first: who, when, and what.",
        right=Right.OPERATOR,
        handler=history,
        answers=((200, "the changes, each with a unified diff"),),
        raises=(NotFound,),
    ),
    Operation(
        method="POST",
        path="/v1/policies:explain",
        name="explainPolicy",
        summary="What a module needs, what a policy grants it and what it would be refused for; nothing is deployed.",
        right=Right.KEY,
        handler=explain_module,
        query=(("class", "the operator's choice of tenant class, else free; a tenant's key means its own"),),
        body=Form(media_type="multipart/form-data", parts=(("module", "binary"), ("policy", "text"))),
        answers=((200, "the explanation"),),
        raises=(*BODY_ERRORS, InvalidName, InvalidModule, InvalidPolicy, ExceedsCeiling, NotFound),
    ),
    Operation(
        method="GET",
        path="/v1/schemas/{document}",
        name="getSchema",
        summary="JSON Schema of the documents, for editors: policy.json, ceiling.json or class.json.",
        right=Right.NOBODY,
        handler=schema,
        media_type=SCHEMA,
        answers=((200, "JSON Schema 2020-12"),),
        raises=(NotFound,),
    ),
)

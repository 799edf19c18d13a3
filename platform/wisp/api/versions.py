"""`…/versions`, `…/activate`, `…/history`: what a function was, is, and may be again."""

from __future__ import annotations

from starlette.responses import Response

from wisp.api.authentication import Right
from wisp.api.bodies import Activation
from wisp.api.functions import BASE, GONE, show, show_traffic
from wisp.api.moments import moment
from wisp.api.operations import BODY_ERRORS, Context, Operation, document, listing, nothing
from wisp.api.preconditions import expected, tagged
from wisp.errors import InUse, NotFound
from wisp.registry.history import Change
from wisp.registry.records import Function, Version

MAX_DIGITS = 15


def show_version(version: Version, function: Function) -> dict[str, object]:
    """`percent`: its part of the requests."""
    active = version.number == function.active
    shares = () if function.traffic is None else function.traffic.split
    part = sum(share.percent for share in shares if share.version == version.number)
    return {
        "version": version.number,
        "digest": version.content_digest,
        "module": version.module,
        "module_bytes": version.module_bytes,
        "abi": version.abi,
        "active": active,
        "percent": part if shares else 100 * active,
        "models": [
            {"name": pin.name, "model": pin.model, "version": pin.version, "digest": pin.digest, "shared": pin.shared}
            for pin in version.models
        ],
        "files": [{"path": file.path, "digest": file.digest, "bytes": file.size_bytes} for file in version.bundle],
        "warnings": list(version.warnings),
        "author": version.author,
        "created": moment(version.created_at),
    }


def show_change(change: Change) -> dict[str, object]:
    return {
        "number": change.number,
        "revision": change.revision,
        "action": change.action.value,
        "version": change.version,
        "active": change.active,
        "traffic": show_traffic(change.traffic),
        "author": change.author,
        "message": change.message,
        "time": moment(change.at),
    }


def _number(context: Context) -> int:
    """The version in the path. Raises `NotFound` for what no version can be called."""
    text: str = context.request.path_params["version"]
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS) or text.startswith("0"):
        raise NotFound(f"{text[:80]!a} is no version's number")
    return int(text)


async def list_all(context: Context) -> Response:
    functions = context.node.registry.functions
    function = await functions.get(context.owner, context.function)
    found = await functions.versions(context.owner, context.function)
    return tagged(listing([show_version(version, function) for version in found]), function.revision)


async def get(context: Context) -> Response:
    functions = context.node.registry.functions
    function = await functions.get(context.owner, context.function)
    version = await functions.version(context.owner, function.name, _number(context))
    return tagged(document(show_version(version, function)), version.content_digest)


async def delete(context: Context) -> Response:
    name, number = context.function, _number(context)
    await context.node.registry.functions.delete_version(
        context.owner, name, number, author=context.caller.author, expected=expected(context)
    )
    await context.node.snapshot.settle(context.owner, name)
    return nothing()


async def activate(context: Context) -> Response:
    name = context.function
    wanted = await context.json(Activation)
    function = await context.node.registry.functions.activate(
        context.owner,
        name,
        wanted.version,
        author=context.caller.author,
        message=wanted.message,
        expected=expected(context),
    )
    await context.node.snapshot.settle(context.owner, name)
    return tagged(document(show(function)), function.revision)


async def history(context: Context) -> Response:
    changes = await context.node.registry.functions.history(context.owner, context.function)
    return listing([show_change(change) for change in changes])


OPERATIONS = (
    Operation(
        method="GET",
        path=f"{BASE}/{{function}}/versions",
        name="listVersions",
        summary="The function's versions, ascending.",
        right=Right.TENANT,
        handler=list_all,
        answers=((200, "the versions; the ETag is the function's"),),
        raises=GONE,
    ),
    Operation(
        method="GET",
        path=f"{BASE}/{{function}}/versions/{{version}}",
        name="getVersion",
        summary="One version.",
        right=Right.TENANT,
        handler=get,
        answers=((200, "the version; its ETag is its digest"),),
        raises=GONE,
    ),
    Operation(
        method="DELETE",
        path=f"{BASE}/{{function}}/versions/{{version}}",
        name="deleteVersion",
        summary="Remove one version that does not answer; its number is never used again.",
        right=Right.TENANT,
        handler=delete,
        answers=((204, "gone"),),
        conditional=True,
        raises=(*GONE, InUse),
    ),
    Operation(
        method="POST",
        path=f"{BASE}/{{function}}/activate",
        name="activateVersion",
        summary="Let another version answer, forward or back, and it alone.",
        right=Right.TENANT,
        handler=activate,
        body=Activation,
        answers=((200, "the function"),),
        conditional=True,
        raises=(*BODY_ERRORS, *GONE),
    ),
    Operation(
        method="GET",
        path=f"{BASE}/{{function}}/history",
        name="listFunctionChanges",
        summary="The newest changes of a function, latest first: who, when, what and why.",
        right=Right.TENANT,
        handler=history,
        answers=((200, "the changes"),),
        raises=GONE,
    ),
)

"""`/v1/tenants/{tenant}/keys`: secrets are shown once. A deploy key sees, makes and removes invoke keys only."""

from __future__ import annotations

from starlette.responses import Response

from wisp.api.authentication import Right
from wisp.api.bodies import NewKey
from wisp.api.moments import moment
from wisp.api.operations import BODY_ERRORS, Context, Operation, document, listing, nothing
from wisp.errors import Forbidden, InvalidName, InvalidRequest, NotFound
from wisp.names import parse_function, parse_key_id
from wisp.registry.records import Key, Role


def show(key: Key) -> dict[str, object]:
    functions = None if key.functions is None else list(key.functions)
    return {"id": key.id, "role": key.role.value, "functions": functions, "created": moment(key.created_at)}


def may_touch(context: Context, role: Role) -> bool:
    return context.caller.operator or role is Role.INVOKE


async def create(context: Context) -> Response:
    wanted = await context.json(NewKey)
    role = Role(wanted.role)
    if not may_touch(context, role):
        raise Forbidden("a deploy key makes invoke keys; deploy keys are the operator's to make")
    if wanted.functions is not None and role is not Role.INVOKE:
        raise InvalidRequest("functions: only an invoke key is bound to some functions")
    functions = None if wanted.functions is None else tuple(sorted({parse_function(f) for f in wanted.functions}))
    key, secret = await context.node.registry.keys.issue(context.owner, role, functions)
    context.node.snapshot.doubt_key(context.owner, key.id)
    return document(show(key) | {"secret": secret}, 201)


async def list_all(context: Context) -> Response:
    keys = await context.node.registry.keys.list(context.owner)
    return listing([show(key) for key in keys if may_touch(context, key.role)])


async def delete(context: Context) -> Response:
    key_id = parse_key_id(context.request.path_params["key"])
    found = [key for key in await context.node.registry.keys.list(context.owner) if key.id == key_id]
    if not found:
        raise NotFound(f"{context.owner} has no key {key_id}")
    if not may_touch(context, found[0].role):
        raise Forbidden("a deploy key removes invoke keys; deploy keys are the operator's to remove")
    await context.node.registry.keys.revoke(context.owner, key_id)
    context.node.snapshot.doubt_key(context.owner, key_id)
    return nothing()


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/tenants/{tenant}/keys",
        name="createKey",
        summary="Make a key; its secret is shown once.",
        right=Right.TENANT,
        handler=create,
        body=NewKey,
        answers=((201, "the key and its secret"),),
        raises=(*BODY_ERRORS, InvalidName, NotFound),
    ),
    Operation(
        method="GET",
        path="/v1/tenants/{tenant}/keys",
        name="listKeys",
        summary="The tenant's keys, oldest first; a deploy key sees invoke keys.",
        right=Right.TENANT,
        handler=list_all,
        answers=((200, "the keys, without secrets"),),
        raises=(InvalidName, NotFound),
    ),
    Operation(
        method="DELETE",
        path="/v1/tenants/{tenant}/keys/{key}",
        name="deleteKey",
        summary="Revoke a key.",
        right=Right.TENANT,
        handler=delete,
        answers=((204, "gone"),),
        raises=(InvalidName, NotFound),
    ),
)

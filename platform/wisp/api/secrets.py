"""`…/secrets`: values go in and never come out; a function gets those that its policy names, as its environment."""

from __future__ import annotations

from starlette.responses import Response

from wisp.api.authentication import Right
from wisp.api.operations import BODY_ERRORS, Context, Form, Operation, document, listing, nothing
from wisp.errors import InvalidName, NotFound, StorageQuota
from wisp.registry.secrets import MAX_VALUE_BYTES, parse_secret_name

BASE = "/v1/tenants/{tenant}/secrets"


def _name(context: Context) -> str:
    """Raises `InvalidName`."""
    return parse_secret_name(context.request.path_params["secret"])


async def list_all(context: Context) -> Response:
    return listing([{"secret": name} for name in await context.node.secrets.names(context.owner)])


async def put(context: Context) -> Response:
    name = _name(context)
    value = await context.read(MAX_VALUE_BYTES, "a secret")
    created = await context.node.secrets.put(context.owner, name, value)
    context.node.snapshot.end(context.owner)
    return document({"secret": name}, 201 if created else 200)


async def delete(context: Context) -> Response:
    await context.node.secrets.delete(context.owner, _name(context))
    context.node.snapshot.end(context.owner)
    return nothing()


OPERATIONS = (
    Operation(
        method="GET",
        path=BASE,
        name="listSecrets",
        summary="The names of the tenant's secrets.",
        right=Right.TENANT,
        handler=list_all,
        answers=((200, "the names"),),
        raises=(InvalidName, NotFound),
    ),
    Operation(
        method="PUT",
        path=f"{BASE}/{{secret}}",
        name="putSecret",
        summary="Set a secret to the body. Functions whose policy names it have it from the next request on.",
        right=Right.TENANT,
        handler=put,
        body=Form(media_type="application/octet-stream"),
        answers=((200, "it has a new value"), (201, "it is new")),
        raises=(*BODY_ERRORS, InvalidName, NotFound, StorageQuota),
    ),
    Operation(
        method="DELETE",
        path=f"{BASE}/{{secret}}",
        name="deleteSecret",
        summary="Remove a secret; functions that name it go on without it.",
        right=Right.TENANT,
        handler=delete,
        answers=((204, "gone"),),
        raises=(InvalidName, NotFound),
    ),
)

"""`/v1/tenants`: the operator makes, changes and removes tenants."""

from __future__ import annotations

from starlette.responses import Response

from wisp.api.authentication import Right
from wisp.api.bodies import NewTenant, TenantPatch
from wisp.api.moments import moment
from wisp.api.operations import BODY_ERRORS, Context, Operation, document, listing, nothing
from wisp.api.preconditions import expected, tagged
from wisp.errors import Conflict, Fault, InvalidName, InvalidRequest, NotFound
from wisp.names import ClassName, parse_class, parse_tenant
from wisp.registry.credentials import new_key
from wisp.registry.records import Role, Tenant


def show(tenant: Tenant) -> dict[str, object]:
    return {
        "tenant": tenant.name,
        "class": tenant.class_name,
        "suspended": tenant.suspended,
        "created": moment(tenant.created_at),
    }


def known_class(context: Context, text: str) -> ClassName:
    """Raises `InvalidName`, also for a class that no document describes."""
    name = parse_class(text)
    try:
        context.node.ceilings.for_class(name)
    except NotFound as error:
        raise InvalidName(error.message, (Fault(field="class", message=error.message),)) from error
    return name


async def create(context: Context) -> Response:
    wanted = await context.json(NewTenant)
    registry = context.node.registry
    name = parse_tenant(wanted.tenant)
    key, secret = new_key(name, Role.DEPLOY)
    tenant = await registry.tenants.create(name, known_class(context, wanted.class_name), key)
    context.node.snapshot.invalidate(tenant.name)
    shown = show(tenant)
    shown["key"] = {"id": key.id, "role": key.role.value, "secret": secret}
    return document(shown, 201)


async def list_all(context: Context) -> Response:
    return listing([show(tenant) for tenant in await context.node.registry.tenants.list()])


async def get(context: Context) -> Response:
    assert context.tenant is not None
    return tagged(document(show(context.tenant)), context.tenant.revision)


async def change(context: Context) -> Response:
    wanted = await context.json(TenantPatch)
    if wanted.class_name is None and wanted.suspended is None:
        raise InvalidRequest("give class or suspended, or both")
    class_name = None if wanted.class_name is None else known_class(context, wanted.class_name)
    tenant = await context.node.registry.tenants.patch(
        context.owner, class_name=class_name, suspended=wanted.suspended, expected=expected(context)
    )
    if tenant.suspended:
        context.node.snapshot.suspend(tenant.name, None, tenant.revision)
    else:
        context.node.snapshot.end(tenant.name)
    return tagged(document(show(tenant)), tenant.revision)


async def delete(context: Context) -> Response:
    functions = await context.node.registry.functions.list(context.owner)
    await context.node.registry.tenants.delete(context.owner, expected=expected(context))
    context.node.snapshot.invalidate(context.owner)
    for function in functions:
        context.node.tenantlog.forget(context.owner, function.name)
        context.node.denials.forget(context.owner, function.name)
    context.node.ledger.forget(context.owner)
    context.metrics.forget(context.owner)
    return nothing()


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/tenants",
        name="createTenant",
        summary="Make a tenant and its first deploy key, whose secret is shown once.",
        right=Right.OPERATOR,
        handler=create,
        body=NewTenant,
        answers=((201, "the tenant and its key"),),
        raises=(*BODY_ERRORS, InvalidName, Conflict),
    ),
    Operation(
        method="GET",
        path="/v1/tenants",
        name="listTenants",
        summary="All tenants, by name.",
        right=Right.OPERATOR,
        handler=list_all,
        answers=((200, "the tenants"),),
    ),
    Operation(
        method="GET",
        path="/v1/tenants/{tenant}",
        name="getTenant",
        summary="One tenant.",
        right=Right.OPERATOR,
        handler=get,
        answers=((200, "the tenant"),),
        raises=(InvalidName, NotFound),
    ),
    Operation(
        method="PATCH",
        path="/v1/tenants/{tenant}",
        name="changeTenant",
        summary="Give a tenant another class, suspend or resume it.",
        right=Right.OPERATOR,
        handler=change,
        body=TenantPatch,
        answers=((200, "the tenant"),),
        conditional=True,
        raises=(*BODY_ERRORS, InvalidName, NotFound),
    ),
    Operation(
        method="DELETE",
        path="/v1/tenants/{tenant}",
        name="deleteTenant",
        summary="Remove a tenant and everything it has.",
        right=Right.OPERATOR,
        handler=delete,
        answers=((204, "gone"),),
        conditional=True,
        raises=(InvalidName, NotFound),
    ),
)

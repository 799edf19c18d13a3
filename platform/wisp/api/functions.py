"""`…/functions`: upload, look at, suspend and remove functions."""

from __future__ import annotations

from starlette.responses import Response

from wisp.api.authentication import Right
from wisp.api.bodies import FunctionPatch
from wisp.api.moments import moment
from wisp.api.multipart import Caps, boundary_of
from wisp.api.operations import BODY_ERRORS, REJECTIONS, Context, Form, Operation, document, listing, nothing
from wisp.api.preconditions import expected, tagged
from wisp.api.uploads import received_function
from wisp.deployment import Deployed
from wisp.errors import InvalidModule, InvalidName, InvalidPolicy, NotFound
from wisp.policy.scanner import MAX_BYTES as POLICY_BYTES
from wisp.registry.records import Function
from wisp.registry.traffic import MILLION, Traffic

YAML = "application/yaml"
JSON_LINES = "application/x-ndjson"
BASE = "/v1/tenants/{tenant}/functions"


def show_traffic(traffic: Traffic | None) -> dict[str, object] | None:
    if traffic is None:
        return None
    shown: dict[str, object] = {
        "split": [{"version": share.version, "percent": share.percent} for share in traffic.split]
    }
    if traffic.sticky_header is not None:
        shown["sticky"] = {"header": traffic.sticky_header}
    elif traffic.sticky_key:
        shown["sticky"] = {"key": True}
    if traffic.guard is not None:
        shown["guard"] = {
            "max_error_rate": traffic.guard.max_errors_per_million / MILLION,
            "min_requests": traffic.guard.min_requests,
            "window": f"{traffic.guard.window_s}s",
        }
    return shown


def show(function: Function) -> dict[str, object]:
    """`traffic`: None while the active version answers alone."""
    return {
        "function": function.name,
        "tenant": function.tenant,
        "active": function.active,
        "traffic": show_traffic(function.traffic),
        "suspended": function.suspended,
        "latest": function.latest,
        "versions": list(function.versions),
        "created": moment(function.created_at),
        "url": f"/t/{function.tenant}/{function.name}",
    }


def show_deployed(context: Context, deployed: Deployed) -> Response:
    version = deployed.version
    shown: dict[str, object] = {
        "function": context.function,
        "version": version.number,
        "digest": version.content_digest,
        "abi": version.abi,
        "active": deployed.active,
        "grants": deployed.grants.as_json(),
        "warnings": list(deployed.warnings),
        "url": f"/t/{context.owner}/{context.function}",
    }
    return tagged(document(shown, 201 if deployed.created else 200), deployed.revision)


async def put(context: Context) -> Response:
    function = context.function
    activate = context.switch("activate", default=True)
    former = expected(context)
    ceiling = context.node.ceilings.ceiling
    caps = Caps(module_bytes=ceiling.compile.module, policy_bytes=POLICY_BYTES, bundle_bytes=ceiling.files.bundle)
    async with received_function(
        context.request.receive,
        context.node.staging,
        boundary=boundary_of(context.request.headers.get("content-type", "")),
        length=context.length,
        caps=caps,
        idle_s=context.node.settings.body_timeout_s,
    ) as upload:
        deployed = await context.node.deployer.deploy(
            tenant=context.owner,
            function=function,
            module=upload.module,
            policy=upload.policy,
            bundle=upload.bundle,
            activate=activate,
            author=context.caller.author,
            message=upload.message,
            expected=former,
        )
    return show_deployed(context, deployed)


async def list_all(context: Context) -> Response:
    return listing([show(function) for function in await context.node.registry.functions.list(context.owner)])


async def get(context: Context) -> Response:
    function = await context.node.registry.functions.get(context.owner, context.function)
    return tagged(document(show(function)), function.revision)


async def change(context: Context) -> Response:
    name = context.function
    wanted = await context.json(FunctionPatch)
    functions = context.node.registry.functions
    switch = functions.suspend if wanted.suspended else functions.resume
    function = await switch(context.owner, name, author=context.caller.author, expected=expected(context))
    if function.suspended:
        context.node.snapshot.suspend(context.owner, name, function.revision)
    else:
        context.node.snapshot.invalidate(context.owner, name)
    return tagged(document(show(function)), function.revision)


async def delete(context: Context) -> Response:
    name = context.function
    await context.node.registry.functions.delete(context.owner, name, expected=expected(context))
    context.node.snapshot.invalidate(context.owner, name)
    context.node.tenantlog.forget(context.owner, name)
    context.node.denials.forget(context.owner, name)
    return nothing()


DEPLOYED = ((200, "the version that has this content"), (201, "the new version"))
GONE = (InvalidName, NotFound)

OPERATIONS = (
    Operation(
        method="GET",
        path=BASE,
        name="listFunctions",
        summary="The tenant's functions, by name.",
        right=Right.TENANT,
        handler=list_all,
        answers=((200, "the functions"),),
        raises=GONE,
    ),
    Operation(
        method="PUT",
        path=f"{BASE}/{{function}}",
        name="putFunction",
        summary="Deploy a version: module, policy and bundle. The same content is the same version.",
        right=Right.TENANT,
        handler=put,
        query=(("activate", "false holds the version back"),),
        body=Form(
            media_type="multipart/form-data",
            parts=(("module", "binary"), ("policy", "text"), ("file", "binary list"), ("message", "optional text")),
        ),
        answers=DEPLOYED,
        conditional=True,
        raises=(*BODY_ERRORS, *REJECTIONS, InvalidModule, InvalidPolicy),
    ),
    Operation(
        method="GET",
        path=f"{BASE}/{{function}}",
        name="getFunction",
        summary="One function.",
        right=Right.TENANT,
        handler=get,
        answers=((200, "the function"),),
        raises=GONE,
    ),
    Operation(
        method="PATCH",
        path=f"{BASE}/{{function}}",
        name="changeFunction",
        summary="Suspend or resume a function.",
        right=Right.TENANT,
        handler=change,
        body=FunctionPatch,
        answers=((200, "the function"),),
        conditional=True,
        raises=(*BODY_ERRORS, *GONE),
    ),
    Operation(
        method="DELETE",
        path=f"{BASE}/{{function}}",
        name="deleteFunction",
        summary="Remove a function and its versions; their numbers are never used again.",
        right=Right.TENANT,
        handler=delete,
        answers=((204, "gone"),),
        conditional=True,
        raises=GONE,
    ),
)

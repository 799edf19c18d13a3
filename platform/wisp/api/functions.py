"""`…/functions`: upload, look at, roll, suspend and remove functions, and read what they logged."""

from __future__ import annotations

import json

from starlette.responses import Response

from wisp.api.authentication import Right
from wisp.api.bodies import Activation, FunctionPatch
from wisp.api.moments import moment
from wisp.api.multipart import Caps, boundary_of
from wisp.api.operations import BODY_ERRORS, REJECTIONS, Context, Form, Operation, document, listing, nothing
from wisp.api.uploads import received_function
from wisp.deployment import Deployed
from wisp.errors import InvalidModule, InvalidName, InvalidPolicy, NotFound
from wisp.policy.allowance import Allowance
from wisp.policy.grants import Grants
from wisp.policy.narrowing import narrow
from wisp.policy.parse import parse_policy
from wisp.policy.scanner import MAX_BYTES as POLICY_BYTES
from wisp.registry.records import Function, Version

YAML = "application/yaml"
JSON_LINES = "application/x-ndjson"
BASE = "/v1/tenants/{tenant}/functions"


def show(function: Function) -> dict[str, object]:
    return {
        "function": function.name,
        "tenant": function.tenant,
        "active": function.active,
        "suspended": function.suspended,
        "latest": function.latest,
        "versions": list(function.versions),
        "created": moment(function.created_at),
        "url": f"/t/{function.tenant}/{function.name}",
    }


def show_version(version: Version, active: int | None) -> dict[str, object]:
    return {
        "version": version.number,
        "digest": version.content_digest,
        "module": version.module,
        "module_bytes": version.module_bytes,
        "abi": version.abi,
        "active": version.number == active,
        "models": [
            {"name": pin.name, "model": pin.model, "version": pin.version, "digest": pin.digest, "shared": pin.shared}
            for pin in version.models
        ],
        "files": [{"path": file.path, "digest": file.digest, "bytes": file.size_bytes} for file in version.bundle],
        "warnings": list(version.warnings),
        "author": version.author,
        "created": moment(version.created_at),
    }


def _deployed(context: Context, deployed: Deployed) -> Response:
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
    return document(shown, 201 if deployed.created else 200)


async def put(context: Context) -> Response:
    function = context.function
    activate = context.switch("activate", default=True)
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
        )
    return _deployed(context, deployed)


async def list_all(context: Context) -> Response:
    return listing([show(function) for function in await context.node.registry.functions.list(context.owner)])


async def get(context: Context) -> Response:
    return document(show(await context.node.registry.functions.get(context.owner, context.function)))


async def change(context: Context) -> Response:
    name = context.function
    wanted = await context.json(FunctionPatch)
    functions = context.node.registry.functions
    switch = functions.suspend if wanted.suspended else functions.resume
    function = await switch(context.owner, name)
    context.node.snapshot.invalidate(context.owner, name)
    return document(show(function))


async def delete(context: Context) -> Response:
    name = context.function
    await context.node.registry.functions.delete(context.owner, name)
    context.node.snapshot.invalidate(context.owner, name)
    context.node.tenantlog.forget(context.owner, name)
    context.node.denials.forget(context.owner, name)
    return nothing()


async def versions(context: Context) -> Response:
    functions = context.node.registry.functions
    function = await functions.get(context.owner, context.function)
    found = await functions.versions(context.owner, context.function)
    return listing([show_version(version, function.active) for version in found])


async def activate(context: Context) -> Response:
    name = context.function
    wanted = await context.json(Activation)
    function = await context.node.registry.functions.activate(context.owner, name, wanted.version)
    await context.node.snapshot.settle(context.owner, name)
    return document(show(function))


async def get_policy(context: Context) -> Response:
    """Of the active version, else the latest."""
    functions = context.node.registry.functions
    function = await functions.get(context.owner, context.function)
    version = await functions.version(context.owner, function.name, function.active or function.latest)
    if context.switch("effective", default=False):
        return document(_grants(context, version).as_json())
    return Response(version.policy_text, media_type=YAML)


def _grants(context: Context, version: Version) -> Grants:
    assert context.tenant is not None
    ceilings = context.node.ceilings
    policy = parse_policy(version.policy_text.encode())
    return narrow(policy, ceilings.for_class(context.tenant.class_name), ceilings.ceiling)


async def put_policy(context: Context) -> Response:
    function = context.function
    policy = await context.read(POLICY_BYTES, "a policy")
    deployed = await context.node.deployer.change_policy(
        tenant=context.owner, function=function, policy=policy, author=context.caller.author
    )
    return _deployed(context, deployed)


async def logs(context: Context) -> Response:
    function = await context.node.registry.functions.get(context.owner, context.function)
    lines = [
        json.dumps(
            {
                "time": moment(line.time),
                "request_id": line.request_id,
                "version": line.version,
                "stream": str(line.stream),
                "text": line.text,
            }
        )
        for line in context.node.tenantlog.lines(context.owner, function.name)
    ]
    return Response("".join(f"{line}\n" for line in lines), media_type=JSON_LINES)


async def denials(context: Context) -> Response:
    """Whether the ceiling would allow it is told of now, not of then: it is what the tenant has to ask for next."""
    function = await context.node.registry.functions.get(context.owner, context.function)
    assert context.tenant is not None
    ceilings = context.node.ceilings
    would = Allowance(ceilings.for_class(context.tenant.class_name), ceilings.ceiling)
    return listing(
        [
            {
                "time": moment(event.time),
                "request_id": event.request_id,
                "version": event.version,
                "capability": str(event.capability),
                "tried": event.denial.what,
                "allow": event.denial.allow,
                "ceiling_allows": would.allows(event.denial.allow),
            }
            for event in context.node.denials.events(context.owner, function.name)
        ]
    )


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
            parts=(("module", "binary"), ("policy", "text"), ("file", "binary list")),
        ),
        answers=DEPLOYED,
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
        raises=GONE,
    ),
    Operation(
        method="GET",
        path=f"{BASE}/{{function}}/versions",
        name="listVersions",
        summary="The function's versions, ascending.",
        right=Right.TENANT,
        handler=versions,
        answers=((200, "the versions"),),
        raises=GONE,
    ),
    Operation(
        method="POST",
        path=f"{BASE}/{{function}}/activate",
        name="activateVersion",
        summary="Let another version answer, forward or back.",
        right=Right.TENANT,
        handler=activate,
        body=Activation,
        answers=((200, "the function"),),
        raises=(*BODY_ERRORS, *GONE),
    ),
    Operation(
        method="GET",
        path=f"{BASE}/{{function}}/policy",
        name="getPolicy",
        summary="The policy of the version that answers, as it was written; or the grants that are in force.",
        right=Right.TENANT,
        handler=get_policy,
        query=(("effective", "1: the grants, as JSON"),),
        media_type=YAML,
        answers=((200, "the policy, or the grants"),),
        raises=GONE,
    ),
    Operation(
        method="PUT",
        path=f"{BASE}/{{function}}/policy",
        name="putPolicy",
        summary="A new version with another policy on the same module and bundle.",
        right=Right.TENANT,
        handler=put_policy,
        body=Form(media_type=YAML),
        answers=DEPLOYED,
        raises=(*BODY_ERRORS, *REJECTIONS, InvalidPolicy),
    ),
    Operation(
        method="GET",
        path=f"{BASE}/{{function}}/logs",
        name="getLogs",
        summary="The newest lines that the function and the platform wrote about it, oldest first.",
        right=Right.TENANT,
        handler=logs,
        media_type=JSON_LINES,
        answers=((200, "one JSON object a line"),),
        raises=GONE,
    ),
    Operation(
        method="GET",
        path=f"{BASE}/{{function}}/denials",
        name="listDenials",
        summary="What this node refused the function of late, oldest first: what it tried, the policy line that would "
        "allow it, and whether the operator's ceiling would let that line pass (null: the line is not a policy's).",
        right=Right.TENANT,
        handler=denials,
        answers=((200, "the denials"),),
        raises=GONE,
    ),
)

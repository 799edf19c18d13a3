"""`…/functions/{function}/policy`: the policy of what answers, and another one on the same module."""

from __future__ import annotations

from starlette.responses import Response

from wisp.api.authentication import Right
from wisp.api.functions import BASE, DEPLOYED, GONE, YAML, show_deployed
from wisp.api.operations import BODY_ERRORS, REJECTIONS, Context, Form, Operation, document
from wisp.api.preconditions import expected, tagged
from wisp.errors import InvalidPolicy
from wisp.policy.grants import Grants
from wisp.policy.narrowing import narrow
from wisp.policy.parse import parse_policy
from wisp.policy.scanner import MAX_BYTES as POLICY_BYTES
from wisp.registry.records import Version


async def get_policy(context: Context) -> Response:
    """Of the active version, else the latest."""
    functions = context.node.registry.functions
    function = await functions.get(context.owner, context.function)
    version = await functions.version(context.owner, function.name, function.active or function.latest)
    if context.switch("effective", default=False):
        return tagged(document(_grants(context, version).as_json()), function.revision)
    return tagged(Response(version.policy_text, media_type=YAML), function.revision)


def _grants(context: Context, version: Version) -> Grants:
    assert context.tenant is not None
    ceilings = context.node.ceilings
    policy = parse_policy(version.policy_text.encode())
    return narrow(policy, ceilings.for_class(context.tenant.class_name), ceilings.ceiling)


async def put_policy(context: Context) -> Response:
    function = context.function
    policy = await context.read(POLICY_BYTES, "a policy")
    deployed = await context.node.deployer.change_policy(
        tenant=context.owner, function=function, policy=policy, author=context.caller.author, expected=expected(context)
    )
    return show_deployed(context, deployed)


OPERATIONS = (
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
        conditional=True,
        raises=(*BODY_ERRORS, *REJECTIONS, InvalidPolicy),
    ),
)

"""`…/denials`: what a function was refused."""

from __future__ import annotations

from starlette.responses import Response

from wisp.api.authentication import Right
from wisp.api.functions import BASE, GONE
from wisp.api.moments import moment
from wisp.api.operations import Context, Operation, listing
from wisp.policy.allowance import Allowance


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


OPERATIONS = (
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

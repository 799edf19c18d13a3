"""`…/traffic`: which versions of a function answer, in which proportion, and what returns it to the stable one."""

from __future__ import annotations

import re
from typing import Final

from starlette.responses import Response

from wisp.api.authentication import Right
from wisp.api.bodies import GuardTerms, Stickiness, TrafficPlan
from wisp.api.functions import BASE, GONE, show
from wisp.api.operations import BODY_ERRORS, Context, Operation, document
from wisp.api.preconditions import expected, tagged
from wisp.errors import Fault, InvalidTraffic
from wisp.policy.quantity import NS_PER_S, parse_time_ns
from wisp.registry.traffic import MAX_SHARES, MILLION, WHOLE_PERCENT, Guard, Share, Traffic

MAX_WINDOW_S: Final = 3600
MAX_REQUESTS: Final = 1_000_000
_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}", re.ASCII)
UNSEEN: Final = re.compile(r"authorization|connection|keep-alive|te|trailer|upgrade|transfer-encoding|proxy-.*|wisp-.*")
"""Headers that the platform keeps to itself."""


def read_traffic(wanted: TrafficPlan) -> Traffic:
    """Not numbered yet: id 0. Raises `InvalidTraffic` with every fault."""
    faults = [*_of_split(wanted), *_of_sticky(wanted.sticky), *_of_guard(wanted.guard)]
    if len(wanted.split) == 1:
        alone = "one version alone takes all: there is nothing to choose, and nothing to go back to"
        faults += [
            Fault(field=name, message=alone) for name in ("sticky", "guard") if getattr(wanted, name) is not None
        ]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InvalidTraffic(f"{faults[0].field}: {faults[0].message}{more}", tuple(faults))
    header = wanted.sticky.header if wanted.sticky is not None else None
    return Traffic(
        id=0,
        split=tuple(Share(version=share.version, percent=share.percent) for share in wanted.split),
        sticky_header=None if header is None else header.lower(),
        sticky_key=wanted.sticky is not None and header is None,
        guard=None if wanted.guard is None else _guard(wanted.guard),
    )


def _of_split(wanted: TrafficPlan) -> list[Fault]:
    split = wanted.split
    if not 1 <= len(split) <= MAX_SHARES:
        return [Fault(field="split", message=f"1 to {MAX_SHARES} versions", asked=str(len(split)))]
    faults, seen = [], set()
    for index, share in enumerate(split):
        if share.version in seen:
            faults.append(Fault(field=f"split[{index}].version", message=f"version {share.version} is there twice"))
        seen.add(share.version)
        if not 1 <= share.percent <= WHOLE_PERCENT:
            text = f"a percentage is 1 to {WHOLE_PERCENT}"
            faults.append(Fault(field=f"split[{index}].percent", message=text, asked=str(share.percent)))
    total = sum(share.percent for share in split)
    if total != WHOLE_PERCENT:
        faults.append(Fault(field="split", message=f"the percentages add up to {total}, not to {WHOLE_PERCENT}"))
    return faults


def _of_sticky(sticky: Stickiness | None) -> list[Fault]:
    if sticky is None:
        return []
    if (sticky.header is None) == (sticky.key is None) or sticky.key is False:
        return [Fault(field="sticky", message='either {"header": "<name>"} or {"key": true}')]
    if sticky.header is not None:
        name = sticky.header.lower()
        if not _HEADER.fullmatch(name) or UNSEEN.fullmatch(name):
            return [Fault(field="sticky.header", message="the name of a header that functions see")]
    return []


def _of_guard(guard: GuardTerms | None) -> list[Fault]:
    if guard is None:
        return []
    faults = []
    if not 0 <= guard.max_error_rate < 1:
        text = "a share of the requests, from 0 to below 1"
        faults.append(Fault(field="guard.max_error_rate", message=text, asked=str(guard.max_error_rate)))
    if not 1 <= guard.min_requests <= MAX_REQUESTS:
        text = f"1 to {MAX_REQUESTS} requests"
        faults.append(Fault(field="guard.min_requests", message=text, asked=str(guard.min_requests)))
    try:
        window_ns = parse_time_ns(guard.window)
    except ValueError:
        window_ns = 0
    if window_ns % NS_PER_S or not 1 <= window_ns // NS_PER_S <= MAX_WINDOW_S:
        text = f"whole seconds, 1s to {MAX_WINDOW_S}s"
        faults.append(Fault(field="guard.window", message=text, asked=guard.window[:80]))
    return faults


def _guard(guard: GuardTerms) -> Guard:
    return Guard(
        max_errors_per_million=round(guard.max_error_rate * MILLION),
        min_requests=guard.min_requests,
        window_s=parse_time_ns(guard.window) // NS_PER_S,
    )


async def put(context: Context) -> Response:
    name, functions = context.function, context.node.registry.functions
    wanted = await context.json(TrafficPlan)
    traffic = read_traffic(wanted)
    former, author = expected(context), context.caller.author
    if len(traffic.split) == 1:
        function = await functions.activate(
            context.owner, name, traffic.split[0].version, author=author, message=wanted.message, expected=former
        )
    else:
        function = await functions.split(
            context.owner, name, traffic, author=author, message=wanted.message, expected=former
        )
    await context.node.snapshot.settle(context.owner, name)
    return tagged(document(show(function)), function.revision)


OPERATIONS = (
    Operation(
        method="PUT",
        path=f"{BASE}/{{function}}/traffic",
        name="putTraffic",
        summary="Let several versions answer, each its percentage of the requests; the first is the stable one, to "
        "which a guard returns. All at once or not at all; activating a version ends it.",
        right=Right.TENANT,
        handler=put,
        body=TrafficPlan,
        answers=((200, "the function"),),
        conditional=True,
        raises=(*BODY_ERRORS, *GONE, InvalidTraffic),
    ),
)

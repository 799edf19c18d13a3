"""`GET /v1/tenants/{t}/usage`: what a tenant's requests used, by hour and function, and what it stores."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from starlette.responses import Response

from wisp.api.authentication import Right
from wisp.api.moments import moment
from wisp.api.operations import Context, Operation, document
from wisp.errors import InvalidRequest, RegistryUnavailable
from wisp.registry.usage import KEPT_HOURS, Place, Use

HOUR_S = 3600
DAY_HOURS = 24
NS = 1_000_000_000
MAX_ITEMS = 10_000
HOUR = re.compile(r"\d{4}-\d{2}-\d{2}(T\d{2}(:00(:00)?Z?)?)?", re.ASCII)
FORMS = "an hour or a day in UTC: 2026-01-31T12 (or 2026-01-31T12:00:00Z) or 2026-01-31"


def hour_of(context: Context, name: str) -> int | None:
    """Hours since 1970. Raises `InvalidRequest`."""
    values = context.request.query_params.getlist(name)
    if not values:
        return None
    text, refusal = values[0], f"?{name}= is {FORMS}; once"
    if len(values) > 1 or HOUR.fullmatch(text) is None:
        raise InvalidRequest(refusal)
    try:
        when = datetime.strptime(text[:13], "%Y-%m-%dT%H" if "T" in text else "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise InvalidRequest(refusal) from None
    return int(when.timestamp()) // HOUR_S


def span(context: Context) -> tuple[int, int]:
    """From the first hour to before the second. Raises `InvalidRequest`."""
    until = hour_of(context, "to")
    if until is None:
        until = int(time.time()) // HOUR_S + 1
    since = hour_of(context, "from")
    if since is None:
        since = until - DAY_HOURS
    if not since < until:
        raise InvalidRequest("?from= is before ?to=: hours from the one, up to but without the other")
    if until - since > KEPT_HOURS:
        raise InvalidRequest("from ?from= to ?to= are 32 days at most", limit=KEPT_HOURS, used=until - since)
    return since, until


def shown(place: Place, use: Use) -> dict[str, object]:
    hour, function = place
    return {
        "hour": moment(hour * HOUR_S),
        "function": function,
        "outcomes": use.outcomes,
        "requests": use.requests,
        "fuel": use.metric("fuel"),
        "nn_fuel": use.metric("nn_fuel"),
        "cpu_s": use.metric("cpu_ns") / NS,
        "nn_s": use.metric("nn_ns") / NS,
        "inferences": use.metric("inferences"),
        "tensor_bytes": use.metric("tensor_bytes"),
        "bytes_in": use.metric("bytes_in"),
        "bytes_out": use.metric("bytes_out"),
    }


async def usage(context: Context) -> Response:
    since, until = span(context)
    ledger = context.node.registry.usage
    places = await ledger.places(context.owner, since, until, MAX_ITEMS + 1)
    if len(places) > MAX_ITEMS:
        raise InvalidRequest(
            f"more than {MAX_ITEMS} hours of functions: ask for fewer hours at a time", limit=MAX_ITEMS
        )
    items = [shown(place, use) for place, use in await ledger.read(context.owner, places)]
    return document({"items": items, "storage_bytes": await context.node.registry.storage.used_bytes(context.owner)})


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/tenants/{tenant}/usage",
        name="getUsage",
        summary="What requests used, by hour (UTC) and function, and what the tenant stores. A request is counted "
        "within two seconds of its answer; hours are kept for 32 days.",
        right=Right.TENANT,
        handler=usage,
        query=(
            ("from", f"the first hour, {FORMS}; else a day before `to`"),
            ("to", "the hour to stop before, in the same forms; else the next"),
        ),
        answers=((200, "the items and the bytes that are stored"),),
        raises=(InvalidRequest, RegistryUnavailable),
    ),
)

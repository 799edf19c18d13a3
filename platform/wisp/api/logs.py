"""`GET …/functions/{fn}/logs`: the newest lines as JSON lines, or all that comes as server-sent events.

A stream begins with the newest lines. It ends when the node drains, the function is deleted, the key loses its right,
or the reader lags too far behind; its last event says which.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Final

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from wisp.api.authentication import Right, authenticate, authorise, bearer, refuse_suspended
from wisp.api.moments import moment
from wisp.api.operations import Context, Operation
from wisp.errors import Forbidden, NotFound, RegistryUnavailable, TooManyInflight, Unauthorized
from wisp.following import Follower
from wisp.tenantlog import LogLine

JSON_LINES: Final = "application/x-ndjson"
EVENTS: Final = "text/event-stream"
HEARTBEAT_S: Final = 15.0
"""A comment after so long a silence; at each the caller's key is looked at again."""
RECHECK_S: Final = 15.0


def shown(line: LogLine) -> str:
    return json.dumps(
        {
            "time": moment(line.time),
            "request_id": line.request_id,
            "version": line.version,
            "stream": str(line.stream),
            "text": line.text,
        }
    )


def event(name: str, **fields: object) -> str:
    return f"event: {name}\ndata: {json.dumps(fields)}\n\n"


class EventStream(StreamingResponse):
    """Lets go of what the stream holds, whether or not it was ever read."""

    media_type = EVENTS

    def __init__(self, content: AsyncIterator[str], held: ExitStack) -> None:
        super().__init__(content, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await super().__call__(scope, receive, send)


async def still_allowed(context: Context) -> bool:
    """Whether the key that opened the stream may still read it, and there is something to read."""
    try:
        secret = bearer(v for n, v in context.request.scope["headers"] if n.lower() == b"authorization")
        caller = await authenticate(context.node, secret)
        authorise(caller, Right.TENANT, context.owner)
        refuse_suspended(caller, await context.node.registry.tenants.get(context.owner))
        await context.node.registry.functions.get(context.owner, context.function)
    except (Unauthorized, Forbidden, NotFound):
        return False
    except RegistryUnavailable:
        return True  # nobody can tell at the moment; the next time will
    return True


async def events(context: Context, follower: Follower[LogLine]) -> AsyncIterator[str]:
    checked = time.monotonic()
    while not follower.over:
        line = await follower.take(HEARTBEAT_S)
        if line is not None:
            yield f"event: line\ndata: {shown(line)}\n\n"
        elif not follower.over:
            yield ": still here\n\n"
        if time.monotonic() - checked >= RECHECK_S:
            checked = time.monotonic()
            if not await still_allowed(context):
                yield event("end", reason="the key or the function is gone", lost=0)
                return
    if follower.lost:
        yield event("end", reason="the reader was too slow", lost=follower.lost)
    else:
        yield event("end", reason="the node drains, or the function is gone", lost=0)


async def logs(context: Context) -> Response:
    follow = context.switch("follow", default=False)
    function = await context.node.registry.functions.get(context.owner, context.function)
    log = context.node.tenantlog
    if follow and context.request.method == "GET":
        held = ExitStack()
        follower = held.enter_context(log.follow(context.owner, function.name))
        return EventStream(events(context, follower), held)
    lines = log.lines(context.owner, function.name)
    return Response("".join(f"{shown(line)}\n" for line in lines), media_type=EVENTS if follow else JSON_LINES)


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/tenants/{tenant}/functions/{function}/logs",
        name="getLogs",
        summary="The newest lines that the function and the platform wrote about it on this node, oldest first; with "
        "`follow`, as server-sent events (`line`, and a last `end` with a reason and the number of lines lost), and "
        "all that come after them.",
        right=Right.TENANT,
        handler=logs,
        query=(("follow", "1: stream them as `text/event-stream` until the node drains"),),
        media_type=JSON_LINES,
        answers=((200, "one JSON object a line, or events that carry one each"),),
        raises=(NotFound, TooManyInflight),
    ),
)

"""Alive, ready, measured, described: the open end of the API."""

from __future__ import annotations

from starlette.responses import Response

from wisp.api.authentication import Right, authenticate, authorise, bearer
from wisp.api.operations import Context, Operation, document
from wisp.errors import Forbidden, Unauthorized


async def healthz(context: Context) -> Response:
    return document({"status": "ok"})


async def readyz(context: Context) -> Response:
    readiness = dict(context.node.readiness())
    draining = context.node.draining
    ready = bool(readiness.get("ready")) and not draining
    if context.request.query_params.get("verbose", "0") not in ("0", "false"):  # alone it is yes
        readiness["walls"] = context.node.walls.shown()
        readiness["providers"] = context.node.providers()
    return document(readiness | {"ready": ready, "draining": draining}, 200 if ready else 503)


async def metrics(context: Context) -> Response:
    """Its right depends on a setting, so it is checked here."""
    if not context.node.settings.metrics_public:
        secret = bearer(v for n, v in context.request.scope["headers"] if n.lower() == b"authorization")
        authorise(await authenticate(context.node, secret), Right.OPERATOR, None)
    text, media_type = context.metrics.exposition()
    return Response(text, media_type=media_type)


OPERATIONS = (
    Operation(
        method="GET",
        path="/healthz",
        name="getHealth",
        summary="Whether the process is alive.",
        right=Right.NOBODY,
        handler=healthz,
        answers=((200, "alive"),),
    ),
    Operation(
        method="GET",
        path="/readyz",
        name="getReadiness",
        summary="Whether requests should be sent here.",
        right=Right.NOBODY,
        handler=readyz,
        query=(("verbose", "also which walls are up round which children, and where models can run"),),
        answers=((200, "ready"), (503, "not ready, or draining")),
    ),
    Operation(
        method="GET",
        path="/metrics",
        name="getMetrics",
        summary="Prometheus metrics; the operator's key, unless the platform was started with --metrics-public.",
        right=Right.NOBODY,
        handler=metrics,
        media_type="text/plain",
        answers=((200, "the text format"),),
        raises=(Unauthorized, Forbidden),
    ),
)

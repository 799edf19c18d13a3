"""The ASGI application: `/t/` goes straight to the data plane, everything else through Starlette's routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from wisp.api import problems
from wisp.api.control import Resource, offered_id, response_of
from wisp.api.dataplane import DataPlane
from wisp.api.openinference import OpenInference, is_inference
from wisp.api.requesthead import PREFIX
from wisp.api.routes import by_path
from wisp.telemetry import Metrics

if TYPE_CHECKING:
    from wisp.node import Node


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    await response_of(problems.not_found(), offered_id(scope["headers"]))(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    """The node's life is the server's to hold; there is nothing to do here but to say so."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def create_app(node: Node, metrics: Metrics) -> ASGIApp:
    """`node` has been started; it outlives the application."""
    data_plane = DataPlane(node, metrics)
    open_inference = OpenInference(node, metrics)
    control_plane = Router(
        [Resource(node, metrics, operations).route() for operations in by_path()],
        redirect_slashes=False,
        default=_no_route,
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["http_version"] not in ("1.1", "1.0"):
                problem = problems.version_not_supported()
                response = response_of(problem, offered_id(scope["headers"]))
                response.headers["connection"] = "close"
                await response(scope, receive, send)
            elif scope["raw_path"].startswith(PREFIX):
                plane = open_inference if is_inference(scope["raw_path"]) else data_plane
                await plane(scope, receive, send)
            else:
                await control_plane(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    return app

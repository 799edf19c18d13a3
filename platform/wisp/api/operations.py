"""The shape of the control plane: an operation is one row; routes and the OpenAPI document are made from rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wisp.api import bodies
from wisp.api.authentication import Caller, Right
from wisp.errors import (
    Conflict,
    Exhausted,
    InvalidRequest,
    NotFound,
    Rejected,
    RequestTimeout,
    RequestTooLarge,
    Unavailable,
    WispError,
)
from wisp.names import FunctionName, ModelName, TenantName, parse_function, parse_model, parse_tenant
from wisp.registry.records import Tenant
from wisp.telemetry import Metrics

if TYPE_CHECKING:
    from wisp.node import Node

T = TypeVar("T", bound=BaseModel)

SMALL_BODY_S = 10.0
"""For a body of at most 64 KiB to arrive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One request to the control plane, authenticated and authorised. `tenant`: the one in the path, which exists."""

    node: Node
    metrics: Metrics
    request: Request
    request_id: str
    caller: Caller
    tenant: Tenant | None

    @property
    def owner(self) -> TenantName:
        assert self.tenant is not None
        return self.tenant.name

    @property
    def function(self) -> FunctionName:
        """Raises `InvalidName`."""
        return parse_function(self.request.path_params["function"])

    @property
    def model(self) -> ModelName:
        """Raises `InvalidName`."""
        return parse_model(self.request.path_params["model"])

    @property
    def length(self) -> int | None:
        return bodies.content_length([v for n, v in self.request.scope["headers"] if n.lower() == b"content-length"])

    def switch(self, name: str, *, default: bool) -> bool:
        """A query parameter that is on or off. Raises `InvalidRequest`."""
        values = self.request.query_params.getlist(name)
        words = {"1": True, "true": True, "0": False, "false": False}
        if not values:
            return default
        if len(values) > 1 or values[0] not in words:
            raise InvalidRequest(f"?{name}= is one of {' '.join(words)}, once")
        return words[values[0]]

    async def read(self, limit_bytes: int, what: str) -> bytes:
        """A small body. Raises `RequestTooLarge` and `RequestTimeout`."""
        return await bodies.read(
            self.request.receive, length=self.length, limit_bytes=limit_bytes, what=what, time_s=SMALL_BODY_S
        )

    async def json(self, kind: type[T]) -> T:
        """Raises `InvalidRequest`, `RequestTooLarge` and `RequestTimeout`."""
        return bodies.parse_json(await self.read(bodies.JSON_BYTES, "a JSON body"), kind)


Handler = Callable[[Context], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A body that is no JSON: its media type, and the parts of a form or nothing."""

    media_type: str
    parts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`answers`: status to what it means; `media_type`: of the answer; `raises`: beside what all can raise;
    `json_body`: what may come instead of a `Form`; `conditional`: it honours `If-Match`."""

    method: str
    path: str
    name: str
    summary: str
    right: Right
    handler: Handler
    answers: tuple[tuple[int, str], ...]
    query: tuple[tuple[str, str], ...] = ()
    body: type[BaseModel] | Form | None = None
    json_body: type[BaseModel] | None = None
    media_type: str = "application/json"
    conditional: bool = False
    raises: tuple[type[WispError], ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(part[1:-1] for part in self.path.split("/") if part.startswith("{"))

    @property
    def takes_body(self) -> bool:
        return self.body is not None


BODY_ERRORS: tuple[type[WispError], ...] = (RequestTooLarge, RequestTimeout)
REJECTIONS: tuple[type[WispError], ...] = (Rejected, Conflict, Exhausted, Unavailable, NotFound)


def listing(items: list[dict[str, object]]) -> Response:
    return JSONResponse({"items": items, "next": None})


def document(value: dict[str, object], status: int = 200) -> Response:
    return JSONResponse(value, status)


def nothing() -> Response:
    return Response(status_code=204)


def parse_path_tenant(request: Request) -> TenantName | None:
    """The tenant in the path, where there is one. Raises `InvalidName`."""
    text = request.path_params.get("tenant")
    return None if text is None else parse_tenant(text)

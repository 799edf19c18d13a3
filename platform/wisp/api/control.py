"""From an HTTP request to an operation and back: key, names, right, query, handler; every failure a problem."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from wisp.api import problems
from wisp.api.authentication import Caller, Right, authenticate, authorise, bearer, refuse_suspended
from wisp.api.bodies import ClientGone
from wisp.api.operations import Context, Operation, parse_path_tenant
from wisp.api.preconditions import refuse_unjudged
from wisp.api.problems import Problem, problem_of
from wisp.errors import InvalidRequest, WispError
from wisp.names import RequestId, request_id
from wisp.telemetry import Metrics

if TYPE_CHECKING:
    from wisp.node import Node

log = logging.getLogger(__name__)

NOBODY = Caller(key=None)


def offered_id(headers: list[tuple[bytes, bytes]]) -> RequestId:
    """The caller's request id if it sent one that is sane, else a new one."""
    offered = next((value for name, value in headers if name.lower() == b"x-request-id"), None)
    return request_id(None if offered is None else offered.decode("latin-1"))


def response_of(problem: Problem, request: RequestId) -> Response:
    response = Response(problem.body(request), problem.status)
    response.raw_headers[:0] = problem.headers(request)
    return response


class Resource:
    """All operations of one path; Starlette's routing knows the path only."""

    def __init__(self, node: Node, metrics: Metrics, operations: tuple[Operation, ...]) -> None:
        self.node = node
        self.metrics = metrics
        self.methods = {operation.method: operation for operation in operations}
        if "GET" in self.methods:
            self.methods["HEAD"] = self.methods["GET"]
        self.path = operations[0].path

    def route(self) -> Route:
        return Route(self.path, self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        identity = offered_id(scope["headers"])
        try:
            response = await self._answer(request, identity)
            response.raw_headers.append((b"wisp-request-id", identity.encode()))
        except ClientGone:
            return
        except WispError as error:
            problem = problem_of(error)
            if problem.status == 500:
                log.exception("an operation failed", extra={"request_id": identity})
                problem = problems.internal_error()
            response = response_of(problem, identity)
        except Exception:  # the HTTP boundary: whatever it was stays inside
            log.exception("an operation failed", extra={"request_id": identity})
            response = response_of(problems.internal_error(), identity)
        if scope["method"] == "HEAD":
            response.body = b""
        await response(scope, receive, send)

    async def _answer(self, request: Request, identity: RequestId) -> Response:
        operation = self.methods.get(request.method)
        if operation is None:
            return response_of(problems.method_not_allowed(tuple(sorted(self.methods))), identity)
        caller, tenant = NOBODY, None
        if operation.right is not Right.NOBODY:
            secret = bearer(value for name, value in request.scope["headers"] if name.lower() == b"authorization")
            caller = await authenticate(self.node, secret)
            name = parse_path_tenant(request)
            authorise(caller, operation.right, name)
            if name is not None:
                tenant = await self.node.registry.tenants.get(name)
                refuse_suspended(caller, tenant)
        self._check_query(request, operation)
        refuse_unjudged(request, operation)
        context = Context(
            node=self.node,
            metrics=self.metrics,
            request=request,
            request_id=identity,
            caller=caller,
            tenant=tenant,
        )
        return await operation.handler(context)

    @staticmethod
    def _check_query(request: Request, operation: Operation) -> None:
        known = {name for name, _ in operation.query}
        unknown = sorted(name for name in request.query_params if name not in known)
        if unknown:
            takes = f"takes {', '.join(sorted(known))}" if known else "takes none"
            raise InvalidRequest(f"unknown query parameter {unknown[0][:80]!a}; this operation {takes}")

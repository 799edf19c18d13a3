"""`/t/{tenant}/v2/…`: the Open Inference Protocol, version 2, over a tenant's models (`inferring`).

Any key of the tenant's that is not bound to functions may call. Refusals are the platform's problems with one field
more, `error`, which is where the protocol's clients look.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from starlette.types import Receive, Scope, Send

from wisp import __version__
from wisp.api import problems
from wisp.api.bodies import ClientGone
from wisp.api.incoming import Incoming, content
from wisp.api.inferenceanswers import Reply, json_reply, refusal, send_reply
from wisp.api.inferences import Inferences
from wisp.api.problems import problem_of
from wisp.api.requesthead import PREFIX, Head, decoded, read_head
from wisp.errors import (
    FunctionNotFound,
    InferenceFailed,
    InvalidName,
    NotFound,
    Overloaded,
    RequestTimeout,
    WispError,
)
from wisp.inferring.access import Access
from wisp.inferring.inferring import INFERENCE
from wisp.names import TenantName, parse_tenant
from wisp.oip import messages
from wisp.oip.datatypes import NAMES
from wisp.oip.messages import MAX_JSON_BYTES, Object
from wisp.scheduling.bodies import RequestBody
from wisp.telemetry import Metrics
from wisp.wire.tensors import TensorSpec

if TYPE_CHECKING:
    from wisp.node import Node

log = logging.getLogger(__name__)

SEGMENT: Final = b"v2"
PLATFORM: Final = "onnxruntime_onnx"
REMOTE_PLATFORM: Final = "remote"


def is_inference(raw_path: bytes) -> bool:
    """Whether a path below `/t/` is this protocol's: no function is called `v2`."""
    rest = raw_path[len(PREFIX) :].partition(b"/")[2]
    return rest.startswith(SEGMENT) and rest[len(SEGMENT) : len(SEGMENT) + 1] in (b"", b"/")


class WrongMethod(WispError):
    """`allow`: the one that the path answers to."""

    def __init__(self, allow: str) -> None:
        super().__init__(f"this path answers to {allow}")
        self.allow = allow


class OpenInference:
    """One ASGI application for `/t/{tenant}/v2` and everything below."""

    def __init__(self, node: Node, metrics: Metrics) -> None:
        self.node = node
        self.metrics = metrics
        self.inferring = node.inferring
        self.accesslog = node.accesslog
        self.body_timeout_s = node.settings.body_timeout_s
        self.inferences = Inferences(node.inferring, metrics, node.settings.body_timeout_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        head = read_head(scope["headers"])
        request = Incoming(receive)
        tenant = ""
        try:
            name, parts = split_path(scope["raw_path"])
            access = await self.inferring.enter(name, head.secret)
            tenant = name
            reply = await self._answer(scope, request, head, access, parts)
        except ClientGone:
            return
        except WrongMethod as error:
            reply = refusal(problems.method_not_allowed((error.allow,)), head.request_id)
        except WispError as error:
            problem = problem_of(error)
            if problem.status == 500 and not isinstance(error, InferenceFailed):
                log.exception("an inference failed", extra={"request_id": head.request_id})
                problem = problems.internal_error()
            reply = refusal(problem, head.request_id)
        except Exception:  # the HTTP boundary: whatever it was stays inside
            log.exception("an inference failed", extra={"request_id": head.request_id})
            reply = refusal(problems.internal_error(), head.request_id)
        try:
            if reply.status >= 400 and reply.code != RequestTimeout.code and not head.bodiless:
                await request.linger()
            await send_reply(scope, send, reply)
        finally:
            self.inferring.budget.give_back(reply.held_bytes)
        total_s = time.perf_counter() - started
        self.metrics.answered(tenant, reply.code, total_s)
        if self.accesslog is not None:
            self.accesslog.add(
                request_id=head.request_id,
                tenant=tenant,
                function=INFERENCE if tenant else "",
                status=reply.status,
                outcome=reply.code,
                total_s=total_s,
                version=reply.version,
                receipt=reply.receipt,
            )

    async def _answer(
        self, scope: Scope, request: Incoming, head: Head, access: Access, parts: tuple[str, ...]
    ) -> Reply:
        method = scope["method"]
        match parts:
            case ("models", name, "infer"):
                return await self.inferences.infer(_only("POST", method, scope), request, head, access, (name, None))
            case ("models", name, "versions", version, "infer"):
                return await self.inferences.infer(_only("POST", method, scope), request, head, access, (name, version))
            case ("repository", "index"):
                _only("POST", method, scope)
                return await self._index(request, head, access)
        _only("GET", "GET" if method == "HEAD" else method, scope)
        match parts:
            case ():
                return json_reply(
                    {"name": "wisp", "version": __version__, "extensions": ["binary_tensor_data"]}, head.request_id
                )
            case ("health", "live"):
                return json_reply({"live": True}, head.request_id)
            case ("health", "ready"):
                if not self.node.readiness()["ready"]:
                    raise Overloaded("this node is not ready")
                return json_reply({"ready": True}, head.request_id)
            case ("models", name):
                return await self._describe(head, access, name, None)
            case ("models", name, "versions", version):
                return await self._describe(head, access, name, version)
            case ("models", name, "ready"):
                return await self._ready(head, access, name, None)
            case ("models", name, "versions", version, "ready"):
                return await self._ready(head, access, name, version)
        raise NotFound("there is nothing at this path")

    async def _describe(self, head: Head, access: Access, name: str, version: str | None) -> Reply:
        model = await self.inferring.find(access, name, version)
        versions = (await self.inferring.models(access)).get(model.name, (model,))
        return json_reply(
            {
                "name": model.name,
                "versions": [str(each.version) for each in versions],
                "platform": REMOTE_PLATFORM if model.source else PLATFORM,
                "inputs": [_spec(spec) for spec in model.inputs],
                "outputs": [_spec(spec) for spec in model.outputs],
            },
            head.request_id,
        )

    async def _ready(self, head: Head, access: Access, name: str, version: str | None) -> Reply:
        """Loads it if it is not; of one on another machine that machine is asked."""
        model = await self.inferring.find(access, name, version)
        await self.inferring.make_ready(access, model)
        return json_reply({"name": model.name, "ready": True}, head.request_id)

    async def _index(self, request: Incoming, head: Head, access: Access) -> Reply:
        """What is elsewhere is asked for only where the caller wants what is ready alone: it waits for that."""
        ready = False
        body = RequestBody(self.inferring.budget, MAX_JSON_BYTES)
        try:
            if not head.bodiless:
                await request.read_into(body, self.body_timeout_s)
            if body.size_bytes:
                ready = messages.parse_index(content(body))
        finally:
            body.close()
        listed = [
            {"name": model.name, "version": str(model.version), "state": state.readiness, "reason": state.reason}
            for model, state in await self.inferring.listed(access, ready=ready)
        ]
        return json_reply(listed, head.request_id)


def split_path(raw_path: bytes) -> tuple[TenantName, tuple[str, ...]]:
    """The tenant, and what stands below `v2`. Raises `FunctionNotFound` for a name out of grammar."""
    tenant, _, rest = raw_path[len(PREFIX) :].partition(b"/")
    try:
        name = parse_tenant(decoded(tenant))
    except InvalidName:
        raise FunctionNotFound("there is no such function") from None
    below = rest[len(SEGMENT) :].strip(b"/")
    return name, tuple(decoded(part) for part in below.split(b"/")) if below else ()


def _only(allowed: str, method: str, scope: Scope) -> Scope:
    if method != allowed:
        raise WrongMethod(allowed)
    return scope


def _spec(spec: TensorSpec) -> Object:
    return {"name": spec.name, "datatype": NAMES[spec.dtype], "shape": list(spec.shape)}

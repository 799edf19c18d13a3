"""`/t/{tenant}/v2/…`: the Open Inference Protocol, version 2, over a tenant's models (`inferring`).

Any key of the tenant's that is not bound to functions may call. Refusals are the platform's problems with one field
more, `error`, which is where the protocol's clients look.
"""

from __future__ import annotations

import logging
import mmap
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from starlette.types import Receive, Scope, Send

from wisp import __version__
from wisp.api import problems
from wisp.api.bodies import ClientGone, refuse_longer
from wisp.api.dataplane import PREFIX, Head, Incoming, Watch, read_head, receipt_headers
from wisp.api.inferenceanswers import JSON_TYPE, Reply, json_reply, refusal, send_reply
from wisp.api.problems import RawHeaders, problem_of
from wisp.errors import (
    FunctionNotFound,
    InferenceFailed,
    InvalidName,
    InvalidRequest,
    NotFound,
    Overloaded,
    RequestTimeout,
    WispError,
)
from wisp.inferring.access import Access
from wisp.inferring.inferring import INFERENCE, Answered
from wisp.names import TenantName, parse_tenant
from wisp.oip import messages
from wisp.oip.datatypes import NAMES
from wisp.oip.messages import JSON_LENGTH, MAX_JSON_BYTES, Inference, Object, Tensor
from wisp.registry.records import Model
from wisp.scheduling.bodies import RequestBody
from wisp.telemetry import Metrics
from wisp.wire.outcome import Outcome
from wisp.wire.tensors import TensorSpec

if TYPE_CHECKING:
    from wisp.node import Node

log = logging.getLogger(__name__)

SEGMENT: Final = b"v2"
PLATFORM: Final = "onnxruntime_onnx"
REMOTE_PLATFORM: Final = "remote"
HERE: Final = {"state": "READY", "reason": ""}
ON_ANOTHER_MACHINE: Final = {"state": "UNKNOWN", "reason": "on another machine; GET its /ready asks that"}
"""Which one it is there, its machine says."""
LENGTH_HEADER: Final = JSON_LENGTH.lower().encode()
BINARY_TYPE: Final = (b"content-type", b"application/octet-stream")


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
                return await self._infer(_only("POST", method, scope), request, head, access, (name, None))
            case ("models", name, "versions", version, "infer"):
                return await self._infer(_only("POST", method, scope), request, head, access, (name, version))
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
        """What is here is ready, being loaded when it is asked for; of what is elsewhere nobody knows unasked."""
        body = RequestBody(self.inferring.budget, MAX_JSON_BYTES)
        try:
            if not head.bodiless:
                await request.read_into(body, self.body_timeout_s)
            if body.size_bytes:
                messages.parse_object(_content(body), "the request")
        finally:
            body.close()
        found = await self.inferring.models(access)
        listed = [
            {"name": name, "version": str(model.version)} | (ON_ANOTHER_MACHINE if model.source else HERE)
            for name, versions in sorted(found.items())
            for model in versions
        ]
        return json_reply(listed, head.request_id)

    async def _infer(
        self, scope: Scope, request: Incoming, head: Head, access: Access, wanted: tuple[str, str | None]
    ) -> Reply:
        model = await self.inferring.find(access, *wanted)
        json_length = _json_length(scope["headers"])
        refuse_longer(head.length, access.request_bytes, "the body")
        body = self.inferring.open_body(access)
        try:
            if not head.bodiless:
                await request.read_into(body, self.body_timeout_s)
            inference = messages.parse_inference(_content(body), json_length)
            answered = await self._run(request, access, model, inference, body.size_bytes)
        finally:
            body.close()
        receipt = answered.receipt
        self.metrics.ran(queue_ns=receipt.queue_ns, guest_ns=0, nn_ns=receipt.nn_ns)
        told = receipt_headers(Outcome.OK, model.version, receipt, head.request_id)
        if answered.failure is not None:
            reply = refusal(problem_of(answered.failure), head.request_id)
            reply.headers += [(b"wisp-outcome", reply.code.encode()), *told[1:]]
        else:
            reply = self._told(access, model, inference, answered, told)
        reply.version, reply.receipt = model.version, receipt
        return reply

    async def _run(
        self, request: Incoming, access: Access, model: Model, inference: Inference, bytes_in: int
    ) -> Answered:
        """While it runs, the connection is watched: a caller that goes away stops the inference."""
        with Watch(request):
            return await self.inferring.infer(access, model, inference, bytes_in)

    def _told(
        self, access: Access, model: Model, inference: Inference, answered: Answered, headers: RawHeaders
    ) -> Reply:
        """Raises `InvalidRequest` where JSON cannot hold it, `InferenceFailed` where the class's answers may not,
        `Overloaded`."""
        outputs = _chosen(inference, answered.outputs)
        size = sum(len(tensor.data) for tensor, _ in outputs)
        if size > access.response_bytes:
            raise InferenceFailed(
                "the outputs are larger than limits.response_body allows", limit=access.response_bytes, used=size
            )
        text, blobs = messages.encode_answer(
            model=model.name, version=str(model.version), identity=inference.id, outputs=outputs
        )
        self.inferring.budget.take(len(text) + size)
        if blobs:
            headers += [BINARY_TYPE, (LENGTH_HEADER, b"%d" % len(text))]
        else:
            headers.append(JSON_TYPE)
        return Reply(
            status=200, code=Outcome.OK.value, headers=headers, parts=[text, *blobs], held_bytes=len(text) + size
        )


def split_path(raw_path: bytes) -> tuple[TenantName, tuple[str, ...]]:
    """The tenant, and what stands below `v2`. Raises `FunctionNotFound` for a name out of grammar."""
    tenant, _, rest = raw_path[len(PREFIX) :].partition(b"/")
    try:
        name = parse_tenant(_decoded(tenant))
    except InvalidName:
        raise FunctionNotFound("there is no such function") from None
    below = rest[len(SEGMENT) :].strip(b"/")
    return name, tuple(_decoded(part) for part in below.split(b"/")) if below else ()


def _decoded(segment: bytes) -> str:
    return (unquote_to_bytes(segment) if b"%" in segment else segment).decode("latin-1")


def _only(allowed: str, method: str, scope: Scope) -> Scope:
    if method != allowed:
        raise WrongMethod(allowed)
    return scope


def _json_length(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """Raises `InvalidRequest` for what is no number, and for a coded body."""
    if any(name == b"content-encoding" and value.strip().lower() != b"identity" for name, value in headers):
        raise InvalidRequest("send the body as it is: content-encoding is not offered")
    values = [value for name, value in headers if name == LENGTH_HEADER]
    if not values:
        return None
    if len(values) > 1 or not values[0].isdigit() or len(values[0]) > 10:
        raise InvalidRequest(f"{JSON_LENGTH} is one number")
    return int(values[0])


def _content(body: RequestBody) -> memoryview:
    """Mapped if it lies in a segment; the mapping goes with the last view of it."""
    segment = body.segment()
    if not segment:
        return memoryview(body.inline())
    return memoryview(mmap.mmap(segment[0], body.size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))


def _spec(spec: TensorSpec) -> Object:
    return {"name": spec.name, "datatype": NAMES[spec.dtype], "shape": list(spec.shape)}


def _chosen(inference: Inference, outputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, bool], ...]:
    if inference.outputs is None:
        return tuple((tensor, inference.binary) for tensor in outputs)
    by_name = {tensor.name: tensor for tensor in outputs}
    return tuple((by_name[wanted.name], wanted.binary) for wanted in inference.outputs)

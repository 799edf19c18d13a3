"""One inference by the Open Inference Protocol: its body read and parsed, run while its caller stays, and answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.types import Scope

from wisp.api.answerheaders import receipt_headers
from wisp.api.bodies import refuse_longer
from wisp.api.incoming import Incoming, content
from wisp.api.inferenceanswers import JSON_TYPE, Reply, refusal
from wisp.api.problems import RawHeaders, problem_of
from wisp.api.requesthead import Head
from wisp.api.watches import Watch, Watches
from wisp.errors import InferenceFailed, InvalidRequest
from wisp.inferring.access import Access
from wisp.inferring.inferring import Answered, Inferring
from wisp.oip import messages
from wisp.oip.messages import JSON_LENGTH, Inference, Tensor
from wisp.registry.records import Model
from wisp.telemetry import Metrics
from wisp.wire.outcome import Outcome

LENGTH_HEADER: Final = JSON_LENGTH.lower().encode()
BINARY_TYPE: Final = (b"content-type", b"application/octet-stream")


class Inferences:
    """`infer` for all models of all tenants."""

    def __init__(self, inferring: Inferring, metrics: Metrics, body_timeout_s: float) -> None:
        self.inferring = inferring
        self.metrics = metrics
        self.body_timeout_s = body_timeout_s
        self._watches = Watches()

    async def infer(
        self, scope: Scope, request: Incoming, head: Head, access: Access, wanted: tuple[str, str | None]
    ) -> Reply:
        model = await self.inferring.find(access, *wanted)
        json_length = _json_length(scope["headers"])
        refuse_longer(head.length, access.request_bytes, "the body")
        body = self.inferring.open_body(access)
        try:
            if not head.bodiless:
                await request.read_into(body, self.body_timeout_s)
            inference = messages.parse_inference(content(body), json_length)
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
        with Watch(self._watches, request):
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


def _chosen(inference: Inference, outputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, bool], ...]:
    if inference.outputs is None:
        return tuple((tensor, inference.binary) for tensor in outputs)
    by_name = {tensor.name: tensor for tensor in outputs}
    return tuple((by_name[wanted.name], wanted.binary) for wanted in inference.outputs)

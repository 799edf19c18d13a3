"""What `/t/{tenant}/v2` answers with: JSON, tensors behind it, and refusals with the field that the protocol adds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from starlette.types import Scope, Send

from wisp.accesslog import NOTHING
from wisp.api.problems import Problem, RawHeaders
from wisp.names import RequestId
from wisp.wire.outcome import Outcome, Receipt

JSON_TYPE: Final = (b"content-type", b"application/json")


@dataclass(slots=True, kw_only=True)
class Reply:
    """`held_bytes` are the node's budget's until it is sent."""

    status: int
    code: str
    headers: RawHeaders
    parts: list[bytes | memoryview]
    held_bytes: int = 0
    version: int = 0
    """Of the model."""
    receipt: Receipt = NOTHING


def json_reply(value: object, request_id: RequestId) -> Reply:
    return Reply(
        status=200,
        code=Outcome.OK.value,
        headers=[JSON_TYPE, (b"wisp-request-id", request_id.encode())],
        parts=[json.dumps(value).encode()],
    )


def refusal(problem: Problem, request_id: RequestId) -> Reply:
    document = json.loads(problem.body(request_id)) | {"error": problem.detail}
    return Reply(
        status=problem.status,
        code=problem.code,
        headers=problem.headers(request_id),
        parts=[json.dumps(document).encode()],
    )


async def send_reply(scope: Scope, send: Send, reply: Reply) -> None:
    size = sum(map(len, reply.parts))
    headers = [*reply.headers, (b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if scope["method"] == "HEAD":
        reply.parts.clear()
    for part in reply.parts:
        await send({"type": "http.response.body", "body": bytes(part), "more_body": True})
    await send({"type": "http.response.body", "body": b""})

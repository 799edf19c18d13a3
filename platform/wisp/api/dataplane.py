"""`ANY /t/{tenant}/{function}[/{path}]`: a request to its function and the answer back, with its receipt.

Names, key, body, invocation, answer; the caller's going away ends the guest. Nothing is logged of what went well, and
what is the same for every request was made beforehand.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from starlette.types import Receive, Scope, Send

from wisp.accesslog import NOTHING
from wisp.answers import Answer
from wisp.api import problems
from wisp.api.answerheaders import guest_headers, receipt_headers, receipt_lines
from wisp.api.bodies import ClientGone, refuse_longer
from wisp.api.incoming import Incoming
from wisp.api.problems import Problem, RawHeaders, problem_of, problem_of_outcome
from wisp.api.requesthead import Head, read_head, split_path
from wisp.api.watches import Watch, Watches
from wisp.dispatch import Call
from wisp.errors import InvalidRequest, RequestTimeout, WispError
from wisp.names import LINES, RequestId
from wisp.resolution import Target
from wisp.telemetry import Metrics
from wisp.wire.exchange import MAX_HEADERS
from wisp.wire.outcome import CODES

if TYPE_CHECKING:
    from wisp.node import Node

log = logging.getLogger(__name__)

COPIED_BYTES: Final = 256 * 1024
"""A larger answer is given to the server where it lies. ASGI says `bytes`; the servers here take any buffer."""
BODILESS: Final = frozenset({204, 205, 304})
CODE_OF: Final = {outcome: outcome.value for outcome in CODES}


class DataPlane:
    """One ASGI application for everything under `/t/`."""

    def __init__(self, node: Node, metrics: Metrics) -> None:
        self.metrics = metrics
        self.dispatcher = node.dispatcher
        self.accesslog = node.accesslog
        self.body_timeout_s = node.settings.body_timeout_s
        self._watches = Watches()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        head = read_head(scope["headers"])
        request = Incoming(receive)
        tenant, function = "", ""
        code: str
        answer: Answer | None = None
        try:
            name, called, below = split_path(scope["raw_path"])
            target = await self.dispatcher.resolve(name, called, head.secret, head.headers, head.pin)
            tenant, function = name, called
            answer = await self._run(scope, request, head, target, below)
            try:
                code = CODE_OF[answer.outcome]
                status = await self._send(scope, send, head, target, answer)
            finally:
                answer.close()
        except ClientGone:
            return
        except WispError as error:
            problem = problem_of(error)
            if problem.status == 500:
                log.exception("a request failed", extra={"request_id": head.request_id})
                problem = problems.internal_error()
            code, status = problem.code, problem.status
            await self._refuse(scope, request, send, problem, head.request_id)
        except Exception:  # the HTTP boundary: whatever it was stays inside
            log.exception("a request failed", extra={"request_id": head.request_id})
            code, status = problems.INTERNAL_ERROR, 500
            await self._refuse(scope, request, send, problems.internal_error(), head.request_id)
        total_s = time.perf_counter() - started
        self.metrics.answered(tenant, code, total_s)
        if self.accesslog is not None:
            self.accesslog.add(
                request_id=head.request_id,
                tenant=tenant,
                function=function,
                status=status,
                outcome=code,
                total_s=total_s,
                version=0 if answer is None else answer.version,
                receipt=NOTHING if answer is None else answer.receipt,
            )

    async def _run(self, scope: Scope, request: Incoming, head: Head, target: Target, below: bytes) -> Answer:
        if len(head.headers) > MAX_HEADERS:
            raise InvalidRequest(f"a request may have {MAX_HEADERS} headers", limit=MAX_HEADERS, used=len(head.headers))
        refuse_longer(head.length, target.plan.grants.request_body_bytes, "the body")
        call = Call(
            target.tenant,
            target.function,
            scope["method"].encode("latin-1"),
            below,
            scope["query_string"],
            head.headers,
            head.request_id,
        )
        body = self.dispatcher.open_body(target)
        try:
            if not head.bodiless:
                await request.read_into(body, self.body_timeout_s)
            with Watch(self._watches, request):  # a caller that goes away takes the guest with it
                return await self.dispatcher.invoke(target, call, body)
        finally:
            body.close()

    async def _send(self, scope: Scope, send: Send, head: Head, target: Target, answer: Answer) -> int:
        receipt = answer.receipt
        self.metrics.ran(queue_ns=receipt.queue_ns, guest_ns=receipt.guest_ns, nn_ns=receipt.nn_ns)
        headers: RawHeaders = []
        lines = b""
        if LINES in scope.get("extensions", ()):  # made and checked one by one, they would cost three times as much
            lines = receipt_lines(answer.outcome, answer.version, receipt, head.request_id)
        else:
            headers = receipt_headers(answer.outcome, answer.version, receipt, head.request_id)
        response = answer.response
        content: bytes | memoryview
        if response is None:
            problem = problem_of_outcome(answer.outcome, receipt, target.grants)
            content = problem.body(head.request_id)
            headers += [pair for pair in problem.headers(head.request_id) if pair[0] != b"wisp-request-id"]
            status = problem.status
        else:
            status, content = response.status, response.body
            if len(content) <= COPIED_BYTES:
                content = bytes(content)
            headers += guest_headers(response.headers)
        await _respond(scope, send, status, headers, content, lines)
        return status

    async def _refuse(self, scope: Scope, request: Incoming, send: Send, problem: Problem, identity: RequestId) -> None:
        if problem.code != RequestTimeout.code:
            await request.linger()
        await _respond(scope, send, problem.status, problem.headers(identity), problem.body(identity))


async def _respond(
    scope: Scope, send: Send, status: int, headers: RawHeaders, content: bytes | memoryview, lines: bytes = b""
) -> None:
    """`lines`: headers too, where the server takes them like this."""
    if status in BODILESS:
        content = b""
    if status not in (204, 304):  # RFC 9110 §8.6
        headers.append((b"content-length", b"%d" % len(content)))
    start = {"type": "http.response.start", "status": status, "headers": headers}
    if lines:
        start["lines"] = lines
    await send(start)
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})

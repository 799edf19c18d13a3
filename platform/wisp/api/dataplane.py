"""`ANY /t/{tenant}/{function}[/{path}]`: a request to its function and the answer back, with its receipt.

Names, key, body, invocation, answer; the caller's going away ends the guest. Nothing is logged of what went well, and
what is the same for every request was made beforehand.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from starlette.types import Receive, Scope, Send

from wisp.accesslog import NOTHING
from wisp.answers import Answer
from wisp.api import problems
from wisp.api.authentication import bearer
from wisp.api.bodies import ClientGone, content_length, refuse_longer
from wisp.api.problems import Problem, RawHeaders, problem_of, problem_of_outcome
from wisp.dispatch import Call
from wisp.errors import FunctionNotFound, InvalidName, InvalidRequest, RequestTimeout, WispError
from wisp.names import FunctionName, RequestId, TenantName, parse_function, parse_tenant, request_id
from wisp.resolution import Target
from wisp.scheduling.bodies import RequestBody
from wisp.telemetry import Metrics
from wisp.wire.exchange import MAX_HEADERS
from wisp.wire.outcome import CODES, Outcome, Receipt

if TYPE_CHECKING:
    from wisp.node import Node

log = logging.getLogger(__name__)

PREFIX: Final = b"/t/"
NS_PER_MS: Final = 1e6
WATCH_AFTER_S: Final = 0.02
COPIED_BYTES: Final = 256 * 1024
"""A larger answer is given to the server where it lies. ASGI says `bytes`; the servers here take any buffer."""
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 4 * 1024 * 1024
"""What is read, and thrown away, of a body that was refused: a connection reset would lose the refusal."""

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
"""RFC 9110 §7.6.1, and what older clients send."""
NOT_FOR_GUESTS: Final = HOP_BY_HOP | {b"authorization"}
ORDINARY: Final = frozenset(
    {
        b"accept", b"accept-encoding", b"accept-language", b"cache-control", b"content-type", b"cookie", b"forwarded",
        b"host", b"origin", b"referer", b"traceparent", b"tracestate", b"user-agent", b"x-forwarded-for",
        b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip",
    }
)  # fmt: skip
"""What most requests carry, and only the guest reads."""
SPECIAL: Final = NOT_FOR_GUESTS | {b"content-length", b"x-request-id"}
"""What the platform looks at, beside its own."""
NOT_FROM_GUESTS: Final = HOP_BY_HOP | {b"content-length", b"date", b"server", b"server-timing"}
OWN: Final = b"wisp-"
PIN: Final = b"wisp-version"
MEMORABLE_BYTES: Final = 128
"""Of a path that is remembered with what it names."""
BODILESS: Final = frozenset({204, 205, 304})
CODE_OF: Final = {outcome: outcome.value for outcome in CODES}
OUTCOME_HEADERS: Final = {outcome: (b"wisp-outcome", outcome.value.encode()) for outcome in CODES}


class Head(NamedTuple):
    """What the platform reads of a request's headers, and what is left of them for the guest."""

    headers: tuple[tuple[bytes, bytes], ...]
    secret: str | None
    length: int | None
    bodiless: bool
    """Neither a length nor a transfer coding: RFC 9112 §6.3 has no body follow."""
    request_id: RequestId
    pin: int | None


def read_head(raw: Sequence[tuple[bytes, bytes]]) -> Head:
    """One pass over the headers; names are lower-case already, as ASGI has them."""
    kept: list[tuple[bytes, bytes]] = []
    authorizations: list[bytes] = []
    lengths: list[bytes] = []
    offered: str | None = None
    nominated: set[bytes] | None = None
    coded = False
    pins: list[bytes] = []
    for pair in raw:
        name, value = pair
        if name in ORDINARY or (name not in SPECIAL and not name.startswith(OWN)):
            kept.append(pair)
        elif name == b"authorization":
            authorizations.append(value)
        elif name == b"content-length":
            kept.append(pair)
            lengths.append(value)
        elif name == b"x-request-id":
            kept.append(pair)
            offered = value.decode("latin-1")
        elif name == b"connection":
            nominated = (nominated or set()) | {token.strip().lower() for token in value.split(b",")}
        elif name == b"transfer-encoding":
            coded = True
        elif name == PIN:
            pins.append(value)
    if nominated:
        kept = [pair for pair in kept if pair[0] not in nominated or pair[0] == b"content-length"]
    return Head(
        tuple(kept),
        bearer(authorizations) if authorizations else None,
        content_length(lengths) if lengths else None,
        not lengths and not coded,
        request_id(offered),
        _pinned(pins) if pins else None,
    )


def _pinned(values: list[bytes]) -> int:
    """The version that the caller asks for; 0, which no version has, where the header is no number."""
    value = values[0]
    return int(value) if len(values) == 1 and value.isdigit() and len(value) < 16 else 0


def split_path(raw_path: bytes) -> tuple[TenantName, FunctionName, bytes]:
    """Tenant, function, and the path below it as it came. Raises `FunctionNotFound` for what is out of grammar."""
    return _split_known(raw_path) if len(raw_path) <= MEMORABLE_BYTES else _split(raw_path)


def _split(raw_path: bytes) -> tuple[TenantName, FunctionName, bytes]:
    tenant, _, rest = raw_path[len(PREFIX) :].partition(b"/")
    function, slash, below = rest.partition(b"/")
    try:
        return parse_tenant(_decoded(tenant)), parse_function(_decoded(function)), slash + below or b"/"
    except InvalidName:
        raise FunctionNotFound("there is no such function") from None


_split_known = lru_cache(maxsize=4096)(_split)


def _decoded(segment: bytes) -> str:
    return (unquote_to_bytes(segment) if b"%" in segment else segment).decode("latin-1")


def receipt_headers(outcome: Outcome, version: int, receipt: Receipt, request: RequestId) -> RawHeaders:
    (
        fuel, nn_fuel, memory_peak_bytes, cpu_ns, queue_ns, store_ns, guest_ns, nn_ns, host_calls, inferences,
        tensor_bytes, _, _,
    ) = receipt  # fmt: skip
    return [
        OUTCOME_HEADERS[outcome],
        (b"wisp-version", b"%d" % version),
        (b"wisp-fuel-used", b"%d" % fuel),
        (b"wisp-nn-fuel", b"%d" % nn_fuel),
        (b"wisp-memory-peak", b"%d" % memory_peak_bytes),
        (b"wisp-host-calls", b"%d" % host_calls),
        (b"wisp-inferences", b"%d" % inferences),
        (b"wisp-tensor-bytes", b"%d" % tensor_bytes),
        (b"wisp-request-id", request.encode()),
        (
            b"server-timing",
            b"queue;dur=%.3f, store;dur=%.3f, guest;dur=%.3f, nn;dur=%.3f, cpu;dur=%.3f"
            % (
                queue_ns / NS_PER_MS,
                store_ns / NS_PER_MS,
                guest_ns / NS_PER_MS,
                nn_ns / NS_PER_MS,
                cpu_ns / NS_PER_MS,
            ),
        ),
    ]


def guest_headers(headers: Sequence[tuple[bytes, bytes]]) -> RawHeaders:
    """A guest's response headers, without those that are the connection's or the platform's."""
    kept = [pair for pair in headers if not (pair[0] in NOT_FROM_GUESTS or pair[0].startswith(OWN))]
    if len(kept) != len(headers):
        nominated = {
            token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")
        }
        if nominated:
            kept = [pair for pair in kept if pair[0] not in nominated]
    return kept


class DataPlane:
    """One ASGI application for everything under `/t/`."""

    def __init__(self, node: Node, metrics: Metrics) -> None:
        self.metrics = metrics
        self.dispatcher = node.dispatcher
        self.accesslog = node.accesslog
        self.body_timeout_s = node.settings.body_timeout_s

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
            with Watch(request):  # a caller that goes away takes the guest with it
                return await self.dispatcher.invoke(target, call, body)
        finally:
            body.close()

    async def _send(self, scope: Scope, send: Send, head: Head, target: Target, answer: Answer) -> int:
        receipt = answer.receipt
        self.metrics.ran(queue_ns=receipt.queue_ns, guest_ns=receipt.guest_ns, nn_ns=receipt.nn_ns)
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
        await _respond(scope, send, status, headers, content)
        return status

    async def _refuse(self, scope: Scope, request: Incoming, send: Send, problem: Problem, identity: RequestId) -> None:
        if problem.code != RequestTimeout.code:
            await request.linger()
        await _respond(scope, send, problem.status, problem.headers(identity), problem.body(identity))


class Incoming:
    """The receiving side of one request."""

    __slots__ = ("_receive", "ended")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def read_into(self, body: RequestBody, timeout_s: float) -> None:
        """Raises what the body raises, `RequestTimeout` and `ClientGone`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.ended:
                    chunk = await self._next()
                    if chunk:
                        body.append(chunk)
        except TimeoutError:
            raise RequestTimeout(f"the body did not arrive within {timeout_s:g} s") from None

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] != "http.request":
            self.ended = True
            raise ClientGone
        self.ended = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    async def gone(self) -> None:
        """Returns when the connection is closed."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def linger(self) -> None:
        """Takes in a little of a body that nobody wants, so that the caller can finish and read why."""
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_S):
                while not self.ended and left > 0:
                    left -= len(await self._next())
        except (TimeoutError, ClientGone):
            self.ended = True


class Watch:
    """Cancels the task that made it once the caller has gone, as long as its block runs, and raises `ClientGone` then.

    It begins after a moment: most requests are answered by then, and a task for each would cost more than many a guest.
    """

    __slots__ = ("_caller", "_later", "_request", "_saw_it_go", "_watching")

    def __init__(self, request: Incoming) -> None:
        self._saw_it_go = False
        self._request = request
        loop = asyncio.get_running_loop()
        self._caller = asyncio.current_task(loop)
        self._watching: asyncio.Task[None] | None = None
        self._later = loop.call_later(WATCH_AFTER_S, self._begin)

    def _begin(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        await self._request.gone()
        self._saw_it_go = True
        assert self._caller is not None
        self._caller.cancel()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._later.cancel()
        watching, self._watching = (
            self._watching,
            None,
        )  # or each would keep the other, and the request, until a collection
        if watching is not None:
            watching.cancel()
        if self._saw_it_go and self._caller is not None:
            self._caller.uncancel()  # the task goes on to end its connection
            if isinstance(error, asyncio.CancelledError):
                raise ClientGone from None


async def _respond(scope: Scope, send: Send, status: int, headers: RawHeaders, content: bytes | memoryview) -> None:
    if status in BODILESS:
        content = b""
    if status not in (204, 304):  # RFC 9110 §8.6
        headers.append((b"content-length", b"%d" % len(content)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})

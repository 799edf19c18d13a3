"""How a request becomes an outcome: names and key, then the function and its grants, then a turn, a sandbox, an ending.

    resolve   key → function → grants                         (from memory; Redis only on a miss)
    open_body                                                 (bytes under the node's budget)
    invoke    quotas, turn → models loaded → code, bundle → queue → a sandbox → ending → receipt, tenant's log

Nothing of a guest is parsed, compiled or run here; a response is decoded as the hostile bytes that it is.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from wisp.bundles import BundleStore
from wisp.code import CodeStore
from wisp.denials import Denials
from wisp.egress.outbound import Egress
from wisp.egress.remote import Remotes
from wisp.errors import (
    Forbidden,
    FunctionNotFound,
    InvalidRequest,
    NotFound,
    Overloaded,
    Suspended,
    TooManyInflight,
    Unauthorized,
    WispError,
)
from wisp.guards import Guards
from wisp.hostmounts import HostStore
from wisp.inline import InlineModels, InlineRequests
from wisp.ledger import Ledger
from wisp.names import FunctionName, RequestId, TenantName
from wisp.plans import Plan, Plans, Route, choose
from wisp.policy.ceilings import Ceilings
from wisp.policy.grants import Grants
from wisp.quotas import Quotas, Turn
from wisp.registry.memory import UNKNOWN
from wisp.registry.records import Entry, Key, Role
from wisp.registry.secrets import Secrets
from wisp.registry.snapshot import Snapshot
from wisp.registry.usage import ABANDONED
from wisp.scheduling.bodies import RequestBody
from wisp.scheduling.budget import ByteBudget
from wisp.scheduling.hosts import InferenceHost
from wisp.scheduling.jobs import Job, Lost
from wisp.scheduling.sandboxes import Sandboxes
from wisp.scheduling.tenanthosts import TenantHosts
from wisp.suspensions import Suspensions
from wisp.tenantlog import Stream, TenantLog
from wisp.wire.exchange import Headers, MalformedExchange, Response, decode_response, encode_request_head
from wisp.wire.invocations import INLINE_BYTES
from wisp.wire.outcome import Ending, Outcome, Receipt

NS = 1_000_000_000
NS_PER_MS = 1_000_000
NOTHING_USED = Receipt()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request as its guest will see it, body apart. `path` is what stands below the function, undecoded."""

    tenant: TenantName
    function: FunctionName
    method: bytes
    path: bytes
    query: bytes
    headers: Headers
    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a request was found to be for."""

    tenant: TenantName
    function: FunctionName
    plan: Plan

    @property
    def version(self) -> int:
        return self.plan.version

    @property
    def grants(self) -> Grants:
        return self.plan.grants


def _readable(headers: Headers) -> Headers:
    """As the exchange promises them: UTF-8. A field value may hold any byte from 0x80 on (RFC 9110 §5.5); what is not
    UTF-8 already is taken for ISO 8859-1."""
    if all(value.isascii() for _, value in headers):
        return headers
    return tuple((name, value if _is_utf8(value) else value.decode("latin-1").encode()) for name, value in headers)


def _told(receipt: Receipt) -> str:
    """A receipt as a tenant's log has it beside a failure."""
    return (
        f"fuel {receipt.fuel}, memory {receipt.memory_peak_bytes} bytes, {receipt.host_calls} host calls, "
        f"{receipt.inferences} inferences, guest {receipt.guest_ns / NS_PER_MS:.3f} ms, "
        f"nn {receipt.nn_ns / NS_PER_MS:.3f} ms, cpu {receipt.cpu_ns / NS_PER_MS:.3f} ms"
    )


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_pin(key: Key | None, pin: int) -> None:
    if key is None:
        raise Unauthorized("Wisp-Version takes a deploy key of this tenant: Authorization: Bearer <key>")
    if key.role is not Role.DEPLOY:
        raise Forbidden("Wisp-Version takes a deploy key")
    if pin < 1:
        raise InvalidRequest("Wisp-Version is the number of one version")


class Answer:
    """How an invocation ended. `response` is there if, and only if, the outcome is ok; `close` once it is sent."""

    __slots__ = ("_budget", "_held", "_owner", "outcome", "receipt", "response", "version")

    def __init__(
        self,
        *,
        outcome: Outcome,
        version: int,
        receipt: Receipt,
        response: Response | None,
        budget: ByteBudget,
        owner: str,
    ) -> None:
        """Raises `Overloaded` if the response's bytes do not fit the node's budget, `TooManyInflight` where they are
        more than its owner's share."""
        self.outcome = outcome
        self.version = version
        self.receipt = receipt
        self.response = response
        self._budget = budget
        self._owner = owner
        self._held = 0
        if response is not None:
            budget.take(len(response.body), owner)
            self._held = len(response.body)

    def close(self) -> None:
        self._budget.give_back(self._held, self._owner)
        self._held = 0


class Dispatcher:
    """`ceilings` is called for the operator's policies in force."""

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        sandboxes: Sandboxes,
        host: InferenceHost,
        own_hosts: TenantHosts,
        gpu_host: InferenceHost | None,
        code: CodeStore,
        bundles: BundleStore,
        hostfiles: HostStore,
        inline: InlineModels,
        budget: ByteBudget,
        tenantlog: TenantLog,
        denials: Denials,
        ceilings: Callable[[], Ceilings],
        secrets: Secrets,
        egress: Egress,
        remotes: Remotes,
        guards: Guards,
        quotas: Quotas,
        suspensions: Suspensions,
        ledger: Ledger,
        operator_key_sha256: bytes,
    ) -> None:
        self.budget = budget
        self._quotas = quotas
        self._suspensions = suspensions
        self._snapshot = snapshot
        self._sandboxes = sandboxes
        self._host = host
        self._own_hosts = own_hosts
        self._gpu_host = gpu_host
        self._code = code
        self._bundles = bundles
        self._hostfiles = hostfiles
        self._inline = inline
        self._tenantlog = tenantlog
        self._denials = denials
        self._egress = egress
        self._remotes = remotes
        self._guards = guards
        self._ledger = ledger
        self._ceilings = ceilings
        self._operator_key_sha256 = operator_key_sha256
        self.plans = Plans(self._retire, secrets, gpu=gpu_host is not None)

    def _retire(self, plan: Plan) -> None:
        self._sandboxes.forget(plan.link)
        shared = self._gpu_host if plan.gpu and self._gpu_host is not None else self._host
        if plan.binding is not None:
            shared.unbind(plan.link.handle)
            self._own_hosts.unbind(plan.entry.tenant.name, plan.link.handle)
        if plan.grants.inline_models:
            self._inline.revise()
            if not self.plans.brings(plan.entry.tenant.name):
                self._inline.forget(plan.entry.tenant.name)
        for model in (*plan.models, *plan.own_models):
            if not self.plans.use(model):
                shared.drop(model)
                self._own_hosts.drop(plan.entry.tenant.name, model)

    async def resolve(
        self,
        tenant: TenantName,
        function: FunctionName,
        secret: str | None,
        headers: Headers = (),
        pin: int | None = None,
    ) -> Target:
        """`headers`: the request's, for a choice among versions that follows one of them; `pin`: the version that the
        caller asks for by its number.

        Raises, in this order, `Unauthorized`, `Forbidden`, `FunctionNotFound`, `NotFound` for a pinned version,
        `Suspended`; `RegistryUnavailable` for what is not in memory while Redis is away.
        """
        key = await self._key(secret)
        if key is not None:
            if key.tenant != tenant or (key.functions is not None and function not in key.functions):
                raise Forbidden("this key is not for that function")
        elif secret is not None and self._is_operator(secret):
            raise Forbidden("the operator's key invokes no functions; use one of the tenant's")
        if pin is not None:
            _check_pin(key, pin)
        entry = await self._entry(tenant, function)
        if entry is None:
            self.plans.forget(tenant, function)
        if key is None:
            route = self._public_route(entry)
            if route is None:
                raise Unauthorized("a key of this tenant is needed: Authorization: Bearer <key>")
        elif entry is None:
            raise FunctionNotFound("there is no such function")
        elif pin is not None:
            route = self.plans.get(await self._pinned(entry, pin), self._ceilings())
        else:
            route = self.plans.get(entry, self._ceilings())
        if route.entry.tenant.suspended or route.entry.function.suspended:
            raise Suspended("the function is suspended")
        plan = route.plans[0] if route.traffic is None else choose(route, route.traffic, key, headers)
        return Target(tenant=tenant, function=function, plan=plan)

    def _public_route(self, entry: Entry | None) -> Route | None:
        if entry is None or entry.version is None:
            return None
        route = self.plans.get(entry, self._ceilings())
        return route if route.public else None

    async def _pinned(self, entry: Entry, number: int) -> Entry:
        """Raises `NotFound` for a version that is not retained."""
        tenant, function = entry.tenant.name, entry.function.name
        pinned = None
        if number in entry.function.versions:
            pinned = await self._snapshot.pinned(tenant, function, number)
        if pinned is None or not pinned.versions:
            raise NotFound(f"{tenant}/{function}@{number}: there is no such version")
        return pinned

    async def _key(self, secret: str | None) -> Key | None:
        if secret is None:
            return None
        key = self._snapshot.peek_key(secret)
        return await self._snapshot.key(secret) if key is UNKNOWN else key

    async def _entry(self, tenant: TenantName, function: FunctionName) -> Entry | None:
        entry = self._snapshot.peek_function(tenant, function)
        return await self._snapshot.function(tenant, function) if entry is UNKNOWN else entry

    def _is_operator(self, secret: str) -> bool:
        offered = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(offered, self._operator_key_sha256)

    def open_body(self, target: Target) -> RequestBody:
        """Raises `RateLimited` or `QuotaExceeded` where it is known that the request would not be let in."""
        try:
            self._quotas.refuse_early(target.tenant)
        except WispError as refused:
            self._ledger.record(target.tenant, target.function, refused.code, NOTHING_USED)
            raise
        return RequestBody(self.budget, target.grants.request_body_bytes, target.tenant)

    async def invoke(self, target: Target, call: Call, body: RequestBody) -> Answer:
        """Runs the function once. The body stays the caller's. Cancelling it stops the guest. However it ends, it is
        in the ledger before it is told.

        Raises `InvalidRequest` for a head that does not fit a frame, every `Exhausted` and every `Unavailable`, and
        `Suspended` if it was stopped for that.
        """
        try:
            ending, queue_ns = await self._run(target, call, body)
        except WispError as refused:
            self._ledger.record(target.tenant, target.function, refused.code, NOTHING_USED)
            raise
        answer = self._answer(target, call.request_id, ending, queue_ns, body.size_bytes)
        if target.plan.guarded:
            self._guards.note(target.plan, answer.outcome, answer.response)
        return answer

    async def _run(self, target: Target, call: Call, body: RequestBody) -> tuple[Ending, int]:
        plan = target.plan
        head = encode_request_head(call.method, call.path, call.query, _readable(call.headers))
        inline = body.inline()
        if len(head) + len(inline) > INLINE_BYTES:
            raise InvalidRequest("the request's headers take too much room", limit=INLINE_BYTES, used=len(head))
        async with self._admitted(target, body) as turn:
            code = self._code.cache.peek(plan.module)
            if code is None:
                code = await self._code.segment(plan.module, plan.ceilings)
            bundle = None if plan.bundle is None else await self._bundles.segment(plan.bundle)
            hosts = await self._hostfiles.segment(plan.hosts) if plan.hosts else None
            job = Job(
                tenant=target.tenant,
                link=plan.link,
                binding=plan.binding,
                models=plan.models,
                own_models=plan.own_models,
                needs_own=plan.needs_own,
                gpu=plan.gpu,
                code=code,
                head=head,
                body=inline,
                body_segment=body.segment(),
                body_bytes=body.size_bytes,
                timeout_ns=plan.grants.timeout_ns,
                request_id=call.request_id.encode(),
                outbound=self._egress.open(plan.outbound),
                remote=self._remotes.open(plan.remotes, plan.grants.response_body_bytes) if plan.remotes else None,
                bundle=bundle,
                hosts=hosts,
                inline=self._inline_of(target),
                abandoned=partial(self._note_abandoned, target, turn, body.size_bytes),
                weight=plan.ceilings.for_class(plan.entry.tenant.class_name).weight,
            )
            try:
                ending, queue_ns = await self._sandboxes.run(
                    job, queue_timeout_s=(plan.grants.concurrency.queue_timeout_ns - turn.waited_ns) / NS
                )
            except Lost as lost:
                ending, queue_ns = lost.ending, lost.receipt.queue_ns
            turn.settle(ending.receipt, len(ending.response))
            return ending, queue_ns + turn.waited_ns

    def _note_abandoned(self, target: Target, turn: Turn, bytes_in: int, receipt: Receipt) -> None:
        """The caller went away; what its guest used is billed all the same."""
        turn.settle(receipt, 0)
        self._ledger.record(
            target.tenant, target.function, ABANDONED, receipt.answered(queue_ns=0, bytes_in=bytes_in, bytes_out=0)
        )

    def _inline_of(self, target: Target) -> InlineRequests | None:
        plan = target.plan
        if not plan.grants.inline_models:
            return None
        return self._inline.serve(target.tenant, len(plan.link.models), own=plan.brings_own)

    @asynccontextmanager
    async def _admitted(self, target: Target, body: RequestBody) -> AsyncIterator[Turn]:
        """Within its tenant's quotas and its function's bounds; left early if it is suspended."""
        plan = target.plan
        self.plans.begin(plan)
        try:
            async with self._suspensions.under_way(target.tenant, target.function):
                await self._refuse_ended(target)
                turn = await self._quotas.enter(
                    target.tenant,
                    target.function,
                    plan.quota,
                    plan.grants.concurrency,
                    fuel=plan.grants.fuel,
                    infers=plan.binding is not None,
                    bytes_in=body.size_bytes,
                )
                try:
                    yield turn
                finally:
                    turn.leave()
        finally:
            self.plans.end(plan)

    async def _refuse_ended(self, target: Target) -> None:
        """Raises `Suspended`, or `FunctionNotFound`: it may have come to be while the body was read.

        `RegistryUnavailable` where something of the kind has happened, and what it left cannot be read.
        """
        entry = await self._entry(target.tenant, target.function)
        if entry is None:
            raise FunctionNotFound("there is no such function")
        if entry.tenant.suspended or entry.function.suspended:
            raise Suspended("the function is suspended")

    def _answer(self, target: Target, request_id: RequestId, ending: Ending, queue_ns: int, bytes_in: int) -> Answer:
        outcome, detail, response = ending.outcome, ending.detail, None
        if outcome is Outcome.OK:
            try:
                response = decode_response(memoryview(ending.response))
            except MalformedExchange as error:
                outcome, detail = Outcome.INVALID_GUEST_RESPONSE, str(error)
            else:
                if len(response.body) > target.grants.response_body_bytes:
                    outcome = Outcome.RESPONSE_TOO_LARGE
                    allowed = target.grants.response_body_bytes
                    detail = f"a response body of {len(response.body)} bytes, limits.response_body is {allowed}"
                    response = None
        self._note(target, request_id, Stream.STDERR, ending.logs.decode("utf-8", "replace"))
        self._note(target, request_id, Stream.LOG, ending.lines.decode("utf-8", "replace"))
        for denial in ending.denials:
            self._denials.add(
                target.tenant, target.function, request_id=request_id, version=target.version, denial=denial
            )
        if detail or outcome is not Outcome.OK:  # a refusal that was only an errno leaves a good ending its detail
            self._note(target, request_id, Stream.PLATFORM, f"{outcome} ({_told(ending.receipt)}): {detail}")
        bytes_out = 0 if response is None else len(response.body)
        receipt = ending.receipt.answered(queue_ns=queue_ns, bytes_in=bytes_in, bytes_out=bytes_out)
        tenant, function = target.tenant, target.function
        try:
            answer = Answer(
                outcome=outcome,
                version=target.version,
                receipt=receipt,
                response=response,
                budget=self.budget,
                owner=tenant,
            )
        except (Overloaded, TooManyInflight) as refused:  # it ran, but there is no room for what it said
            self._ledger.record(tenant, function, refused.code, receipt._replace(bytes_out=0))
            raise
        self._ledger.record(tenant, function, outcome, receipt)
        return answer

    def _note(self, target: Target, request_id: RequestId, stream: Stream, text: str) -> None:
        if text:
            self._tenantlog.add(
                target.tenant,
                target.function,
                request_id=request_id,
                version=target.version,
                stream=stream,
                text=text,
            )

"""How a request becomes an outcome: names and key, then the function and its grants, then a turn, a sandbox, an ending.

    resolve   key → function → grants                         (`resolution`: from memory; Redis only on a miss)
    open_body                                                 (bytes under the node's budget)
    invoke    quotas, turn → models loaded → code, bundle → queue → a sandbox → ending
              receipt, tenant's log, ledger                   (`answers`)

Nothing of a guest is parsed, compiled or run here; a response is decoded as the hostile bytes that it is.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple

from wisp.answers import Answer, Answers
from wisp.bundles import BundleStore
from wisp.code import CodeStore
from wisp.denials import Denials
from wisp.egress.outbound import Egress
from wisp.egress.remote import Remotes
from wisp.errors import InvalidRequest, WispError
from wisp.guards import Guards
from wisp.hostmounts import HostStore
from wisp.inline import InlineModels
from wisp.ledger import Ledger
from wisp.names import FunctionName, RequestId, TenantName
from wisp.plans import Plan, Plans
from wisp.policy.ceilings import Ceilings
from wisp.quotas.quotas import Quotas
from wisp.quotas.turns import Turn
from wisp.registry.secrets import Secrets
from wisp.registry.snapshot import Snapshot
from wisp.registry.usage import ABANDONED
from wisp.resolution import Resolver, Target
from wisp.scheduling.bodies import RequestBody
from wisp.scheduling.budget import ByteBudget
from wisp.scheduling.hosts import InferenceHost
from wisp.scheduling.jobs import Job, Lost
from wisp.scheduling.sandboxes import Sandboxes
from wisp.scheduling.tenanthosts import TenantHosts
from wisp.suspensions import Suspensions
from wisp.tenantlog import TenantLog
from wisp.wire.exchange import Headers, encode_request_head
from wisp.wire.invocations import INLINE_BYTES
from wisp.wire.outcome import Ending, Receipt

NS = 1_000_000_000
NOTHING_USED = Receipt()


class Call(NamedTuple):
    """A request as its guest will see it, body apart. `path` is what stands below the function, undecoded."""

    tenant: TenantName
    function: FunctionName
    method: bytes
    path: bytes
    query: bytes
    headers: Headers
    request_id: RequestId


def _head(call: Call) -> bytes:
    head = encode_request_head(call.method, call.path, call.query, call.headers)
    if head.isascii():
        return head
    return encode_request_head(call.method, call.path, call.query, _readable(call.headers))


def _readable(headers: Headers) -> Headers:
    """As the exchange promises them: UTF-8. A field value may hold any byte from 0x80 on (RFC 9110 §5.5); what is not
    UTF-8 already is taken for ISO 8859-1."""
    return tuple((name, value if _is_utf8(value) else value.decode("latin-1").encode()) for name, value in headers)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


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
        self._sandboxes = sandboxes
        self._host = host
        self._own_hosts = own_hosts
        self._gpu_host = gpu_host
        self._code = code
        self._bundles = bundles
        self._hostfiles = hostfiles
        self._inline = inline
        self._egress = egress
        self._remotes = remotes
        self._guards = guards
        self._ledger = ledger
        self.plans = Plans(self._retire, secrets, gpu=gpu_host is not None)
        self._resolver = Resolver(snapshot, self.plans, ceilings, operator_key_sha256)
        self._answers = Answers(budget, tenantlog, denials, ledger)

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

    def resolve(
        self,
        tenant: TenantName,
        function: FunctionName,
        secret: str | None,
        headers: Headers = (),
        pin: int | None = None,
    ) -> Coroutine[Any, Any, Target]:
        """See `Resolver.resolve`."""
        return self._resolver.resolve(tenant, function, secret, headers, pin)

    def open_body(self, target: Target) -> RequestBody:
        """Raises `RateLimited` or `QuotaExceeded` where it is known that the request would not be let in."""
        try:
            self._quotas.refuse_early(target.tenant)
        except WispError as refused:
            self._ledger.record(target.tenant, target.function, refused.code, NOTHING_USED)
            raise
        return RequestBody(self.budget, target.plan.grants.request_body_bytes, target.tenant)

    async def invoke(self, target: Target, call: Call, body: RequestBody) -> Answer:
        """Runs the function once. The body stays the caller's. Cancelling it stops the guest. However it ends, it is
        in the ledger before it is told.

        Raises `InvalidRequest` for a head that does not fit a frame, every `Exhausted` and every `Unavailable`, and
        `Suspended` if it was stopped for that.
        """
        plan = target.plan
        try:
            head = _head(call)
            inline = body.inline()
            if len(head) + len(inline) > INLINE_BYTES:
                raise InvalidRequest("the request's headers take too much room", limit=INLINE_BYTES, used=len(head))
            self.plans.begin(plan)
            try:
                with self._suspensions.under_way(target.tenant, target.function):
                    if self._resolver.has_changed(target):
                        await self._resolver.refuse_ended(target)
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
                        ending, queue_ns = await self._run(target, call, head, inline, body, turn)
                        turn.settle(ending.receipt, len(ending.response))
                    finally:
                        turn.leave()
            finally:
                self.plans.end(plan)
        except WispError as refused:
            self._ledger.record(target.tenant, target.function, refused.code, NOTHING_USED)
            raise
        answer = self._answers.make(target, call.request_id, ending, queue_ns=queue_ns, bytes_in=body.size_bytes)
        if plan.guarded:
            self._guards.note(plan, answer.outcome, answer.response)
        return answer

    async def _run(
        self, target: Target, call: Call, head: bytes, inline: bytes, body: RequestBody, turn: Turn
    ) -> tuple[Ending, int]:
        """The ending, and how long the request has waited, in nanoseconds."""
        plan, grants = target.plan, target.plan.grants
        code = self._code.cache.peek(plan.module)
        if code is None:
            code = await self._code.segment(plan.module, plan.ceilings)
        large = body.size_bytes > len(inline)
        parts = body.parts() if large else ()
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
            body_parts=parts,
            body_segment=body.segment() if large and not parts else (),
            body_bytes=body.size_bytes,
            timeout_ns=grants.timeout_ns,
            request_id=call.request_id.encode(),
            outbound=self._egress.open(plan.outbound),
            remote=self._remotes.open(plan.remotes, grants.response_body_bytes) if plan.remotes else None,
            bundle=await self._bundles.segment(plan.bundle) if plan.bundle is not None else None,
            hosts=await self._hostfiles.segment(plan.hosts) if plan.hosts else None,
            abandoned=partial(self._note_abandoned, target, turn, body.size_bytes),
            weight=plan.weight,
            self_contained=plan.self_contained and not large,
        )
        if grants.inline_models:
            job.inline = self._inline.serve(target.tenant, len(plan.link.models), own=plan.brings_own)
        queue_timeout_s = (grants.concurrency.queue_timeout_ns - turn.waited_ns) / NS
        try:
            ending, queue_ns = await self._sandboxes.run(job, queue_timeout_s=queue_timeout_s)
        except Lost as lost:
            ending, queue_ns = lost.ending, lost.receipt.queue_ns
        return ending, queue_ns + turn.waited_ns

    def _note_abandoned(self, target: Target, turn: Turn, bytes_in: int, receipt: Receipt) -> None:
        """The caller went away; what its guest used is billed all the same."""
        turn.settle(receipt, 0)
        self._ledger.record(
            target.tenant, target.function, ABANDONED, receipt.answered(queue_ns=0, bytes_in=bytes_in, bytes_out=0)
        )

"""How a caller infers without a guest: key, model, quota, a line of the router's to the inference host, receipt.

    enter   key → tenant, its class's limits           (from memory)
    find    a model of the tenant's or the operator's  (from memory)
    infer   inputs judged → quotas, turn → model loaded → a line → the host's own queue → outputs, receipt, ledger

The router copies tensors as bytes and infers nothing. Quotas, ledger and access log know all of a tenant's inferences
under one name, which no function has.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wisp.catalogue import Catalogue, Named
from wisp.errors import (
    ChildLost,
    Forbidden,
    InferenceFailed,
    InferenceTimeout,
    InvalidRequest,
    NotFound,
    Suspended,
    Unauthorized,
    WispError,
)
from wisp.ledger import Ledger
from wisp.names import RESERVED_FUNCTIONS, FunctionName, TenantName
from wisp.oip.datatypes import NAMES
from wisp.oip.messages import Inference, Tensor
from wisp.policy.ceilings import Ceilings
from wisp.policy.grants import Concurrency
from wisp.policy.schema import TenantClass
from wisp.quotas import Quotas
from wisp.registry.memory import UNKNOWN
from wisp.registry.records import Key, Model, Tenant
from wisp.registry.snapshot import Snapshot
from wisp.registry.usage import ABANDONED
from wisp.scheduling.bodies import RequestBody
from wisp.scheduling.budget import ByteBudget
from wisp.scheduling.hosts import InferenceHost
from wisp.scheduling.routerlines import INPUT_ROOM, Got, Inferred, Put, RouterLines
from wisp.scheduling.tenanthosts import TenantHosts
from wisp.suspensions import Suspensions
from wisp.wire.inferences import Binding, BoundModel, Status
from wisp.wire.outcome import Outcome, Receipt, nn_fuel
from wisp.wire.tensors import TensorSpec

NS: Final = 1_000_000_000
FIRST_HANDLE: Final = 1 << 31
"""Functions have the handles below."""
MAX_BINDINGS: Final = 1024
MAX_QUEUE: Final = 32
QUEUE_TIMEOUT_NS: Final = 500_000_000
(_RESERVED,) = RESERVED_FUNCTIONS
INFERENCE: Final = FunctionName(_RESERVED)
"""What the accounts call it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A caller that may infer, and within what."""

    tenant: Tenant
    tenant_class: TenantClass
    ceilings: Ceilings

    @property
    def request_bytes(self) -> int:
        return min(self.tenant_class.limits.request_body, self.ceilings.ceiling.limits.request_body)

    @property
    def response_bytes(self) -> int:
        return min(self.tenant_class.limits.response_body, self.ceilings.ceiling.limits.response_body)

    def timeout_ns(self, asked_us: int | None) -> int:
        """The class's default, or what the caller asks for, within class and ceiling."""
        most = min(self.tenant_class.limits.timeout, self.ceilings.ceiling.limits.timeout)
        usual = self.tenant_class.defaults.timeout or most
        return min(usual if asked_us is None else asked_us * 1000, most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """How one inference ended: `outputs`, or why there are none. The receipt is there in any case."""

    receipt: Receipt
    outputs: tuple[Tensor, ...] = ()
    failure: WispError | None = None


class Inferring:
    """`ceilings` is called for the operator's policies in force."""

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        catalogue: Catalogue,
        host: InferenceHost,
        own_hosts: TenantHosts,
        lines: RouterLines,
        budget: ByteBudget,
        quotas: Quotas,
        suspensions: Suspensions,
        ledger: Ledger,
        ceilings: Callable[[], Ceilings],
    ) -> None:
        self.budget = budget
        self._snapshot = snapshot
        self._catalogue = catalogue
        self._host = host
        self._own_hosts = own_hosts
        self._quotas = quotas
        self._suspensions = suspensions
        self._ledger = ledger
        self._lines = lines
        self._ceilings = ceilings
        self._handles = itertools.count(FIRST_HANDLE)
        self._bindings: OrderedDict[Binding, Binding] = OrderedDict()
        """By themselves, but for the handle."""

    async def enter(self, tenant: TenantName, secret: str | None) -> Access:
        """Raises `Unauthorized`, `Forbidden`, `Suspended`, `RegistryUnavailable`."""
        key = await self._key(secret)
        if key is None:
            raise Unauthorized("a key of this tenant is needed: Authorization: Bearer <key>")
        if key.tenant != tenant:
            raise Forbidden("this key is another tenant's")
        if key.functions is not None:
            raise Forbidden("this key is for certain functions only; inference takes one that is not")
        found = await self._snapshot.tenant(tenant)
        if found is None:
            raise Forbidden("this key is another tenant's")
        if found.suspended:
            raise Suspended(f"tenant {tenant} is suspended")
        ceilings = self._ceilings()
        return Access(tenant=found, tenant_class=ceilings.for_class(found.class_name), ceilings=ceilings)

    async def _key(self, secret: str | None) -> Key | None:
        if secret is None:
            return None
        key = self._snapshot.peek_key(secret)
        return await self._snapshot.key(secret) if key is UNKNOWN else key

    async def models(self, access: Access) -> Named:
        """Raises `RegistryUnavailable`."""
        if not access.ceilings.ceiling.models.max_inferences:
            return {}
        return await self._catalogue.of(access.tenant.name)

    async def find(self, access: Access, name: str, version: str | None) -> Model:
        """Raises `NotFound`, `RegistryUnavailable`."""
        if not access.ceilings.ceiling.models.max_inferences:
            raise NotFound("there is no such model")
        return await self._catalogue.find(access.tenant.name, name, version)

    def _is_own(self, access: Access, model: Model) -> bool:
        """Whether it runs in the tenant's own host."""
        return model.tenant is not None and not access.tenant_class.trusted_models

    async def load(self, access: Access, model: Model) -> None:
        """Returns when it is loaded. Raises `ModelLoading`."""
        if self._is_own(access, model):
            await self._own_hosts.ensure(access.tenant.name, (model.digest,))
        else:
            await self._host.ensure((model.digest,))

    def open_body(self, access: Access) -> RequestBody:
        """Raises `RateLimited` or `QuotaExceeded` where it is known that the request would not be let in."""
        self._quotas.refuse_early(access.tenant.name)
        return RequestBody(self.budget, access.request_bytes)

    async def infer(self, access: Access, model: Model, request: Inference, bytes_in: int) -> Answered:
        """All outputs of the model, in its order. Cancelling it stops the inference. However it ends, it is in the
        ledger before it is told.

        Raises `InvalidRequest` for inputs that the model does not take, every `Exhausted` and `Unavailable`, and
        `Suspended` if it was stopped for that.
        """
        tenant = access.tenant.name
        try:
            answered = await self._run(access, model, request, bytes_in)
        except WispError as refused:
            self._ledger.record(tenant, INFERENCE, refused.code, Receipt())
            raise
        except asyncio.CancelledError:
            self._ledger.record(tenant, INFERENCE, ABANDONED, Receipt(bytes_in=bytes_in))
            raise
        outcome = Outcome.OK.value if answered.failure is None else answered.failure.code
        self._ledger.record(tenant, INFERENCE, outcome, answered.receipt)
        return answered

    async def _run(self, access: Access, model: Model, request: Inference, bytes_in: int) -> Answered:
        inputs = arrange(model, request)
        tenant, timeout_ns = access.tenant.name, access.timeout_ns(request.timeout_us)
        quota = access.tenant_class.quota
        async with self._suspensions.under_way(tenant, INFERENCE):
            found = await self._snapshot.tenant(tenant)
            if found is None or found.suspended:  # while the body was read
                raise Suspended(f"tenant {tenant} is suspended")
            turn = await self._quotas.enter(
                tenant,
                INFERENCE,
                quota,
                Concurrency(max_inflight=quota.max_inflight, max_queue=MAX_QUEUE, queue_timeout_ns=QUEUE_TIMEOUT_NS),
                fuel=nn_fuel(timeout_ns),
                infers=True,
                bytes_in=bytes_in,
            )
            try:
                inferred = await self._infer(access, model, inputs, timeout_ns, QUEUE_TIMEOUT_NS - turn.waited_ns)
                receipt = receipt_of(inferred, turn.waited_ns, bytes_in)
                turn.settle(receipt, receipt.bytes_out)
            finally:
                turn.leave()
        if inferred.status is Status.OK:
            outputs = _outputs(model, inferred.outputs)
            if outputs is not None:
                return Answered(receipt=receipt, outputs=outputs)
        limit_ms = min(timeout_ns, access.ceilings.ceiling.models.max_time) // 1_000_000
        return Answered(receipt=receipt, failure=failure_of(inferred.status, limit_ms, receipt))

    async def _infer(
        self, access: Access, model: Model, inputs: tuple[Put, ...], timeout_ns: int, queue_ns: int
    ) -> Inferred:
        tenant, own, digests = access.tenant.name, self._is_own(access, model), (model.digest,)
        await self.load(access, model)
        with self._own_hosts.lease(tenant, digests) if own else self._host.lease(digests):
            host = self._own_hosts.get(tenant) if own else self._host
            if host is None:
                raise ChildLost("the inference host was lost under this request; try again")
            inferred = await self._lines.infer(
                host,
                tenant,
                self._binding(access, model),
                inputs,
                timeout_s=timeout_ns / NS,
                queue_timeout_s=max(queue_ns, 0) / NS,
            )
            if inferred.status is Status.RUNTIME and not host.has(digests):
                raise ChildLost("the inference host was lost under this request; try again")
            return inferred

    def _binding(self, access: Access, model: Model) -> Binding:
        wanted = Binding(
            handle=0,
            tenant=access.tenant.name,
            models=(
                BoundModel(
                    digest=model.digest,
                    max_inferences=1,
                    max_time_ns=access.ceilings.ceiling.models.max_time,
                    shares_batches=model.tenant is None,
                ),
            ),
            weight=access.tenant_class.weight,
        )
        known = self._bindings.get(wanted)
        if known is None:
            known = self._bindings[wanted] = Binding(
                handle=next(self._handles), tenant=wanted.tenant, models=wanted.models, weight=wanted.weight
            )
            if len(self._bindings) > MAX_BINDINGS:
                former = self._bindings.popitem(last=False)[1]
                self._host.unbind(former.handle)
                self._own_hosts.unbind(TenantName(former.tenant), former.handle)
        self._bindings.move_to_end(wanted)
        return known


def arrange(model: Model, request: Inference) -> tuple[Put, ...]:
    """The inputs in the model's order. Raises `InvalidRequest`, naming the tensor."""
    given = {tensor.name: tensor for tensor in request.inputs}
    missing = [spec.name for spec in model.inputs if spec.name not in given]
    unknown = sorted(given.keys() - {spec.name for spec in model.inputs})
    if missing or unknown:
        which = f"lacks input {missing[0]!a}" if missing else f"has no input {unknown[0]!a}"
        raise InvalidRequest(f"the request {which}" if missing else f"the model {which}")
    outputs = {spec.name for spec in model.outputs}
    for wanted in request.outputs or ():
        if wanted.name not in outputs:
            raise InvalidRequest(f"the model has no output {wanted.name!a}")
    ordered = [given[spec.name] for spec in model.inputs]
    for tensor, spec in zip(ordered, model.inputs, strict=True):
        if not spec.accepts(tensor.dtype, tensor.shape):
            raise InvalidRequest(
                f"input {spec.name!a} is {_said(spec)}, not {NAMES[tensor.dtype]} {list(tensor.shape)}"
            )
    size = sum(len(tensor.data) for tensor in ordered)
    if size > INPUT_ROOM - 64 * len(ordered):
        raise InvalidRequest(f"the inputs have {size} bytes", limit=INPUT_ROOM - 64 * len(ordered), used=size)
    return tuple(Put(dtype=tensor.dtype, dims=tensor.shape, data=tensor.data) for tensor in ordered)


def _said(spec: TensorSpec) -> str:
    return f"{NAMES[spec.dtype]} {list(spec.shape)}"


def _outputs(model: Model, got: tuple[Got, ...]) -> tuple[Tensor, ...] | None:
    """None if they are not the model's: the host is believed in no more than that."""
    if [one.index for one in got] != list(range(len(model.outputs))):
        return None
    if any(one.dtype is not spec.dtype for one, spec in zip(got, model.outputs, strict=True)):
        return None
    return tuple(
        Tensor(name=spec.name, dtype=one.dtype, shape=one.dims, data=one.data)
        for one, spec in zip(got, model.outputs, strict=True)
    )


def receipt_of(inferred: Inferred, waited_ns: int, bytes_in: int) -> Receipt:
    metered = inferred.metered
    fuel = nn_fuel(metered.nn_ns)
    return Receipt(
        fuel=fuel,
        nn_fuel=fuel,
        queue_ns=inferred.queue_ns + waited_ns,
        nn_ns=metered.nn_ns,
        inferences=metered.inferences,
        tensor_bytes=metered.tensor_bytes,
        bytes_in=bytes_in,
        bytes_out=sum(len(output.data) for output in inferred.outputs),
    )


def failure_of(status: Status, limit_ms: int, receipt: Receipt) -> WispError:
    match status:
        case Status.DEADLINE | Status.MODEL_TIME:
            used = receipt.nn_ns // 1_000_000
            return InferenceTimeout("the inference did not end within its time", limit=limit_ms, used=used)
        case Status.TOO_LARGE:
            return InferenceFailed("the model's outputs are larger than what a request may have")
        case Status.INVALID_ARGUMENT:
            return InvalidRequest("the model does not take these inputs together")
        case _:
            return InferenceFailed("the model failed on these inputs")

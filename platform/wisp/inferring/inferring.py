"""How a caller infers without a guest: key, model, quota, the model where it is served, receipt.

    enter   key → tenant, its class's limits           (from memory)
    find    a model of the tenant's or the operator's  (from memory)
    infer   inputs judged → quotas, turn → in a host of this node's, or on another machine → outputs, receipt, ledger

The router copies tensors as bytes and infers nothing. Quotas, ledger and access log know all of a tenant's inferences
under one name, which no function has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from wisp.errors import Forbidden, InvalidRequest, NotFound, Suspended, Unauthorized, WispError
from wisp.inferring.access import Access, Asked, Ran
from wisp.inferring.catalogue import Catalogue, Named
from wisp.inferring.hosted import HostedModels
from wisp.inferring.remote import RemoteInference
from wisp.inferring.states import READY, Readiness, RemoteStates, State
from wisp.ledger import Ledger
from wisp.names import RESERVED_FUNCTIONS, FunctionName, TenantName
from wisp.oip.datatypes import NAMES
from wisp.oip.messages import Inference, Tensor
from wisp.policy.ceilings import Ceilings
from wisp.policy.grants import Concurrency
from wisp.quotas.quotas import Quotas
from wisp.registry.memory import UNKNOWN
from wisp.registry.records import Key, Model
from wisp.registry.snapshot import Snapshot
from wisp.registry.usage import ABANDONED
from wisp.scheduling.bodies import RequestBody
from wisp.scheduling.budget import ByteBudget
from wisp.suspensions import Suspensions
from wisp.wire.outcome import Outcome, Receipt, nn_fuel
from wisp.wire.tensors import TensorSpec

MAX_QUEUE: Final = 32
QUEUE_TIMEOUT_NS: Final = 500_000_000
(_RESERVED,) = RESERVED_FUNCTIONS
INFERENCE: Final = FunctionName(_RESERVED)
"""What the accounts call it."""


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
        hosted: HostedModels,
        remote: RemoteInference,
        states: RemoteStates,
        budget: ByteBudget,
        quotas: Quotas,
        suspensions: Suspensions,
        ledger: Ledger,
        ceilings: Callable[[], Ceilings],
    ) -> None:
        self.budget = budget
        self._snapshot = snapshot
        self._catalogue = catalogue
        self._hosted = hosted
        self._remote = remote
        self._states = states
        self._quotas = quotas
        self._suspensions = suspensions
        self._ledger = ledger
        self._ceilings = ceilings

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

    async def listed(self, access: Access, *, ready: bool) -> list[tuple[Model, State]]:
        """By name and version, with what is known at this moment; with `ready` only those that can be asked now, for
        which other machines are asked. Raises `RegistryUnavailable`."""
        found = await self.models(access)
        models = [model for _, versions in sorted(found.items()) for model in versions]
        if ready:
            await self._states.ask(model for model in models if model.source)
        listed = [(model, self._states.of(model) if model.source else READY) for model in models]
        return [each for each in listed if not ready or each[1].readiness is Readiness.READY]

    async def find(self, access: Access, name: str, version: str | None) -> Model:
        """Raises `NotFound`, `RegistryUnavailable`."""
        if not access.ceilings.ceiling.models.max_inferences:
            raise NotFound("there is no such model")
        return await self._catalogue.find(access.tenant.name, name, version)

    async def make_ready(self, access: Access, model: Model) -> None:
        """Returns when it can be asked. Raises `ModelLoading`, or what `RemoteInference` says."""
        await (self._remote if model.source else self._hosted).make_ready(access, model)

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
        if not model.source:
            self._hosted.refuse_larger(inputs)
        tenant, timeout_ns = access.tenant.name, access.timeout_ns(request.timeout_us)
        quota = access.tenant_class.quota
        with self._suspensions.under_way(tenant, INFERENCE):
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
                asked = Asked(
                    access=access,
                    model=model,
                    inputs=inputs,
                    timeout_ns=timeout_ns,
                    queue_ns=max(QUEUE_TIMEOUT_NS - turn.waited_ns, 0),
                )
                ran = await (self._remote if model.source else self._hosted).infer(asked)
                receipt = receipt_of(ran, turn.waited_ns, bytes_in)
                turn.settle(receipt, receipt.bytes_out)
            finally:
                turn.leave()
        return Answered(receipt=receipt, outputs=ran.outputs, failure=ran.failure)


def arrange(model: Model, request: Inference) -> tuple[Tensor, ...]:
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
    ordered = tuple(given[spec.name] for spec in model.inputs)
    for tensor, spec in zip(ordered, model.inputs, strict=True):
        if not spec.accepts(tensor.dtype, tensor.shape):
            raise InvalidRequest(
                f"input {spec.name!a} is {_said(spec)}, not {NAMES[tensor.dtype]} {list(tensor.shape)}"
            )
    return ordered


def _said(spec: TensorSpec) -> str:
    return f"{NAMES[spec.dtype]} {list(spec.shape)}"


def receipt_of(ran: Ran, waited_ns: int, bytes_in: int) -> Receipt:
    metered = ran.metered
    fuel = nn_fuel(metered.nn_ns)
    return Receipt(
        fuel=fuel,
        nn_fuel=fuel,
        queue_ns=ran.queue_ns + waited_ns,
        nn_ns=metered.nn_ns,
        inferences=metered.inferences,
        tensor_bytes=metered.tensor_bytes,
        bytes_in=bytes_in,
        bytes_out=sum(len(output.data) for output in ran.outputs),
    )

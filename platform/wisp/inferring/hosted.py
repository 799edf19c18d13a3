"""Models that run on this node: in the shared inference host or the tenant's own, asked over a line of the router's."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import Final

from wisp.errors import ChildLost, InferenceFailed, InferenceTimeout, InvalidRequest, ModelLoading, WispError
from wisp.inferring.access import Access, Asked, Ran
from wisp.names import TenantName
from wisp.oip.messages import Tensor
from wisp.registry.records import Model
from wisp.scheduling.hosts import InferenceHost
from wisp.scheduling.routerlines import INPUT_ROOM, Got, Inferred, Put, RouterLines
from wisp.scheduling.tenanthosts import TenantHosts
from wisp.wire.inferences import Binding, BoundModel, Status

NS: Final = 1_000_000_000
FIRST_HANDLE: Final = 1 << 31
"""Functions have the handles below."""
MAX_BINDINGS: Final = 1024
MOST_LOADS: Final = 4
"""Of one model for one request: each may be undone by another's before it is used."""


class HostedModels:
    """Belongs to one event loop."""

    def __init__(self, *, host: InferenceHost, own_hosts: TenantHosts, lines: RouterLines) -> None:
        self._host = host
        self._own_hosts = own_hosts
        self._lines = lines
        self._handles = itertools.count(FIRST_HANDLE)
        self._bindings: OrderedDict[Binding, Binding] = OrderedDict()
        """By themselves, but for the handle."""

    def refuse_larger(self, inputs: tuple[Tensor, ...]) -> None:
        """Raises `InvalidRequest` for more than a line takes."""
        size, most = sum(len(tensor.data) for tensor in inputs), INPUT_ROOM - 64 * len(inputs)
        if size > most:
            raise InvalidRequest(f"the inputs have {size} bytes", limit=most, used=size)

    async def make_ready(self, access: Access, model: Model) -> None:
        """Returns when it is loaded. Raises `ModelLoading`."""
        if _is_own(access, model):
            await self._own_hosts.ensure(access.tenant.name, (model.digest,))
        else:
            await self._host.ensure((model.digest,))

    def _has(self, access: Access, model: Model) -> bool:
        if _is_own(access, model):
            return self._own_hosts.has(access.tenant.name, (model.digest,))
        return self._host.has((model.digest,))

    async def infer(self, asked: Asked) -> Ran:
        """Raises `ModelLoading`, `Overloaded`, `QueueTimeout`, `ChildLost`. Cancelling it stops the inference."""
        inferred = await self._infer(asked)
        ran = Ran(metered=inferred.metered, queue_ns=inferred.queue_ns)
        if inferred.status is Status.OK:
            outputs = _outputs(asked.model, inferred.outputs)
            if outputs is not None:
                return Ran(outputs=outputs, metered=ran.metered, queue_ns=ran.queue_ns)
        failure = _failure(inferred, asked.time_ns)
        return Ran(failure=failure, metered=ran.metered, queue_ns=ran.queue_ns)

    async def _infer(self, asked: Asked) -> Inferred:
        access, model = asked.access, asked.model
        tenant, own, digests = access.tenant.name, _is_own(access, model), (model.digest,)
        loads = 0
        while not self._has(access, model):  # another may have made room for itself before this goes on
            if loads == MOST_LOADS:
                raise ModelLoading("other models take this one's room again and again; try again")
            await self.make_ready(access, model)
            loads += 1
        with self._own_hosts.lease(tenant, digests) if own else self._host.lease(digests):
            host = self._own_hosts.get(tenant) if own else self._host
            if host is None:
                raise ChildLost("the inference host was lost under this request; try again")
            inferred = await self._lines.infer(
                host,
                tenant,
                self._binding(access, model),
                tuple(Put(dtype=tensor.dtype, dims=tensor.shape, data=tensor.data) for tensor in asked.inputs),
                timeout_s=asked.timeout_ns / NS,
                queue_timeout_s=asked.queue_ns / NS,
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


def _is_own(access: Access, model: Model) -> bool:
    """Whether it runs in the tenant's own host."""
    return model.tenant is not None and not access.tenant_class.trusted_models


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


def _failure(inferred: Inferred, time_ns: int) -> WispError:
    match inferred.status:
        case Status.DEADLINE | Status.MODEL_TIME:
            limit, used = time_ns // 1_000_000, inferred.metered.nn_ns // 1_000_000
            return InferenceTimeout("the inference did not end within its time", limit=limit, used=used)
        case Status.TOO_LARGE:
            return InferenceFailed("the model's outputs are larger than what a request may have")
        case Status.INVALID_ARGUMENT:
            return InvalidRequest("the model does not take these inputs together")
        case _:
            return InferenceFailed("the model failed on these inputs")

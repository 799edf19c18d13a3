"""What a sandbox and the inference hosts are told of a version: limits, environment, mounts, and models by number."""

from __future__ import annotations

import itertools

from wisp.egress.remotemodels import RemoteModel, parse_source
from wisp.names import Digest, FunctionName, TenantName
from wisp.placement import place, session_of
from wisp.policy.choices import Batch, OnViolation
from wisp.policy.grants import Grants
from wisp.registry.keys import model_field
from wisp.registry.records import ModelPin, Version
from wisp.wire.inferences import Binding, BoundModel
from wisp.wire.invocations import FunctionLink, ModelLink, MountLink

_handles = itertools.count(1)


def make_links(
    tenant: TenantName,
    function: FunctionName,
    module: Digest,
    grants: Grants,
    pins: tuple[ModelPin, ...],
    secrets: tuple[tuple[str, str], ...] = (),
    weight: int = 1,
    trusted: bool = False,
    gpu: bool = False,
) -> tuple[FunctionLink, Binding | None]:
    """Under a handle that is never used again. `secrets`: those that the policy names, by name, with their
    values. `trusted`: the tenant's own models run beside the operator's. `gpu`: there is one on this node, which only
    models that run there may use."""
    handle = next(_handles)
    by_name = {pin.name: pin for pin in pins}
    granted = [
        (grant, pin, place(grant.target, gpu=gpu and (pin.shared or trusted)))
        for grant in grants.models
        if (pin := by_name.get(grant.name)) is not None
    ]
    link = FunctionLink(
        handle=handle,
        module=module,
        abi=grants.abi,
        entrypoint=grants.entrypoint or "",
        fuel=grants.fuel,
        memory_bytes=grants.memory_bytes,
        response_bytes=grants.response_body_bytes,
        log_bytes=grants.log_bytes,
        environment=(*grants.environment, *secrets),
        models=tuple(
            ModelLink(
                name=grant.name,
                target=target or "",
                max_inferences=grant.max_inferences,
                max_time_ns=grant.max_time_ns,
                inputs=pin.inputs,
                outputs=pin.outputs,
                own=not (pin.shared or trusted),
                remote=bool(pin.source),
            )
            for grant, pin, target in granted
        ),
        clock=grants.clock,
        random=grants.random,
        trap_on_violation=grants.on_violation is OnViolation.TRAP,
        tenant=tenant,
        function=function,
        files=tuple(
            MountLink(mount=mount.mount, source=mount.source, allow=mount.allow, quota_bytes=mount.quota_bytes)
            for mount in grants.files
        ),
        inline_models=grants.inline_models,
    )
    if not granted and not grants.inline_models:
        return link, None
    bound = tuple(
        BoundModel(
            digest=session_of(pin.digest, target),
            max_inferences=grant.max_inferences,
            max_time_ns=grant.max_time_ns,
            shares_batches=pin.shared and grant.batch is Batch.SHARED,
        )
        for grant, pin, target in granted
    )
    return link, Binding(handle=handle, tenant=tenant, models=bound, weight=weight)


def remotes_of(link: FunctionLink, version: Version) -> tuple[RemoteModel | None, ...]:
    """By their numbers in the binding; empty where no model is elsewhere."""
    if not any(model.remote for model in link.models):
        return ()
    pins = {pin.name: pin for pin in version.models}
    return tuple(
        RemoteModel(
            name=model_field(pins[model.name].model, pins[model.name].version),
            source=parse_source(pins[model.name].source),
            binary=pins[model.name].binary,
            inputs=model.inputs,
            outputs=model.outputs,
            max_inferences=model.max_inferences,
            max_time_ns=model.max_time_ns,
        )
        if model.remote
        else None
        for model in link.models
    )


def digests_of(link: FunctionLink, binding: Binding | None, *, own: bool) -> tuple[Digest, ...]:
    """What must be loaded before the guest starts. `own`: in the tenant's own inference host, else in the others."""
    bound = () if binding is None else binding.models
    return tuple(
        Digest(one.digest)
        for model, one in zip(link.models, bound, strict=True)
        if model.own is own and model.target and not model.remote
    )

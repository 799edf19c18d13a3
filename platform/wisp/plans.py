"""From a registry entry to what a sandbox is told: grants in force, links, bindings. Kept until either side changes.

A plan is made once per version and generation of the operator's policies, never per request.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from wisp.bundles import Bundle, bundle_of
from wisp.errors import FunctionNotFound
from wisp.hostmounts import host_mounts_of
from wisp.names import Digest, FunctionName, TenantName
from wisp.policy.ceilings import Ceilings
from wisp.policy.choices import OnViolation
from wisp.policy.grants import Grants
from wisp.policy.narrowing import narrow
from wisp.policy.parse import parse_policy
from wisp.policy.schema import Quota
from wisp.registry.records import Draft, Entry, ModelPin, Tenant
from wisp.registry.secrets import Secrets
from wisp.scheduling.hostfiles import HostMount
from wisp.wire.inferences import Binding, BoundModel
from wisp.wire.invocations import FunctionLink, ModelLink, MountLink

CAPACITY = 4096

_handles = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`models` are the digests that must be loaded before the guest starts."""

    entry: Entry
    ceilings: Ceilings
    grants: Grants
    quota: Quota
    module: Digest
    version: int
    link: FunctionLink
    binding: Binding | None
    models: tuple[Digest, ...]
    bundle: Bundle | None
    hosts: tuple[HostMount, ...]


def make_links(
    tenant: TenantName,
    function: FunctionName,
    module: Digest,
    grants: Grants,
    pins: tuple[ModelPin, ...],
    secrets: tuple[tuple[str, str], ...] = (),
) -> tuple[FunctionLink, Binding | None]:
    """Under a handle that is never used again. `secrets`: those that the policy names, by name, with their values."""
    handle = next(_handles)
    by_name = {pin.name: pin for pin in pins}
    granted = [(grant, by_name[grant.name]) for grant in grants.models if grant.name in by_name]
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
                target=grant.target,
                max_inferences=grant.max_inferences,
                max_time_ns=grant.max_time_ns,
                inputs=pin.inputs,
                outputs=pin.outputs,
            )
            for grant, pin in granted
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
    )
    if not granted:
        return link, None
    bound = tuple(
        BoundModel(digest=pin.digest, max_inferences=grant.max_inferences, max_time_ns=grant.max_time_ns)
        for grant, pin in granted
    )
    return link, Binding(handle=handle, tenant=tenant, models=bound)


def grants_of(draft: Draft, tenant: Tenant, ceilings: Ceilings) -> Grants:
    """What is in force for a version now: the stored policy, narrowed by what the operator allows at present."""
    policy = parse_policy(draft.policy_text.encode())
    return narrow(policy, ceilings.for_class(tenant.class_name), ceilings.ceiling)


class Plans:
    """`on_retired` is called with each link that no new request will use; `secrets` opens what entries hold sealed."""

    def __init__(self, on_retired: Callable[[Plan], None], secrets: Secrets) -> None:
        self._on_retired = on_retired
        self._secrets = secrets
        self._plans: OrderedDict[tuple[TenantName, FunctionName], Plan] = OrderedDict()

    def get(self, entry: Entry, ceilings: Ceilings) -> Plan:
        """Raises `FunctionNotFound` for a function that has no active version, `RegistryUnavailable` for a secret that
        does not open."""
        key = (entry.tenant.name, entry.function.name)
        plan = self._plans.get(key)
        if plan is not None and plan.entry is entry and plan.ceilings is ceilings:
            return plan
        fresh = self._make(entry, ceilings)
        if plan is not None:
            self._on_retired(plan)
        self._plans[key] = fresh
        self._plans.move_to_end(key)
        if len(self._plans) > CAPACITY:
            self._on_retired(self._plans.popitem(last=False)[1])
        return fresh

    def _make(self, entry: Entry, ceilings: Ceilings) -> Plan:
        version, tenant = entry.version, entry.tenant
        if version is None:
            raise FunctionNotFound("there is no such function")
        grants = grants_of(version, tenant, ceilings)
        secrets = self._secrets.variables(tenant.name, entry.secrets)
        link, binding = make_links(tenant.name, entry.function.name, version.module, grants, version.models, secrets)
        return Plan(
            entry=entry,
            ceilings=ceilings,
            grants=grants,
            quota=ceilings.for_class(tenant.class_name).quota,
            module=version.module,
            version=version.number,
            link=link,
            binding=binding,
            models=() if binding is None else tuple(Digest(model.digest) for model in binding.models),
            bundle=bundle_of(version.bundle, grants),
            hosts=host_mounts_of(grants, ceilings.ceiling),
        )

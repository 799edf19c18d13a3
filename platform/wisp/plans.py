"""From a registry entry to what a sandbox is told: grants in force, links, bindings. Kept until either side changes.

A plan is made once per version and generation of the operator's policies, never per request.
"""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from wisp.bundles import Bundle, bundle_of
from wisp.errors import FunctionNotFound
from wisp.hostmounts import host_mounts_of
from wisp.names import Digest, FunctionName, TenantName
from wisp.policy.ceilings import Ceilings
from wisp.policy.choices import Access, OnViolation
from wisp.policy.grants import Grants
from wisp.policy.narrowing import narrow
from wisp.policy.parse import parse_policy
from wisp.policy.schema import Quota
from wisp.registry.records import Draft, Entry, Key, ModelPin, Tenant, Version
from wisp.registry.secrets import Secrets
from wisp.registry.traffic import WHOLE_PERCENT, Traffic, sticky_point
from wisp.scheduling.hostfiles import HostMount
from wisp.wire.exchange import Headers
from wisp.wire.inferences import Binding, BoundModel
from wisp.wire.invocations import FunctionLink, ModelLink, MountLink

CAPACITY = 4096

_handles = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one version runs. `models` are the digests that must be loaded before the guest starts."""

    entry: Entry
    record: Version
    secrets: tuple[tuple[str, bytes], ...]
    """Those that the version's policy names, sealed."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What the requests for one function go to. `plans`: as the entry's versions, the stable one first; at least one.

    `traffic`: how to choose among them; None where there is nothing to choose. `public`: all may be called without a
    key, so that the choice decides about no caller's right.
    """

    entry: Entry
    ceilings: Ceilings
    plans: tuple[Plan, ...]
    traffic: Traffic | None
    public: bool


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


def choose(route: Route, traffic: Traffic, key: Key | None, headers: Headers) -> Plan:
    """The version that one request goes to. A caller without what the split sticks to is placed by chance."""
    value = None
    if traffic.sticky_header is not None:
        name = traffic.sticky_header.encode()
        value = next((content for field, content in headers if field == name), None)
    elif traffic.sticky_key and key is not None:
        value = key.id.encode()
    if value is None:
        point = random.random() * WHOLE_PERCENT  # noqa: S311 - no secret: which version answers
    else:
        point = sticky_point(f"{route.entry.tenant.name}/{route.entry.function.name}", value)
    return route.plans[traffic.place_of(point)]


class Plans:
    """`on_retired` is called with each plan that no new request will use; `secrets` opens what entries hold sealed."""

    def __init__(self, on_retired: Callable[[Plan], None], secrets: Secrets) -> None:
        self._on_retired = on_retired
        self._secrets = secrets
        self._routes: OrderedDict[tuple[TenantName, FunctionName, int], Route] = OrderedDict()

    def get(self, entry: Entry, ceilings: Ceilings) -> Route:
        """Raises `FunctionNotFound` for a function that has no active version, `RegistryUnavailable` for a secret that
        does not open."""
        pin = entry.versions[0].number if entry.pinned and entry.versions else 0
        key = (entry.tenant.name, entry.function.name, pin)
        route = self._routes.get(key)
        if route is not None and route.entry is entry and route.ceilings is ceilings:
            return route
        fresh = self._make(entry, ceilings, route)
        self._routes[key] = fresh
        self._routes.move_to_end(key)
        if route is not None:
            self._retire(route, fresh)
        if len(self._routes) > CAPACITY:
            self._retire(self._routes.popitem(last=False)[1], None)
        return fresh

    def _retire(self, route: Route, successor: Route | None) -> None:
        kept = set() if successor is None else {plan.link.handle for plan in successor.plans}
        for plan in route.plans:
            if plan.link.handle not in kept:
                self._on_retired(plan)

    def _make(self, entry: Entry, ceilings: Ceilings, former: Route | None) -> Route:
        if not entry.versions:
            raise FunctionNotFound("there is no such function")
        plans = tuple(self._plan(entry, version, ceilings, former) for version in entry.versions)
        return Route(
            entry=entry,
            ceilings=ceilings,
            plans=plans,
            traffic=entry.traffic,
            public=all(plan.grants.access is Access.PUBLIC for plan in plans),
        )

    def _plan(self, entry: Entry, version: Version, ceilings: Ceilings, former: Route | None) -> Plan:
        """A version that runs as before keeps its link: sandboxes need not link it anew when only the traffic moves."""
        tenant = entry.tenant
        for plan in () if former is None or former.ceilings is not ceilings else former.plans:
            if (
                plan.record == version
                and plan.entry.tenant.class_name == tenant.class_name
                and plan.secrets == _of(entry, plan.grants.secrets)
            ):
                return replace(plan, entry=entry)
        grants = grants_of(version, tenant, ceilings)
        sealed = _of(entry, grants.secrets)
        secrets = self._secrets.variables(tenant.name, sealed)
        link, binding = make_links(tenant.name, entry.function.name, version.module, grants, version.models, secrets)
        return Plan(
            entry=entry,
            record=version,
            secrets=sealed,
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


def _of(entry: Entry, names: tuple[str, ...]) -> tuple[tuple[str, bytes], ...]:
    """Those of the entry's secrets that one version's policy names, in its order."""
    held = dict(entry.secrets)
    return tuple((name, held[name]) for name in names if name in held)

"""From a registry entry to how its versions run: grants in force, links, bindings. Kept until either side changes.

A plan is made once per version and generation of the operator's policies, never per request.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from wisp.bundles import Bundle, bundle_of
from wisp.egress.outbound import Terms
from wisp.egress.remotemodels import RemoteModel
from wisp.errors import FunctionNotFound
from wisp.hostmounts import host_mounts_of
from wisp.links import digests_of, make_links, remotes_of
from wisp.names import Digest, FunctionName, TenantName
from wisp.policy.ceilings import Ceilings
from wisp.policy.choices import Access, Target
from wisp.policy.grants import Grants
from wisp.policy.narrowing import narrow
from wisp.policy.parse import stored_policy
from wisp.policy.schema import Quota
from wisp.registry.records import Draft, Entry, Key, Tenant, Version
from wisp.registry.secrets import Secrets
from wisp.registry.snapshot import CAPACITY
from wisp.registry.traffic import WHOLE_PERCENT, Traffic, sticky_point
from wisp.scheduling.hostfiles import HostMount
from wisp.wire.exchange import Headers, ResponseDecoder
from wisp.wire.inferences import Binding
from wisp.wire.invocations import FunctionLink

Place = tuple[TenantName, FunctionName, int]
"""The number of the version is 0 where none is pinned."""


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
    own_models: tuple[Digest, ...]
    """In the tenant's own inference host; `models` in the shared one, or all in the one with the GPU."""
    trusted: bool
    gpu: bool
    """Whether one of `models` runs on the GPU."""
    bundle: Bundle | None
    hosts: tuple[HostMount, ...]
    outbound: Terms
    remotes: tuple[RemoteModel | None, ...]
    """By their numbers in the binding; empty where no model is elsewhere."""
    weight: int
    """The tenant's share beside others that wait."""
    needs_own: bool
    """Whether a guest may need the tenant's own inference host."""
    brings_own: bool
    """Whether what its guests bring is opened in the tenant's own host; it never is beside a GPU."""
    self_contained: bool
    """Whether its guests reach nothing outside their sandbox: no inference, no other host."""
    guarded: bool
    """Whether what its requests come to counts against it: it is a candidate of a guarded traffic."""
    answers: ResponseDecoder = field(default_factory=ResponseDecoder, compare=False, repr=False)
    """Reads those of its guests."""


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


def grants_of(draft: Draft, tenant: Tenant, ceilings: Ceilings) -> Grants:
    """What is in force for a version now: the stored policy, narrowed by what the operator allows at present."""
    return narrow(stored_policy(draft.policy_text), ceilings.for_class(tenant.class_name), ceilings.ceiling)


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
    """`on_retired` is called with each plan that no request uses any more; `secrets` opens what entries hold sealed."""

    def __init__(self, on_retired: Callable[[Plan], None], secrets: Secrets, *, gpu: bool = False) -> None:
        self._on_retired = on_retired
        self._gpu = gpu
        self._secrets = secrets
        self._routes: OrderedDict[Place, Route] = OrderedDict()
        self._prepared: OrderedDict[Place, Route] = OrderedDict()
        self._in_use: dict[int, int] = {}
        """By handle: the requests that run, or wait, under that plan."""

    def get(self, entry: Entry, ceilings: Ceilings) -> Route:
        """Raises `FunctionNotFound` for a function that has no active version, `RegistryUnavailable` for a secret that
        does not open."""
        place = _place(entry)
        route = self._routes.get(place)
        if route is not None and route.entry is entry and route.ceilings is ceilings:
            return route
        ready = self._prepared.pop(place, None)
        if ready is not None and ready.ceilings is ceilings and ready.entry == entry:
            fresh = replace(ready, entry=entry)
        else:
            fresh = self._make(entry, ceilings, route)
        self._hold(self._routes, place, fresh)
        for former in (route, ready):
            self._let_go(former)
        return fresh

    def prepare(self, entry: Entry, ceilings: Ceilings) -> Route:
        """What `get` will give for an equal entry, made beforehand. Raises as `get` does."""
        place = _place(entry)
        former = self._prepared.get(place)
        if former is not None and former.ceilings is ceilings and former.entry == entry:
            return former
        fresh = self._make(entry, ceilings, self._routes.get(place))
        self._hold(self._prepared, place, fresh)
        self._let_go(former)
        return fresh

    def forget(self, tenant: TenantName, function: FunctionName) -> None:
        """There is no such function any more."""
        for routes in (self._routes, self._prepared):
            self._let_go(routes.pop((tenant, function, 0), None))

    def use(self, model: Digest) -> bool:
        """Whether a plan that requests may come by needs it."""
        routes = (*self._routes.values(), *self._prepared.values())
        return any(model in (*plan.models, *plan.own_models) for route in routes for plan in route.plans)

    def brings(self, tenant: TenantName) -> bool:
        """Whether a function of this tenant, of those that requests may come by, may bring models."""
        routes = (*self._routes.items(), *self._prepared.items())
        return any(place[0] == tenant and plan.grants.inline_models for place, route in routes for plan in route.plans)

    def begin(self, plan: Plan) -> None:
        """A request is going to run under it: it is not retired before the matching `end`."""
        handle = plan.link.handle
        self._in_use[handle] = self._in_use.get(handle, 0) + 1

    def end(self, plan: Plan) -> None:
        handle = plan.link.handle
        self._in_use[handle] -= 1
        if not self._in_use[handle]:
            del self._in_use[handle]
            self._retire_unheld(plan)

    def _hold(self, routes: OrderedDict[Place, Route], place: Place, route: Route) -> None:
        routes[place] = route
        routes.move_to_end(place)
        if len(routes) > CAPACITY:
            self._let_go(routes.popitem(last=False)[1])

    def _let_go(self, route: Route | None) -> None:
        """New requests do not come by it any more."""
        for plan in () if route is None else route.plans:
            if plan.link.handle not in self._in_use:
                self._retire_unheld(plan)

    def _retire_unheld(self, plan: Plan) -> None:
        tenant, function = plan.entry.tenant.name, plan.entry.function.name
        route = self._routes.get((tenant, function, 0))
        if route is not None and route.plans[0].link is plan.link:  # as a rule, and after every request
            return
        holders = (
            route,
            self._prepared.get((tenant, function, 0)),
            self._routes.get((tenant, function, plan.version)),
        )
        if not any(held.link is plan.link for route in holders if route is not None for held in route.plans):
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
                return replace(plan, entry=entry, guarded=_guarded(entry, version))
        grants = grants_of(version, tenant, ceilings)
        sealed = _of(entry, grants.secrets)
        secrets = self._secrets.variables(tenant.name, sealed)
        tenant_class = ceilings.for_class(tenant.class_name)
        link, binding = make_links(
            tenant.name,
            entry.function.name,
            version.module,
            grants,
            version.models,
            secrets,
            weight=tenant_class.weight,
            trusted=tenant_class.trusted_models,
            gpu=self._gpu,
        )
        gpu = any(model.target == Target.GPU for model in link.models)
        own_models = digests_of(link, binding, own=True)
        brings_own = grants.inline_models and (gpu or not tenant_class.trusted_models)
        return Plan(
            entry=entry,
            record=version,
            secrets=sealed,
            ceilings=ceilings,
            grants=grants,
            quota=tenant_class.quota,
            module=version.module,
            version=version.number,
            link=link,
            binding=binding,
            models=digests_of(link, binding, own=False),
            own_models=own_models,
            trusted=tenant_class.trusted_models,
            gpu=gpu,
            bundle=bundle_of(version.bundle, grants),
            hosts=host_mounts_of(grants, ceilings.ceiling),
            outbound=Terms(
                hosts=grants.allowed_outbound_hosts,
                blocked_networks=ceilings.ceiling.blocked_networks,
                body_bytes=grants.response_body_bytes,
                max_requests=grants.outbound_requests,
            ),
            remotes=remotes_of(link, version),
            weight=tenant_class.weight,
            needs_own=bool(own_models) or brings_own,
            brings_own=brings_own,
            self_contained=binding is None and not grants.allowed_outbound_hosts,
            guarded=_guarded(entry, version),
        )


def _guarded(entry: Entry, version: Version) -> bool:
    traffic = entry.traffic
    return traffic is not None and traffic.guard is not None and version.number != entry.function.active


def _of(entry: Entry, names: tuple[str, ...]) -> tuple[tuple[str, bytes], ...]:
    """Those of the entry's secrets that one version's policy names, in its order."""
    held = dict(entry.secrets)
    return tuple((name, held[name]) for name in names if name in held)


def _place(entry: Entry) -> Place:
    pin = entry.versions[0].number if entry.pinned and entry.versions else 0
    return entry.tenant.name, entry.function.name, pin

"""What a request is for: its key, its function, and the version of it that answers; from memory, as a rule."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final, NamedTuple

from wisp.errors import Forbidden, FunctionNotFound, InvalidRequest, NotFound, Suspended, Unauthorized
from wisp.names import FunctionName, TenantName
from wisp.plans import Plan, Plans, Route, choose
from wisp.policy.ceilings import Ceilings
from wisp.policy.grants import Grants
from wisp.registry.memory import UNKNOWN
from wisp.registry.records import Entry, Key, Role
from wisp.registry.snapshot import Snapshot
from wisp.wire.exchange import Headers

UNSEEN: Final = -1


class Target(NamedTuple):
    """What a request was found to be for. `seen`: as of which change of the memory of functions that is so; `UNSEEN`
    where it was not read from there."""

    tenant: TenantName
    function: FunctionName
    plan: Plan
    seen: int = UNSEEN

    @property
    def version(self) -> int:
        return self.plan.version

    @property
    def grants(self) -> Grants:
        return self.plan.grants


class Resolver:
    """`ceilings` is called for the operator's policies in force."""

    def __init__(
        self, snapshot: Snapshot, plans: Plans, ceilings: Callable[[], Ceilings], operator_key_sha256: bytes
    ) -> None:
        self._snapshot = snapshot
        self._functions = snapshot.functions.memory
        self._plans = plans
        self._ceilings = ceilings
        self._operator_key_sha256 = operator_key_sha256

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
        key = None
        if secret is not None:
            key = self._snapshot.known_key(tenant, secret) or await self._key(secret)
            self._check_key(key, secret, tenant, function)
        if pin is not None:
            _check_pin(key, pin)
        seen = self._functions.changes
        entry = self._snapshot.peek_function(tenant, function)
        if entry is UNKNOWN:
            entry, seen = await self._snapshot.function(tenant, function), UNSEEN
        if entry is None:
            self._plans.forget(tenant, function)
        if key is None:
            route = self._public_route(entry)
            if route is None:
                raise Unauthorized("a key of this tenant is needed: Authorization: Bearer <key>")
        elif entry is None:
            raise FunctionNotFound("there is no such function")
        elif pin is not None:
            seen = UNSEEN  # what is there of the version says nothing of the function
            route = self._plans.get(await self._pinned(entry, pin), self._ceilings())
        else:
            route = self._plans.get(entry, self._ceilings())
        if route.entry.tenant.suspended or route.entry.function.suspended:
            raise Suspended("the function is suspended")
        plan = route.plans[0] if route.traffic is None else choose(route, route.traffic, key, headers)
        return Target(tenant, function, plan, seen)

    def _check_key(self, key: Key | None, secret: str, tenant: TenantName, function: FunctionName) -> None:
        if key is not None:
            if key.tenant != tenant or (key.functions is not None and function not in key.functions):
                raise Forbidden("this key is not for that function")
        elif self._is_operator(secret):
            raise Forbidden("the operator's key invokes no functions; use one of the tenant's")

    def _public_route(self, entry: Entry | None) -> Route | None:
        if entry is None or entry.version is None:
            return None
        route = self._plans.get(entry, self._ceilings())
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

    async def _key(self, secret: str) -> Key | None:
        key = self._snapshot.peek_key(secret)
        return await self._snapshot.key(secret) if key is UNKNOWN else key

    def _is_operator(self, secret: str) -> bool:
        offered = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(offered, self._operator_key_sha256)

    def has_changed(self, target: Target) -> bool:
        """Whether the function may not be what it was when it was resolved."""
        return target.seen != self._functions.changes

    async def refuse_ended(self, target: Target) -> None:
        """Raises `Suspended`, or `FunctionNotFound`: it may have come to be while the body was read.

        `RegistryUnavailable` where something of the kind has happened, and what it left cannot be read.
        """
        entry = self._snapshot.peek_function(target.tenant, target.function)
        if entry is UNKNOWN:
            entry = await self._snapshot.function(target.tenant, target.function)
        if entry is None:
            raise FunctionNotFound("there is no such function")
        if entry.tenant.suspended or entry.function.suspended:
            raise Suspended("the function is suspended")


def _check_pin(key: Key | None, pin: int) -> None:
    if key is None:
        raise Unauthorized("Wisp-Version takes a deploy key of this tenant: Authorization: Bearer <key>")
    if key.role is not Role.DEPLOY:
        raise Forbidden("Wisp-Version takes a deploy key")
    if pin < 1:
        raise InvalidRequest("Wisp-Version is the number of one version")

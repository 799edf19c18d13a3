"""Whom a change of the operator's documents would touch, before it is made."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from wisp.errors import InvalidPolicy, NotFound
from wisp.names import FunctionName, TenantName
from wisp.policy.ceilings import Ceilings
from wisp.policy.differences import Change, grants_changes
from wisp.policy.narrowing import narrow
from wisp.policy.parse import parse_policy
from wisp.registry.records import Tenant, Version
from wisp.registry.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """A function, by its active version, whose grants in force would be others."""

    tenant: TenantName
    function: FunctionName
    version: int
    changes: tuple[Change, ...]


async def foresee(registry: Registry, before: Ceilings, after: Ceilings) -> tuple[Touched, ...]:
    """Every function of every tenant, by name, suspended ones included."""
    found = []
    for tenant in await registry.tenants.list():
        for function in await registry.functions.list(tenant.name):
            if function.active is None:
                continue
            try:
                version = await registry.functions.version(tenant.name, function.name, function.active)
            except NotFound:  # deleted meanwhile
                continue
            changes = await asyncio.to_thread(_changes, version, tenant, before, after)
            if changes:
                row = Touched(tenant=tenant.name, function=function.name, version=version.number, changes=changes)
                found.append(row)
    return tuple(found)


def _changes(version: Version, tenant: Tenant, before: Ceilings, after: Ceilings) -> tuple[Change, ...]:
    try:
        policy = parse_policy(version.policy_text.encode())
        former, latter = (
            narrow(policy, ceilings.for_class(tenant.class_name), ceilings.ceiling) for ceilings in (before, after)
        )
    except (InvalidPolicy, NotFound):  # what is not in force under either cannot be touched
        return ()
    return grants_changes(former, latter)

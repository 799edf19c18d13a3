"""Tenants: who they are, and that nothing of them stays behind.

The tenant's own slot is the truth. The index of all tenants is in another, so it is written before the tenant appears
and again after, and cleared after it is gone: what a crash in between leaves there is skipped, and `repair_index`
rebuilds it.
"""

from __future__ import annotations

import time

from wisp.errors import NotFound
from wisp.names import ClassName, TenantName, parse_tenant
from wisp.registry import scripts
from wisp.registry.codec import body_of, decode, encode
from wisp.registry.connection import Connection
from wisp.registry.expectations import Expected, listed
from wisp.registry.keys import SHARED_TAG, TENANTS, Kind, everywhere, key, keys, owner_tag
from wisp.registry.records import Key, Tenant
from wisp.registry.refusals import accepted


class Tenants:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def create(self, name: TenantName, class_name: ClassName, first_key: Key | None = None) -> Tenant:
        """With its first key in one step. Raises `Conflict` if there is one."""
        tenant = Tenant(name=name, class_name=class_name, suspended=False, created_at=int(time.time()))
        await self.connection.command("SADD", TENANTS, name)
        answer = await self.connection.run(
            scripts.CREATE_TENANT,
            keys(name, Kind.TENANT, Kind.GENERATION, Kind.KEYS),
            name,
            body_of(tenant, without="revision"),
            *(() if first_key is None else (first_key.id, encode(first_key))),
        )
        (raw,) = accepted(answer, name)
        await self.connection.command("SADD", TENANTS, name)  # a delete may have cleared the intent meanwhile
        return decode(Tenant, raw, place=name)

    async def find(self, name: TenantName) -> Tenant | None:
        raw = await self.connection.get(key(name, Kind.TENANT))
        return None if raw is None else decode(Tenant, raw, place=name)

    async def get(self, name: TenantName) -> Tenant:
        tenant = await self.find(name)
        if tenant is None:
            raise NotFound(f"{name}: there is no such tenant")
        return tenant

    async def list(self) -> tuple[Tenant, ...]:
        """By name."""
        members = await self.connection.command("SMEMBERS", TENANTS)
        names = sorted(member.decode() for member in members)
        raws = await self.connection.get_each([key(TenantName(name), Kind.TENANT) for name in names])
        return tuple(decode(Tenant, raw, place=name) for name, raw in zip(names, raws, strict=True) if raw is not None)

    async def patch(
        self,
        name: TenantName,
        *,
        class_name: ClassName | None = None,
        suspended: bool | None = None,
        expected: Expected = None,
    ) -> Tenant:
        """Changes what is given; raises `NotFound`, and `PreconditionFailed` at another revision than expected."""
        answer = await self.connection.run(
            scripts.CHANGE_TENANT,
            keys(name, Kind.TENANT, Kind.GENERATION),
            name,
            listed(expected),
            class_name or "",
            "" if suspended is None else int(suspended),
        )
        (raw,) = accepted(answer, name)
        return decode(Tenant, raw, place=name)

    async def delete(self, name: TenantName, *, expected: Expected = None) -> None:
        """Removes the tenant and all that it has; its blobs go with the next `collect_garbage`.

        Raises `NotFound`, and `PreconditionFailed` at another revision than expected."""
        others = [kind for kind in Kind if kind not in (Kind.TENANT, Kind.GENERATION)]
        answer = await self.connection.run(
            scripts.DELETE_TENANT, keys(name, Kind.TENANT, Kind.GENERATION, *others), name, listed(expected)
        )
        accepted(answer, name)
        await self.connection.command("SREM", TENANTS, name)
        if await self.find(name) is not None:  # created again meanwhile
            await self.connection.command("SADD", TENANTS, name)

    async def repair_index(self) -> None:
        """Makes the index agree with the tenants that exist; safe at any time, meant for the start."""
        found = {owner_tag(stored) async for stored in self.connection.scan(everywhere(Kind.TENANT))} - {SHARED_TAG}
        if found:
            await self.connection.command("SADD", TENANTS, *sorted(found))
        for member in await self.connection.command("SMEMBERS", TENANTS):
            name = parse_tenant(member.decode())
            if name not in found and await self.find(name) is None:
                await self.connection.command("SREM", TENANTS, name)

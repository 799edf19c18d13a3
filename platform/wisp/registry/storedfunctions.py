"""Functions, their versions and their history as the registry has them: what is read, and that it is whole."""

from __future__ import annotations

from wisp.errors import NotFound, RegistryUnavailable
from wisp.names import FunctionName, TenantName
from wisp.policy.parse import stored_policy
from wisp.registry import functionscripts as scripts
from wisp.registry.codec import decode
from wisp.registry.connection import Connection
from wisp.registry.history import Change
from wisp.registry.keys import Kind, key, keys, version_field
from wisp.registry.records import Entry, Function, Tenant, Version
from wisp.registry.refusals import accepted
from wisp.registry.secrets import sealed_secrets


def answering(function: Function) -> tuple[int, ...]:
    """The numbers of the versions that answer, the stable one first."""
    if function.traffic is not None:
        return tuple(share.version for share in function.traffic.split)
    return () if function.active is None else (function.active,)


class StoredFunctions:
    """Every reading raises `RegistryUnavailable` for a record that is damaged or another's."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def get(self, tenant: TenantName, name: FunctionName) -> Function:
        raw = await self.connection.hash_get(key(tenant, Kind.FUNCTIONS), name)
        if raw is None:
            raise NotFound(f"{tenant}/{name}: there is no such function")
        return self.read_function(tenant, name, raw)

    async def list(self, tenant: TenantName) -> tuple[Function, ...]:
        """By name. An unknown tenant has none."""
        stored = await self.connection.hash_all(key(tenant, Kind.FUNCTIONS))
        return tuple(self.read_function(tenant, name, raw) for name, raw in sorted(stored.items()))

    async def version(self, tenant: TenantName, name: FunctionName, number: int) -> Version:
        raw = await self.connection.hash_get(key(tenant, Kind.VERSIONS), version_field(name, number))
        if raw is None:
            raise NotFound(f"{tenant}/{name}@{number}: there is no such version")
        return self.read_version(tenant, name, number, raw)

    async def versions(self, tenant: TenantName, name: FunctionName) -> tuple[Version, ...]:
        """All retained, ascending; raises `NotFound` without the function."""
        function = await self.get(tenant, name)
        fields = [version_field(name, number) for number in function.versions]
        raws = await self.connection.hash_get_each(key(tenant, Kind.VERSIONS), fields)
        return tuple(
            self.read_version(tenant, name, number, raw)
            for number, raw in zip(function.versions, raws, strict=True)
            if raw is not None  # deleted between the two reads
        )

    async def history(self, tenant: TenantName, name: FunctionName) -> tuple[Change, ...]:
        """The newest changes, latest first, at most `RETAINED_CHANGES`; raises `NotFound` without the function."""
        await self.get(tenant, name)
        fields = [f"{name}@{place}" for place in range(scripts.RETAINED_CHANGES)]
        raws = await self.connection.hash_get_each(key(tenant, Kind.HISTORY), fields)
        found = [decode(Change, raw, place=f"{tenant}/{name}") for raw in raws if raw is not None]
        return tuple(sorted(found, key=lambda change: -change.number))

    async def entry(self, tenant: TenantName, name: FunctionName, pinned: int | None = None) -> Entry | None:
        """What answers a request, read in one step, and its secrets; None without the tenant or the function.

        `pinned`: that version instead of those that the traffic names; without it the entry has no version.
        """
        place = f"{tenant}/{name}"
        answer = await self.connection.run(
            scripts.READ_ENTRY,
            keys(tenant, Kind.TENANT, Kind.FUNCTIONS, Kind.VERSIONS),
            name,
            "" if pinned is None else pinned,
        )
        owner, raw, raws = accepted(answer, place)
        if owner is None or raw is None:
            return None
        function = self.read_function(tenant, name, raw)
        numbers = answering(function) if pinned is None else (pinned,) * len(raws)
        versions = tuple(
            self.read_version(tenant, name, number, each) for number, each in zip(numbers, raws, strict=True)
        )
        named = {secret for version in versions for secret in stored_policy(version.policy_text).secrets}
        return Entry(
            tenant=decode(Tenant, owner, place=tenant),
            function=function,
            versions=versions,
            secrets=await sealed_secrets(self.connection, tenant, sorted(named)),
            pinned=pinned is not None,
        )

    def read_version(self, tenant: TenantName, name: FunctionName, number: int, raw: bytes) -> Version:
        place = f"{tenant}/{name}@{number}"
        version = decode(Version, raw, place=place)
        if version.number != number:
            raise RegistryUnavailable(f"the registry's record of {place} is another's: restore it from a backup")
        return version

    def read_function(self, tenant: TenantName, name: str, raw: bytes) -> Function:
        place = f"{tenant}/{name}"
        function = decode(Function, raw, place=place)
        if (function.tenant, function.name) != (tenant, name):
            raise RegistryUnavailable(f"the registry's record of {place} is another's: restore it from a backup")
        return function

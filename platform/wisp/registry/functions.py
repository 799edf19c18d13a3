"""Functions and their versions: numbered once, immutable, switched atomically."""

from __future__ import annotations

from wisp.errors import NotFound, RegistryUnavailable
from wisp.names import FunctionName, TenantName
from wisp.policy.parse import parse_policy
from wisp.registry import scripts
from wisp.registry.codec import body_of, decode
from wisp.registry.connection import Connection
from wisp.registry.keys import Kind, key, keys, model_field, version_field
from wisp.registry.models import Models
from wisp.registry.records import Draft, Entry, Function, ModelPin, Tenant, Version
from wisp.registry.refusals import accepted
from wisp.registry.secrets import sealed_secrets


def pin_word(pin: ModelPin) -> str:
    return f"{'shared' if pin.shared else 'own'}/{pin.model}"


def answering(function: Function) -> tuple[int, ...]:
    """The numbers of the versions that answer, the stable one first."""
    if function.traffic is not None:
        return tuple(share.version for share in function.traffic.split)
    return () if function.active is None else (function.active,)


class Functions:
    def __init__(self, connection: Connection, models: Models) -> None:
        self.connection = connection
        self.models = models

    async def put_version(
        self, tenant: TenantName, name: FunctionName, draft: Draft, *, activate: bool
    ) -> tuple[Version, bool]:
        """The version with this content and whether it is new; activates it if asked, new or not.

        The function comes into being with its first version. Raises `NotFound` if the tenant or a pinned model is gone.
        """
        place = f"{tenant}/{name}"
        async with self.models.announced(tenant, name, draft.models):
            answer = await self.connection.run(
                scripts.PUT_VERSION,
                keys(
                    tenant,
                    Kind.TENANT,
                    Kind.FUNCTIONS,
                    Kind.NUMBERS,
                    Kind.VERSIONS,
                    Kind.CONTENTS,
                    Kind.PINS,
                    Kind.MODELS,
                    Kind.GENERATION,
                ),
                tenant,
                name,
                draft.content_digest,
                body_of(draft),
                int(activate),
                draft.created_at,
                " ".join(sorted({pin_word(pin) for pin in draft.models})),
                " ".join(sorted({model_field(pin.model, pin.version) for pin in draft.models if not pin.shared})),
            )
            created, raw, _function = accepted(answer, place)
        return decode(Version, raw, place=place), bool(created)

    async def get(self, tenant: TenantName, name: FunctionName) -> Function:
        raw = await self.connection.hash_get(key(tenant, Kind.FUNCTIONS), name)
        if raw is None:
            raise NotFound(f"{tenant}/{name}: there is no such function")
        return self._read(tenant, name, raw)

    async def list(self, tenant: TenantName) -> tuple[Function, ...]:
        """By name. An unknown tenant has none."""
        stored = await self.connection.hash_all(key(tenant, Kind.FUNCTIONS))
        return tuple(self._read(tenant, name, raw) for name, raw in sorted(stored.items()))

    async def version(self, tenant: TenantName, name: FunctionName, number: int) -> Version:
        raw = await self.connection.hash_get(key(tenant, Kind.VERSIONS), version_field(name, number))
        if raw is None:
            raise NotFound(f"{tenant}/{name}@{number}: there is no such version")
        return self._read_version(tenant, name, number, raw)

    async def versions(self, tenant: TenantName, name: FunctionName) -> tuple[Version, ...]:
        """All retained, ascending; raises `NotFound` without the function."""
        function = await self.get(tenant, name)
        fields = [version_field(name, number) for number in function.versions]
        raws = await self.connection.hash_get_each(key(tenant, Kind.VERSIONS), fields)
        return tuple(
            self._read_version(tenant, name, number, raw)
            for number, raw in zip(function.versions, raws, strict=True)
            if raw is not None  # deleted between the two reads
        )

    async def activate(self, tenant: TenantName, name: FunctionName, number: int) -> Function:
        """Rolls forward or back; raises `NotFound` without the function or the version."""
        return await self._change(tenant, name, number=number)

    async def suspend(self, tenant: TenantName, name: FunctionName) -> Function:
        return await self._change(tenant, name, suspended=True)

    async def resume(self, tenant: TenantName, name: FunctionName) -> Function:
        return await self._change(tenant, name, suspended=False)

    async def delete(self, tenant: TenantName, name: FunctionName) -> None:
        """Removes the function and its versions, and lets go of its models; its numbers stay used up."""
        answer = await self.connection.run(
            scripts.DELETE_FUNCTION,
            keys(tenant, Kind.FUNCTIONS, Kind.VERSIONS, Kind.CONTENTS, Kind.PINS, Kind.GENERATION),
            tenant,
            name,
        )
        accepted(answer, f"{tenant}/{name}")

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
        function = self._read(tenant, name, raw)
        numbers = answering(function) if pinned is None else (pinned,) * len(raws)
        versions = tuple(
            self._read_version(tenant, name, number, each) for number, each in zip(numbers, raws, strict=True)
        )
        named = {secret for version in versions for secret in parse_policy(version.policy_text.encode()).secrets}
        return Entry(
            tenant=decode(Tenant, owner, place=tenant),
            function=function,
            versions=versions,
            secrets=await sealed_secrets(self.connection, tenant, sorted(named)),
            pinned=pinned is not None,
        )

    async def _change(
        self, tenant: TenantName, name: FunctionName, *, number: int | None = None, suspended: bool | None = None
    ) -> Function:
        place = f"{tenant}/{name}" if number is None else f"{tenant}/{name}@{number}"
        answer = await self.connection.run(
            scripts.CHANGE_FUNCTION,
            keys(tenant, Kind.FUNCTIONS, Kind.VERSIONS, Kind.GENERATION),
            tenant,
            name,
            "" if number is None else number,
            "" if suspended is None else int(suspended),
        )
        (raw,) = accepted(answer, place)
        return self._read(tenant, name, raw)

    def _read_version(self, tenant: TenantName, name: FunctionName, number: int, raw: bytes) -> Version:
        place = f"{tenant}/{name}@{number}"
        version = decode(Version, raw, place=place)
        if version.number != number:
            raise RegistryUnavailable(f"the registry's record of {place} is another's: restore it from a backup")
        return version

    def _read(self, tenant: TenantName, name: str, raw: bytes) -> Function:
        place = f"{tenant}/{name}"
        function = decode(Function, raw, place=place)
        if (function.tenant, function.name) != (tenant, name):
            raise RegistryUnavailable(f"the registry's record of {place} is another's: restore it from a backup")
        return function

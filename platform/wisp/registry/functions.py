"""Functions: versions, numbered once and immutable; traffic among them, switched atomically; their history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wisp.errors import Fault, InvalidTraffic, NotFound, RegistryUnavailable
from wisp.names import FunctionName, TenantName
from wisp.policy.parse import stored_policy
from wisp.policy.schema import Quota
from wisp.registry import functionscripts as scripts
from wisp.registry.codec import body_of, decode
from wisp.registry.connection import Connection
from wisp.registry.expectations import Expected, listed
from wisp.registry.history import Change
from wisp.registry.keys import Kind, key, keys, model_field, version_field
from wisp.registry.models import Models
from wisp.registry.records import Draft, Entry, Function, ModelPin, Tenant, Version
from wisp.registry.refusals import accepted
from wisp.registry.secrets import sealed_secrets
from wisp.registry.storage import blob_words
from wisp.registry.traffic import Traffic


def pin_word(pin: ModelPin) -> str:
    return f"{'shared' if pin.shared else 'own'}/{pin.model}"


def answering(function: Function) -> tuple[int, ...]:
    """The numbers of the versions that answer, the stable one first."""
    if function.traffic is not None:
        return tuple(share.version for share in function.traffic.split)
    return () if function.active is None else (function.active,)


class NoVersion(NotFound):
    def __init__(self, subject: str, number: str) -> None:
        super().__init__(f"{subject}: there is no such version")
        self.number = number


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What an upload came to: the version with its content, whether it is new, the function as it was left."""

    version: Version
    created: bool
    function: Function


class Functions:
    def __init__(self, connection: Connection, models: Models) -> None:
        self.connection = connection
        self.models = models

    async def put_version(
        self, tenant: TenantName, name: FunctionName, draft: Draft, *, activate: bool, quota: Quota | None = None
    ) -> tuple[Version, bool]:
        """The version with this content and whether it is new; see `place`."""
        placed = await self.place(tenant, name, draft, activate=activate, quota=quota)
        return placed.version, placed.created

    async def place(
        self,
        tenant: TenantName,
        name: FunctionName,
        draft: Draft,
        *,
        activate: bool,
        message: str = "",
        expected: Expected = None,
        quota: Quota | None = None,
    ) -> Placed:
        """Gives the content its version, new or not, and activates that if asked: then it alone answers.

        The function comes into being with its first version; of more than `RETAINED_VERSIONS` the oldest that does not
        answer goes. Raises `NotFound` if the tenant or a pinned model is gone, `PreconditionFailed` if the function is
        not at an expected revision, `StorageQuota` and `QuotaExceeded` where `quota` does not allow what is new.
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
                    Kind.HISTORY,
                    Kind.GUARDS,
                    Kind.SIZES,
                ),
                tenant,
                name,
                draft.content_digest,
                body_of(draft),
                int(activate),
                draft.created_at,
                " ".join(sorted({pin_word(pin) for pin in draft.models})),
                " ".join(sorted({model_field(pin.model, pin.version) for pin in draft.models if not pin.shared})),
                listed(expected),
                draft.author,
                message,
                blob_words(draft),
                "" if quota is None else quota.storage,
                "" if quota is None else quota.functions,
            )
            created, raw, function = accepted(answer, place)
        return Placed(
            version=decode(Version, raw, place=place),
            created=bool(created),
            function=self._read(tenant, name, function),
        )

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

    async def history(self, tenant: TenantName, name: FunctionName) -> tuple[Change, ...]:
        """The newest changes, latest first, at most `RETAINED_CHANGES`; raises `NotFound` without the function."""
        await self.get(tenant, name)
        fields = [f"{name}@{place}" for place in range(scripts.RETAINED_CHANGES)]
        raws = await self.connection.hash_get_each(key(tenant, Kind.HISTORY), fields)
        found = [decode(Change, raw, place=f"{tenant}/{name}") for raw in raws if raw is not None]
        return tuple(sorted(found, key=lambda change: -change.number))

    async def activate(
        self,
        tenant: TenantName,
        name: FunctionName,
        number: int,
        *,
        author: str = "",
        message: str = "",
        expected: Expected = None,
    ) -> Function:
        """Rolls forward or back, to this version alone; raises `NotFound` without the function or the version, and
        `PreconditionFailed`, as all changes do, at another revision than expected."""
        place = f"{tenant}/{name}@{number}"
        return await self._change(tenant, name, place, expected, author, message, "activate", str(number))

    async def split(
        self,
        tenant: TenantName,
        name: FunctionName,
        traffic: Traffic,
        *,
        author: str = "",
        message: str = "",
        expected: Expected = None,
    ) -> Function:
        """Lets several versions answer; the first becomes the active one. `traffic.id` is given here.

        Raises `NotFound` without the function, `InvalidTraffic` for a version that is not retained.
        """
        wanted = body_of(traffic, without="id").decode()
        try:
            return await self._change(tenant, name, f"{tenant}/{name}", expected, author, message, "traffic", wanted)
        except NoVersion as error:
            places = [index for index, share in enumerate(traffic.split) if str(share.version) == error.number]
            text = f"there is no version {error.number}"
            faults = tuple(Fault(field=f"split[{index}].version", message=text) for index in places)
            raise InvalidTraffic(f"{tenant}/{name}: {text}", faults) from error

    async def suspend(
        self, tenant: TenantName, name: FunctionName, *, author: str = "", expected: Expected = None
    ) -> Function:
        return await self._change(tenant, name, f"{tenant}/{name}", expected, author, "", "suspend")

    async def resume(
        self, tenant: TenantName, name: FunctionName, *, author: str = "", expected: Expected = None
    ) -> Function:
        return await self._change(tenant, name, f"{tenant}/{name}", expected, author, "", "resume")

    async def delete(self, tenant: TenantName, name: FunctionName, *, expected: Expected = None) -> None:
        """Removes the function, its versions and its history, and lets go of its models; its numbers stay used up."""
        answer = await self.connection.run(
            scripts.DELETE_FUNCTION,
            keys(
                tenant,
                Kind.FUNCTIONS,
                Kind.GUARDS,
                Kind.VERSIONS,
                Kind.CONTENTS,
                Kind.PINS,
                Kind.HISTORY,
                Kind.GENERATION,
            ),
            tenant,
            name,
            listed(expected),
        )
        accepted(answer, f"{tenant}/{name}")

    async def delete_version(
        self, tenant: TenantName, name: FunctionName, number: int, *, author: str = "", expected: Expected = None
    ) -> None:
        """Removes one version and lets go of its models; its number stays used up. `expected`: content digests.

        Raises `NotFound`, and `InUse` while it answers or is the only one.
        """
        answer = await self.connection.run(
            scripts.DELETE_VERSION,
            keys(
                tenant,
                Kind.FUNCTIONS,
                Kind.VERSIONS,
                Kind.CONTENTS,
                Kind.PINS,
                Kind.GENERATION,
                Kind.HISTORY,
                Kind.GUARDS,
            ),
            tenant,
            name,
            number,
            listed(expected),
            author,
        )
        accepted(answer, f"{tenant}/{name}@{number}")

    async def judge(
        self, tenant: TenantName, name: FunctionName, traffic_id: int, counts: Mapping[int, tuple[int, int]]
    ) -> Change | None:
        """Adds to what the candidates of a guarded traffic came to: version -> (requests, errors).

        The change that returned the function to its stable version, if that is what it came to now. Does nothing if
        another traffic is in force.
        """
        place = f"{tenant}/{name}"
        answer = await self.connection.run(
            scripts.GUARD_TRAFFIC,
            keys(tenant, Kind.FUNCTIONS, Kind.GENERATION, Kind.HISTORY, Kind.GUARDS),
            tenant,
            name,
            traffic_id,
            *(word for number, (requests, errors) in counts.items() for word in (number, requests, errors)),
        )
        rows = accepted(answer, place)
        return decode(Change, rows[0], place=place) if rows else None

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
        named = {secret for version in versions for secret in stored_policy(version.policy_text).secrets}
        return Entry(
            tenant=decode(Tenant, owner, place=tenant),
            function=function,
            versions=versions,
            secrets=await sealed_secrets(self.connection, tenant, sorted(named)),
            pinned=pinned is not None,
        )

    async def _change(
        self,
        tenant: TenantName,
        name: FunctionName,
        subject: str,
        expected: Expected,
        author: str,
        message: str,
        *what: str,
    ) -> Function:
        answer = await self.connection.run(
            scripts.CHANGE_FUNCTION,
            keys(tenant, Kind.FUNCTIONS, Kind.VERSIONS, Kind.GENERATION, Kind.HISTORY, Kind.GUARDS),
            tenant,
            name,
            listed(expected),
            author,
            message,
            *what,
        )
        if answer[0] == b"no_version":
            raise NoVersion(subject, answer[1].decode())
        (raw,) = accepted(answer, subject)
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

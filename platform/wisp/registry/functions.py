"""Functions: versions, numbered once and immutable; traffic among them, switched atomically; their history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wisp.errors import Fault, InvalidTraffic, NotFound
from wisp.names import FunctionName, TenantName
from wisp.policy.schema import Quota
from wisp.registry import functionscripts as scripts
from wisp.registry.codec import body_of, decode
from wisp.registry.connection import Connection
from wisp.registry.expectations import Expected, listed
from wisp.registry.history import Change
from wisp.registry.keys import Kind, keys, model_field
from wisp.registry.models import Models
from wisp.registry.records import Draft, Function, ModelPin, Version
from wisp.registry.refusals import accepted
from wisp.registry.storage import blob_words
from wisp.registry.storedfunctions import StoredFunctions
from wisp.registry.traffic import Traffic


def pin_word(pin: ModelPin) -> str:
    return f"{'shared' if pin.shared else 'own'}/{pin.model}"


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


class Functions(StoredFunctions):
    """What changes them, beside what reads them."""

    def __init__(self, connection: Connection, models: Models) -> None:
        super().__init__(connection)
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
            function=self.read_function(tenant, name, function),
        )

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
        return self.read_function(tenant, name, raw)

"""What a tenant stores: the bytes of the blobs that its versions and models refer to, each counted once.

Modules, bundle files and the tenant's own models count, by digest, as long as a retained version or a model refers to
them. What is added is counted in the very script that adds it (`storagescripts`); `check` refuses beforehand, so that
nothing is compiled or stored in vain.
"""

from __future__ import annotations

from collections.abc import Iterable

from wisp.names import Digest, TenantName
from wisp.policy.schema import Quota
from wisp.registry.connection import Connection
from wisp.registry.keys import Kind, keys
from wisp.registry.records import Draft
from wisp.registry.refusals import accepted
from wisp.registry.storagescripts import READ_STORAGE


def words_of(blobs: Iterable[tuple[Digest, int]]) -> str:
    """As `Kind.SIZES` has them."""
    return " ".join(f"{digest} {size}" for digest, size in blobs)


def blob_words(draft: Draft) -> str:
    files = ((file.digest, file.size_bytes) for file in draft.bundle)
    return words_of(((draft.module, draft.module_bytes), *files))


class Storage:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def used_bytes(self, tenant: TenantName) -> int:
        """Nothing for a tenant that is not there."""
        return await self._read(tenant, "", "")

    async def check(self, tenant: TenantName, quota: Quota, blobs: Iterable[tuple[Digest, int]]) -> None:
        """Raises `StorageQuota` if these would be too much now; another upload may still come first."""
        await self._read(tenant, words_of(blobs), quota.storage)

    async def _read(self, tenant: TenantName, more: str, limit: int | str) -> int:
        kinds = (Kind.TENANT, Kind.VERSIONS, Kind.MODELS, Kind.SIZES)
        (used,) = accepted(await self.connection.run(READ_STORAGE, keys(tenant, *kinds), more, limit), tenant)
        return int(used)

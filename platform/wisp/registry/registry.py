"""The registry: what exists, in Redis. One object, one connection pool, one noun each for what it holds."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from wisp.errors import InvalidSettings
from wisp.names import TenantName
from wisp.registry.connection import DEFAULT_TIMEOUT_S, Connection
from wisp.registry.credentials import Credentials
from wisp.registry.events import LISTEN_S, Event, Subscribed, subscribe
from wisp.registry.functions import Functions
from wisp.registry.keys import SCHEMA, Kind, key
from wisp.registry.models import Models
from wisp.registry.policies import Policies
from wisp.registry.quotas import Quotas
from wisp.registry.storage import Storage
from wisp.registry.tenants import Tenants
from wisp.registry.usage import Usage

SCHEMA_VERSION = 1


class Registry:
    """`prepare` before use, `aclose` after. Belongs to one event loop."""

    def __init__(self, url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.connection = Connection(url, timeout_s=timeout_s)
        self.tenants = Tenants(self.connection)
        self.keys = Credentials(self.connection)
        self.models = Models(self.connection)
        self.functions = Functions(self.connection, self.models)
        self.policies = Policies(self.connection)
        self.quotas = Quotas(self.connection)
        self.storage = Storage(self.connection)
        self.usage = Usage(self.connection)

    async def prepare(self) -> None:
        """Makes an empty server a registry and repairs the index; refuses data that another wisp has laid out.

        Raises `InvalidSettings` for those, `RegistryUnavailable` when Redis cannot be reached.
        """
        await self.connection.command("SET", SCHEMA, SCHEMA_VERSION, "NX")
        stored = await self.connection.get(SCHEMA) or b""
        if not stored.isdigit():
            raise InvalidSettings(f"{SCHEMA} in Redis is no number: this is not a registry of wisp's")
        if int(stored) > SCHEMA_VERSION:
            raise InvalidSettings(
                f"the registry has schema {int(stored)}, this wisp knows {SCHEMA_VERSION}: start the newer wisp"
            )
        if int(stored) < SCHEMA_VERSION:
            raise InvalidSettings(f"the registry has schema {int(stored)}: this wisp reads {SCHEMA_VERSION} only")
        await self.tenants.repair_index()

    async def ping(self) -> None:
        await self.connection.ping()

    async def generation(self, tenant: TenantName) -> int:
        """Of the tenant's slot: it grows with every change there; 0 where there is none."""
        (number,) = await self.generations((tenant,))
        return number

    async def generations(self, tenants: Sequence[TenantName]) -> tuple[int, ...]:
        """In order; the registry is asked, whether there are any or not."""
        if not tenants:
            await self.ping()
        found = await self.connection.get_each([key(tenant, Kind.GENERATION) for tenant in tenants])
        return tuple(int(number or 0) for number in found)

    def subscribe(self, *, listen_s: float = LISTEN_S) -> AsyncGenerator[Subscribed | Event]:
        return subscribe(self.connection, listen_s=listen_s)

    async def aclose(self) -> None:
        await self.connection.aclose()

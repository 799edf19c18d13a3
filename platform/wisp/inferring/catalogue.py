"""Which models a tenant's callers may name: its own and, where no own one has the name, the operator's.

What the registry says is remembered for a moment, so that a warm inference asks nothing of Redis: after `FRESH_S` it is
asked again while the former answer still holds, after `HELD_S` before anything is answered. While Redis is away, what
is remembered goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from wisp.errors import NotFound, RegistryUnavailable
from wisp.names import ModelName, TenantName
from wisp.registry.models import Models
from wisp.registry.records import Model

FRESH_S: Final = 1.0
HELD_S: Final = 10.0
CAPACITY: Final = 1024

Named = Mapping[ModelName, tuple[Model, ...]]
"""All versions of each model, ascending."""


@dataclass(slots=True, kw_only=True)
class Listed:
    models: Named
    at_s: float
    renewing: asyncio.Task[None] | None = None


class Catalogue:
    """Belongs to one event loop."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._listed: OrderedDict[TenantName, Listed] = OrderedDict()

    async def of(self, tenant: TenantName) -> Named:
        """Raises `RegistryUnavailable` if nothing is remembered."""
        listed = self._listed.get(tenant)
        if listed is None:
            listed = await self._load(tenant)
        self._listed.move_to_end(tenant)
        age_s = time.monotonic() - listed.at_s
        if age_s > FRESH_S:
            if listed.renewing is None:
                listed.renewing = asyncio.get_running_loop().create_task(self._renew(tenant, listed))
            if age_s > HELD_S:
                await asyncio.shield(listed.renewing)
        return listed.models

    async def find(self, tenant: TenantName, name: str, version: str | None) -> Model:
        """This version, or the latest. Raises `NotFound`, `RegistryUnavailable`."""
        versions = (await self.of(tenant)).get(ModelName(name), ())
        for model in reversed(versions):
            if version is None or str(model.version) == version:
                return model
        raise NotFound("there is no such model")

    async def _load(self, tenant: TenantName) -> Listed:
        listed = self._listed[tenant] = Listed(models=await self._read(tenant), at_s=time.monotonic())
        if len(self._listed) > CAPACITY:
            self._listed.popitem(last=False)
        return listed

    async def _renew(self, tenant: TenantName, listed: Listed) -> None:
        try:
            listed.models = await self._read(tenant)
        except RegistryUnavailable:
            pass  # what is remembered goes on
        finally:
            listed.at_s = time.monotonic()
            listed.renewing = None

    async def _read(self, tenant: TenantName) -> Named:
        found: dict[ModelName, list[Model]] = {}
        for model in await self._models.list(tenant):
            found.setdefault(model.name, []).append(model)
        own = frozenset(found)
        for model in await self._models.list(None):
            if model.name not in own:
                found.setdefault(model.name, []).append(model)
        return {name: tuple(versions) for name, versions in found.items()}

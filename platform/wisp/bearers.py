"""Which credential goes to the machine that serves a remote model, remembered as the catalogue remembers models.

After `FRESH_S` Redis is asked again while the former answer still holds, after `HELD_S` before anything is sent. While
Redis is away, what is remembered goes on; where nothing is, nothing is sent.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Final

from wisp.errors import RegistryUnavailable
from wisp.names import ModelName
from wisp.registry.bearers import ModelBearers

FRESH_S: Final = 1.0
HELD_S: Final = 10.0


class Bearers:
    """Belongs to one event loop."""

    def __init__(self, stored: ModelBearers) -> None:
        self._stored = stored
        self._sealed: Mapping[str, bytes] = {}
        self._at_s = -math.inf
        self._renewing: asyncio.Task[None] | None = None

    async def of(self, model: str, source: str) -> str:
        """That of `model@version`, for this source alone; empty where there is none. Raises `RegistryUnavailable` where
        it does not open."""
        age_s = time.monotonic() - self._at_s
        if age_s > FRESH_S:
            if self._renewing is None:
                self._renewing = asyncio.get_running_loop().create_task(self._renew())
            if age_s > HELD_S:
                await asyncio.shield(self._renewing)
        sealed = self._sealed.get(model)
        return "" if sealed is None else self._stored.open(model, source, sealed)

    async def put(self, model: ModelName, version: int, source: str, bearer: str) -> None:
        """In the former one's place; an empty one removes it. Raises `NotFound` without the model."""
        await self._stored.put(model, version, source, bearer)
        self._at_s = -math.inf

    async def _renew(self) -> None:
        try:
            self._sealed = await self._stored.all()
        except RegistryUnavailable:
            pass  # what is remembered goes on
        finally:
            self._at_s = time.monotonic()
            self._renewing = None

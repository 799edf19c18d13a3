"""Credentials for the machines that serve the operator's remote models: sealed, one for a model's version at most.

What a seal belongs to includes the source: one that stands beside another source does not open.
"""

from __future__ import annotations

from typing import Final

from wisp.names import ModelName, TenantName
from wisp.registry.cipher import SecretCipher
from wisp.registry.connection import Connection
from wisp.registry.keys import SHARED_TAG, Kind, key, keys, model_field
from wisp.registry.models import model_place
from wisp.registry.refusals import accepted
from wisp.registry.secretscripts import SET_BEARER

OPERATOR: Final = TenantName(SHARED_TAG)
"""Whose the seals are; no tenant can be called so."""


class ModelBearers:
    def __init__(self, connection: Connection, cipher: SecretCipher) -> None:
        self.connection = connection
        self.cipher = cipher

    async def put(self, model: ModelName, version: int, source: str, bearer: str) -> None:
        """In the former one's place; an empty one removes it. Raises `NotFound` without the model."""
        field = model_field(model, version)
        sealed = self.cipher.seal(OPERATOR, f"{field} {source}", bearer.encode()) if bearer else b""
        kinds = (Kind.MODELS, Kind.BEARERS, Kind.GENERATION)
        answer = await self.connection.run(SET_BEARER, keys(None, *kinds), model, field, sealed)
        accepted(answer, model_place(None, field))

    async def all(self) -> dict[str, bytes]:
        """As they are stored, by model@version."""
        return await self.connection.hash_all(key(None, Kind.BEARERS))

    def open(self, field: str, source: str, sealed: bytes) -> str:
        """Raises `RegistryUnavailable`."""
        return self.cipher.unseal(OPERATOR, f"{field} {source}", sealed).decode()

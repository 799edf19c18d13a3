"""Tenants' keys: issued once, stored as hashes, found by what they name, compared in constant time.

A secret reads `wisp_<tenant>_<key id>_<43 characters>`: the tenant and the id lead to one record in the tenant's slot,
the last part is 256 random bits, and the SHA-256 of the whole is all that is kept.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time

from wisp.errors import InvalidName, RegistryUnavailable
from wisp.names import FunctionName, KeyId, TenantName, parse_key_id, parse_tenant
from wisp.registry import scripts
from wisp.registry.codec import decode, encode
from wisp.registry.connection import Connection
from wisp.registry.keys import Kind, key, keys
from wisp.registry.records import Key, Role
from wisp.registry.refusals import accepted

SECRET = re.compile(r"wisp_([a-z0-9-]{1,63})_([0-9a-f]{16})_([A-Za-z0-9_-]{43})", re.ASCII)
RANDOM_BYTES = 32
MAX_SECRET_CHARS = 5 + 63 + 1 + 16 + 1 + 43


def parse_secret(secret: str) -> tuple[TenantName, KeyId] | None:
    """Whom a secret claims to be of; None if it is not one of ours at all."""
    if len(secret) > MAX_SECRET_CHARS:
        return None
    match = SECRET.fullmatch(secret)
    if match is None:
        return None
    try:
        return parse_tenant(match[1]), parse_key_id(match[2])
    except InvalidName:
        return None


def secret_sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def new_key(tenant: TenantName, role: Role, functions: tuple[FunctionName, ...] | None = None) -> tuple[Key, str]:
    """A key that nobody knows of yet, and its secret."""
    key_id = parse_key_id(secrets.token_hex(8))
    secret = f"wisp_{tenant}_{key_id}_{secrets.token_urlsafe(RANDOM_BYTES)}"
    record = Key(
        id=key_id,
        tenant=tenant,
        role=role,
        functions=functions,
        secret_sha256=secret_sha256(secret),
        created_at=int(time.time()),
    )
    return record, secret


class Credentials:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def issue(
        self, tenant: TenantName, role: Role, functions: tuple[FunctionName, ...] | None = None
    ) -> tuple[Key, str]:
        """The key and its secret, which nobody can read again. Raises `NotFound` without the tenant."""
        record, secret = new_key(tenant, role, functions)
        answer = await self.connection.run(
            scripts.PUT_KEY, keys(tenant, Kind.TENANT, Kind.KEYS, Kind.GENERATION), tenant, record.id, encode(record)
        )
        accepted(answer, tenant)
        return record, secret

    async def list(self, tenant: TenantName) -> tuple[Key, ...]:
        """Oldest first. An unknown tenant has none."""
        stored = await self.connection.hash_all(key(tenant, Kind.KEYS))
        found = [self._read(tenant, key_id, raw) for key_id, raw in stored.items()]
        return tuple(sorted(found, key=lambda each: (each.created_at, each.id)))

    async def revoke(self, tenant: TenantName, key_id: KeyId) -> None:
        """Raises `NotFound`."""
        answer = await self.connection.run(scripts.DELETE_KEY, keys(tenant, Kind.KEYS, Kind.GENERATION), tenant, key_id)
        accepted(answer, f"{tenant}/{key_id}")

    async def authenticate(self, secret: str) -> Key | None:
        """The key whose secret this is. One that is malformed, unknown or wrong is None, never an error."""
        claimed = parse_secret(secret)
        if claimed is None:
            return None
        tenant, key_id = claimed
        raw = await self.connection.hash_get(key(tenant, Kind.KEYS), key_id)
        if raw is None:
            return None
        found = self._read(tenant, key_id, raw)
        return found if hmac.compare_digest(found.secret_sha256, secret_sha256(secret)) else None

    async def recall(self, tenant: TenantName, key_id: KeyId, sha256: str) -> Key | None:
        """The key that was known by this hash of its secret, if it still is one."""
        raw = await self.connection.hash_get(key(tenant, Kind.KEYS), key_id)
        found = None if raw is None else self._read(tenant, key_id, raw)
        return found if found is not None and hmac.compare_digest(found.secret_sha256, sha256) else None

    def _read(self, tenant: TenantName, key_id: str, raw: bytes) -> Key:
        place = f"{tenant}/{key_id}"
        found = decode(Key, raw, place=place)
        if (found.tenant, found.id) != (tenant, key_id):
            raise RegistryUnavailable(f"the registry's record of {place} is another's: restore it from a backup")
        return found

"""Tenants' secrets: values go in, sealed (`registry.cipher`), and come out for functions whose policy names them."""

from __future__ import annotations

from collections.abc import Iterable

from wisp.errors import Fault, InvalidName, InvalidRequest, NotFound, RequestTooLarge, StorageQuota
from wisp.names import TenantName
from wisp.policy.fields import MAX_VARIABLES, parse_variable
from wisp.registry.cipher import SecretCipher
from wisp.registry.connection import Connection
from wisp.registry.keys import Kind, key, keys
from wisp.registry.refusals import accepted
from wisp.registry.secretscripts import DELETE_SECRET, PUT_SECRET

MAX_SECRETS = MAX_VARIABLES
"""Of one tenant."""
MAX_VALUE_BYTES = 4096


def parse_secret_name(text: str) -> str:
    """What a policy's `secrets` may say: the name of an environment variable. Raises `InvalidName`."""
    try:
        return parse_variable(text)
    except ValueError as error:
        raise InvalidName(f"secret name {text[:80]!a}: {error}", (Fault(field="name", message=str(error)),)) from (
            error
        )


class Secrets:
    def __init__(self, connection: Connection, cipher: SecretCipher) -> None:
        self.connection = connection
        self.cipher = cipher

    async def put(self, tenant: TenantName, name: str, value: bytes) -> bool:
        """Whether it is new. Raises `RequestTooLarge`, `InvalidRequest` for what cannot be a variable's value,
        `StorageQuota`, and `NotFound` without the tenant."""
        if len(value) > MAX_VALUE_BYTES:
            raise RequestTooLarge(f"a secret may have {MAX_VALUE_BYTES} bytes", limit=MAX_VALUE_BYTES, used=len(value))
        if b"\0" in value or not _is_utf8(value):
            raise InvalidRequest("a secret becomes an environment variable: UTF-8 without a NUL")
        answer = await self.connection.run(
            PUT_SECRET,
            keys(tenant, Kind.TENANT, Kind.SECRETS, Kind.GENERATION),
            tenant,
            name,
            self.cipher.seal(tenant, name, value),
            MAX_SECRETS,
        )
        if answer[0] == b"full":
            raise StorageQuota(f"a tenant may have {MAX_SECRETS} secrets", limit=MAX_SECRETS, used=MAX_SECRETS)
        (created,) = accepted(answer, f"{tenant}/{name}")
        return bool(created)

    async def names(self, tenant: TenantName) -> tuple[str, ...]:
        """Sorted. An unknown tenant has none."""
        stored = await self.connection.command("HKEYS", key(tenant, Kind.SECRETS))
        return tuple(sorted(name.decode() for name in stored))

    async def delete(self, tenant: TenantName, name: str) -> None:
        """Functions that name it go on without it. Raises `NotFound`."""
        answer = await self.connection.run(DELETE_SECRET, keys(tenant, Kind.SECRETS, Kind.GENERATION), tenant, name)
        if answer[0] == b"no_secret":
            raise NotFound(f"{tenant}/{name}: there is no such secret")
        accepted(answer, f"{tenant}/{name}")

    async def sealed(self, tenant: TenantName, names: Iterable[str]) -> tuple[tuple[str, bytes], ...]:
        """Those of the names that there are, in order, as they are stored."""
        return await sealed_secrets(self.connection, tenant, names)

    def variables(self, tenant: TenantName, sealed: tuple[tuple[str, bytes], ...]) -> tuple[tuple[str, str], ...]:
        """As a guest's environment has them. Raises `RegistryUnavailable` where one does not open."""
        return tuple((name, self.cipher.unseal(tenant, name, value).decode()) for name, value in sealed)


async def sealed_secrets(
    connection: Connection, tenant: TenantName, names: Iterable[str]
) -> tuple[tuple[str, bytes], ...]:
    wanted = tuple(names)
    values = await connection.hash_get_each(key(tenant, Kind.SECRETS), wanted)
    return tuple((name, value) for name, value in zip(wanted, values, strict=True) if value is not None)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True

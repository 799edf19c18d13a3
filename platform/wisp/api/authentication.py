"""Who calls: the operator, or a tenant's key. `Authorization: Bearer <key>`, compared in constant time.

On `/v1/` the order is: no or unknown key 401, then names 422, then a key without the right 403. (The data plane's order
is the dispatcher's, since a public function needs no key.)
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from wisp.errors import Forbidden, Suspended, Unauthorized
from wisp.names import TenantName
from wisp.registry.records import Key, Role, Tenant

if TYPE_CHECKING:
    from wisp.node import Node

SCHEME = "bearer "


class Right(StrEnum):
    """What an operation asks of its caller."""

    NOBODY = "nobody"
    """Open to all."""
    KEY = "key"
    """Any key: the operator's, or a tenant's of whatever role."""
    OPERATOR = "operator"
    TENANT = "tenant"
    """The operator, or a deploy key of the tenant in the path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """`key` is None for the operator."""

    key: Key | None

    @property
    def operator(self) -> bool:
        return self.key is None

    @property
    def author(self) -> str:
        """How records name who made them."""
        return "operator" if self.key is None else f"key {self.key.id}"


def bearer(values: Iterable[bytes]) -> str | None:
    """The secret of the one `Authorization` header; None without one, with several, or in another scheme."""
    offered = tuple(values)
    if len(offered) != 1:
        return None
    text = offered[0].decode("latin-1")
    if text[: len(SCHEME)].lower() != SCHEME:
        return None
    return text[len(SCHEME) :].strip() or None


async def authenticate(node: Node, secret: str | None) -> Caller:
    """Raises `Unauthorized`; the registry is asked, not a memory of it, so that a revoked key ends at once."""
    if secret is None:
        raise Unauthorized("send a key: Authorization: Bearer <key>")
    if hmac.compare_digest(hashlib.sha256(secret.encode()).digest(), node.operator_key_sha256):
        return Caller(key=None)
    key = await node.registry.keys.authenticate(secret)
    if key is None:
        raise Unauthorized("this key is not known")
    return Caller(key=key)


def authorise(caller: Caller, right: Right, tenant: TenantName | None) -> None:
    """Raises `Forbidden`, with the same words whether what is asked for exists or not."""
    if right in (Right.NOBODY, Right.KEY) or caller.key is None:
        return
    if right is Right.OPERATOR:
        raise Forbidden("this takes the operator's key")
    if caller.key.tenant != tenant:
        raise Forbidden("this key is another tenant's")
    if caller.key.role is not Role.DEPLOY:
        raise Forbidden("this takes a deploy key of the tenant")


def refuse_suspended(caller: Caller, tenant: Tenant) -> None:
    """A suspended tenant's keys do nothing; the operator's still does, to undo it."""
    if tenant.suspended and not caller.operator:
        raise Suspended(f"tenant {tenant.name} is suspended")

"""Models: ONNX files under names, a tenant's own and the operator's shared ones, kept while a version pins them.

A tenant's own model and the versions that pin it share a slot, so one script sees both. A shared model is pinned from
other slots: a deployment first announces its reference beside the model, then writes the version (the truth), then
settles the reference. A delete drops settled references whose truth is gone, and announced ones too old to be of a
deployment still under way, and refuses while one stays; a deployment that comes after it finds no model to announce to.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from wisp.errors import NotFound
from wisp.names import Digest, FunctionName, ModelName, TenantName, parse_digest, parse_model
from wisp.policy.schema import Quota
from wisp.registry import scripts
from wisp.registry.codec import body_of, decode
from wisp.registry.connection import Connection
from wisp.registry.expectations import Expected, listed
from wisp.registry.keys import Kind, key, keys, model_field, reference_field
from wisp.registry.records import Model, ModelPin
from wisp.registry.refusals import accepted
from wisp.registry.storagescripts import PUT_MODEL
from wisp.wire.admissions import ModelProbe
from wisp.wire.tensors import TensorSpec

ANNOUNCEMENT_S = 60
"""How long a deployment may take from its announcement to its version: many times any command's time limit."""


def model_place(tenant: TenantName | None, name: str) -> str:
    return f"model {name}" if tenant is None else f"model {tenant}/{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A pin of a shared model, as its slot knows it: `model tenant/function`, or `…#token` while only announced."""

    field: str
    value: str

    @property
    def model(self) -> str:
        return self.field.partition(" ")[0]

    @property
    def tenant(self) -> TenantName:
        return TenantName(self.field.partition(" ")[2].partition("/")[0])

    @property
    def function(self) -> FunctionName:
        return FunctionName(self.field.partition("/")[2].partition("#")[0])

    def may_still_be_backed(self, now: int) -> bool:
        """Whether its deployment may be about to write the version."""
        return "#" in self.field and now - int(self.value) <= ANNOUNCEMENT_S


class Models:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def put(
        self,
        tenant: TenantName | None,
        name: ModelName,
        *,
        digest: Digest,
        size_bytes: int,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        probe: ModelProbe | None = None,
        source: str = "",
        binary: bool = True,
        quota: Quota | None = None,
        expected: Expected = None,
    ) -> tuple[Model, bool]:
        """The model with these bytes and whether it is new under this name. Raises `NotFound` without the tenant,
        `PreconditionFailed` where the latest version has none of the expected digests, `StorageQuota` and
        `QuotaExceeded` where `quota` does not allow what is new."""
        place = model_place(tenant, name)
        model = Model(
            name=name,
            tenant=tenant,
            version=0,
            digest=digest,
            size_bytes=size_bytes,
            inputs=inputs,
            outputs=outputs,
            created_at=int(time.time()),
            probe=probe,
            source=source,
            binary=binary,
        )
        kinds = [Kind.MODELS, Kind.MODEL_DIGESTS, Kind.MODEL_NUMBERS, Kind.GENERATION]
        if tenant is not None:
            kinds += (Kind.TENANT, Kind.VERSIONS, Kind.SIZES)
        answer = await self.connection.run(
            PUT_MODEL,
            keys(tenant, *kinds),
            tenant or "",
            name,
            digest,
            body_of(model, without="version"),
            f"{digest} {size_bytes}",
            "" if quota is None else quota.storage,
            "" if quota is None else quota.models,
            listed(expected),
        )
        created, raw = accepted(answer, place)
        return decode(Model, raw, place=place), bool(created)

    async def find(self, tenant: TenantName | None, name: ModelName, version: int | None = None) -> Model | None:
        """This version, or the latest."""
        if version is not None:
            raw = await self.connection.hash_get(key(tenant, Kind.MODELS), model_field(name, version))
            return None if raw is None else decode(Model, raw, place=model_place(tenant, name))
        found = [model for model in await self.list(tenant) if model.name == name]
        return found[-1] if found else None

    async def get(self, tenant: TenantName | None, name: ModelName, version: int | None = None) -> Model:
        model = await self.find(tenant, name, version)
        if model is None:
            wanted = name if version is None else model_field(name, version)
            raise NotFound(f"{model_place(tenant, wanted)}: there is no such model")
        return model

    async def list(self, tenant: TenantName | None) -> tuple[Model, ...]:
        """All versions of all models, by name and version."""
        stored = await self.connection.hash_all(key(tenant, Kind.MODELS))
        found = [decode(Model, raw, place=model_place(tenant, field)) for field, raw in stored.items()]
        return tuple(sorted(found, key=lambda model: (model.name, model.version)))

    async def resolve(self, tenant: TenantName, wanted: str) -> Model:
        """What a policy's `name`, `name@version` or `sha256:…` means: the tenant's own, else the shared one.

        A tenant's own name hides the shared one, whatever its versions. Raises `NotFound`, and `InvalidName` where the
        reference is out of grammar.
        """
        if wanted.startswith("sha256:"):
            digest = parse_digest(wanted)
            for owner in (tenant, None):
                for model in await self.list(owner):
                    if model.digest == digest:
                        return model
            raise NotFound(f"there is no model {digest}: upload it first")
        text, at, number = wanted.partition("@")
        name = parse_model(text)
        if at and not (number.isascii() and number.isdigit() and len(number) <= 9):
            raise NotFound(f"there is no model {name}@{number[:20]!a}: a version is a number")
        version = int(number) if at else None
        own = await self.find(tenant, name)
        if own is None:
            return await self.get(None, name, version)
        return own if version is None else await self.get(tenant, name, version)

    async def delete(self, tenant: TenantName | None, name: ModelName, *, expected: Expected = None) -> None:
        """Removes all versions; raises `NotFound`, `InUse` while a retained version pins one, and `PreconditionFailed`
        where the latest has none of the expected digests."""
        place = model_place(tenant, name)
        if tenant is None:
            await self.drop_stale_references(name)
            answer = await self.connection.run(
                scripts.DELETE_SHARED_MODEL,
                keys(None, Kind.MODELS, Kind.MODEL_DIGESTS, Kind.REFERENCES, Kind.BEARERS, Kind.GENERATION),
                name,
                listed(expected),
            )
        else:
            answer = await self.connection.run(
                scripts.DELETE_MODEL,
                keys(tenant, Kind.MODELS, Kind.MODEL_DIGESTS, Kind.PINS, Kind.GENERATION),
                tenant,
                name,
                listed(expected),
            )
        accepted(answer, place)

    @asynccontextmanager
    async def announced(
        self, tenant: TenantName, function: FunctionName, pins: Sequence[ModelPin]
    ) -> AsyncIterator[None]:
        """Keeps the shared models among these from being deleted while the version that pins them is written.

        Raises `NotFound` where one is gone. What the body leaves unsettled by failing grows stale by itself.
        """
        token = secrets.token_hex(8)
        shared = {model_field(pin.model, pin.version): pin.model for pin in pins if pin.shared}
        for wanted, model in shared.items():
            field = reference_field(model, tenant, function)
            answer = await self.connection.run(
                scripts.ANNOUNCE_REFERENCE, keys(None, Kind.MODELS, Kind.REFERENCES), wanted, f"{field}#{token}"
            )
            accepted(answer, f"{tenant}/{function}")
        yield
        for model in sorted(set(shared.values())):
            field = reference_field(model, tenant, function)
            await self.connection.run(scripts.SETTLE_REFERENCE, keys(None, Kind.REFERENCES), field, token)

    async def drop_stale_references(self, name: ModelName | None = None) -> None:
        """Forgets pins of one shared model, or of all, that no version backs and no deployment can still back."""
        answer = await self.connection.run(scripts.READ_REFERENCES, keys(None, Kind.REFERENCES))
        now, flat = accepted(answer, "the shared models")
        stale: list[str] = []
        for field, value in zip(flat[::2], flat[1::2], strict=True):
            reference = Reference(field=field.decode(), value=value.decode())
            if name is not None and reference.model != name:
                continue
            if not reference.may_still_be_backed(int(now)) and not await self._backed(reference):
                stale += [reference.field, reference.value]
        if stale:
            await self.connection.run(scripts.DROP_REFERENCES, keys(None, Kind.REFERENCES), *stale)

    async def _backed(self, reference: Reference) -> bool:
        pins = await self.connection.hash_all(key(reference.tenant, Kind.PINS))
        word = f"shared/{reference.model}"
        return any(
            field.startswith(f"{reference.function}@") and word in value.decode().split()
            for field, value in pins.items()
        )

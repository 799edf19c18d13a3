"""What the registry remembers, as frozen values. Times are whole Unix seconds; sizes are bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from wisp.names import ClassName, Digest, FunctionName, KeyId, ModelName, TenantName
from wisp.registry.traffic import Traffic
from wisp.wire.admissions import ModelProbe
from wisp.wire.tensors import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """`revision`: the slot's generation at its last change; it never comes again, even after a delete."""

    name: TenantName
    class_name: ClassName
    suspended: bool
    created_at: int
    revision: int = 0


class Role(StrEnum):
    """What a tenant's key may do; the operator's key is a setting, not a record."""

    DEPLOY = "deploy"
    INVOKE = "invoke"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """`functions`: the only ones that an invoke key may call; None is all of them."""

    id: KeyId
    tenant: TenantName
    role: Role
    functions: tuple[FunctionName, ...] | None
    secret_sha256: str = field(repr=False)
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An ONNX file under a name. Without a tenant it is the operator's, shared with everybody."""

    name: ModelName
    tenant: TenantName | None
    version: int
    digest: Digest
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    created_at: int
    probe: ModelProbe | None = None
    """What admission found when it tried the model out; None for those that were pushed before it did."""
    source: str = ""
    """Where another machine serves it; then there are no bytes, and the digest is that of the source and its shapes."""
    binary: bool = True
    """Whether that machine takes tensors as bytes, not as JSON alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPin:
    """A graph name of the policy, bound for the life of a version to one model by digest."""

    name: str
    model: ModelName
    version: int
    digest: Digest
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    shared: bool
    source: str = ""
    binary: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    path: str
    digest: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A version before the registry has numbered it.

    `content_digest` covers everything that makes two uploads the same; `facts_json` is opaque here: what the compiling
    child found in the module.
    """

    module: Digest
    module_bytes: int
    abi: str
    policy_text: str
    bundle: tuple[BundleFile, ...]
    models: tuple[ModelPin, ...]
    facts_json: str
    content_digest: Digest
    warnings: tuple[str, ...]
    author: str
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Version(Draft):
    """Immutable; its number is never given to another content, even after the function was deleted."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """`active`: the version that answers, None before the first activation; under a traffic split the stable one.
    `versions`: all retained, ascending. `revision`: the slot's generation at its last change; it never comes again.
    `changes`: how many its history has been told of.
    """

    tenant: TenantName
    name: FunctionName
    active: int | None
    suspended: bool
    latest: int
    versions: tuple[int, ...]
    created_at: int
    revision: int = 0
    changes: int = 0
    traffic: Traffic | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """All that answering a request needs, read in one step: never a function of one moment and a version of another.

    `versions`: those that answer, in the order of the function's traffic split, or the active one alone; none before
    the first activation. `pinned`: the one version was asked for by its number, whatever the traffic says.
    """

    tenant: Tenant
    function: Function
    versions: tuple[Version, ...]
    secrets: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    """Those that the versions' policies name and that there are, sealed."""
    pinned: bool = False

    @property
    def version(self) -> Version | None:
        """The active one, else None."""
        return self.versions[0] if self.versions else None

    @property
    def traffic(self) -> Traffic | None:
        """The split that is to be followed."""
        return None if self.pinned else self.function.traffic

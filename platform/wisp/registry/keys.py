"""Every Redis key that wisp uses, and nothing else that names one.

A tenant's keys carry its name as their hash tag, so that they share a slot and one script may change several of them at
once. What belongs to the operator lives under a tag that the grammar of names cannot produce. The global index of
tenants is in a slot of its own: it is written before the truth (an intent) and can be rebuilt from it
(`Tenants.repair_index`).
"""

from __future__ import annotations

from enum import StrEnum

from wisp.names import Digest, FunctionName, ModelName, TenantName

SCHEMA = "wisp:schema"
TENANTS = "wisp:tenants"
"""Set of tenant names: the index behind the operator's list."""
EVENTS = "wisp:events"
"""Channel of `events.Event`s."""

BLOB_CLAIMS = "wisp:{_blobs}:claims"
"""Hash: digest -> Unix seconds; blobs that somebody is about to refer to (`blobstore`)."""
BLOBS_CONDEMNED = "wisp:{_blobs}:condemned"
"""Hash: digest -> Unix seconds; blobs whose removal is under way."""

SHARED_TAG = "_shared"
"""Hash tag of the operator's own models: no tenant can be called so."""


class Kind(StrEnum):
    """What a slot holds. Deleting a tenant deletes one key of every kind: a new kind is covered by standing here."""

    TENANT = "tenant"
    """string: the `Tenant` record; a tenant exists while this does."""
    KEYS = "keys"
    """hash: key id -> `Key` record."""
    FUNCTIONS = "functions"
    """hash: function -> `Function` record."""
    NUMBERS = "numbers"
    """hash: function -> the highest version number ever given; outlives the function."""
    VERSIONS = "versions"
    """hash: function@number -> `Version` record."""
    CONTENTS = "contents"
    """hash: function@content digest -> number."""
    PINS = "pins"
    """hash: function@number -> the models that it pins, "own/<model>" or "shared/<model>", separated by spaces."""
    HISTORY = "history"
    """hash: function@place in the ring -> `Change` record, the newest of each function."""
    GUARDS = "guards"
    """hash: function -> what a guarded traffic's candidates came to of late: number -> moment -> [requests, errors]."""
    MODELS = "models"
    """hash: model@version -> `Model` record."""
    MODEL_DIGESTS = "model-digests"
    """hash: model@digest -> version."""
    MODEL_NUMBERS = "model-numbers"
    """hash: model -> the highest version ever given; outlives the model."""
    SECRETS = "secrets"
    """hash: secret -> its sealed value (`registry.cipher`)."""
    REFERENCES = "references"
    """hash, operator's slot only: model tenant/function -> token, model tenant/function#token -> Unix seconds
    (`models.Reference`)."""
    QUOTAS = "quotas"
    """hash: the tenant's token bucket, what it used by day, and @holder -> a node's lease (`quotascripts`)."""
    SIZES = "sizes"
    """hash: "version function@number" or "model model@version" -> "digest bytes digest bytes ...":
    what its record says."""
    GENERATION = "generation"
    """integer: grows with every change in the slot."""
    USAGE = "usage"
    """hash: "<hour since 1970> <function> <field>" -> sum (`usage.FIELDS`)."""
    USAGE_ITEMS = "usage-items"
    """sorted set: "<hour since 1970> <function>", by the hour: what `USAGE` holds."""
    USAGE_LIVES = "usage-lives"
    """hash: a node's life -> the last batch that was taken of it, and when, in Unix seconds."""
    POLICIES = "policies"
    """hash, operator's slot only, as all that follow: document -> `PolicyText` record, those in force."""
    POLICY_GENERATION = "policy-generation"
    """integer: grows with every change of an operator's document."""
    POLICY_HISTORY = "policy-history"
    """hash: document@generation -> `PolicyText` record, the newest of each document."""
    BEARERS = "bearers"
    """hash: model@version -> the sealed credential for the machine that serves it (`registry.bearers`)."""
    NODES = "nodes"
    """hash: node -> the policy generation that it acknowledged, and when it was last heard, in Unix milliseconds."""


OPERATORS_ALONE = frozenset(
    {Kind.REFERENCES, Kind.POLICIES, Kind.POLICY_GENERATION, Kind.POLICY_HISTORY, Kind.BEARERS, Kind.NODES}
)
"""Kinds that no tenant's slot has."""


def key(owner: TenantName | None, kind: Kind) -> str:
    """`wisp:{acme}:functions`; without an owner, the operator's."""
    return f"wisp:{{{SHARED_TAG if owner is None else owner}}}:{kind}"


def keys(owner: TenantName | None, *kinds: Kind) -> list[str]:
    return [key(owner, kind) for kind in kinds]


def everywhere(kind: Kind) -> str:
    """The SCAN pattern of this kind in all slots."""
    return f"wisp:{{*}}:{kind}"


def owner_tag(name: str) -> str:
    """The hash tag inside a key that `key` made."""
    return name[name.index("{") + 1 : name.index("}")]


def version_field(function: FunctionName, number: int) -> str:
    return f"{function}@{number}"


def model_field(model: ModelName, version: int) -> str:
    return f"{model}@{version}"


def reference_field(model: ModelName, tenant: TenantName, function: FunctionName) -> str:
    return f"{model} {tenant}/{function}"


def blob_key(digest: Digest, part: int | None = None) -> str:
    """Where `redisblobs` keeps a blob's head, or one of its chunks: all of one blob in one slot, blobs in many."""
    digits = digest.removeprefix("sha256:")
    return f"wisp:{{blob/{digits}}}:" + ("head" if part is None else f"chunk:{part}")


BLOB_HEADS = "wisp:{blob/*}:head"
"""The SCAN pattern of all heads."""

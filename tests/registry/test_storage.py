from __future__ import annotations

from dataclasses import replace

import pytest

from quota_nodes import QUOTA
from registry.samples import ACME, CLASSIFY, INPUTS, MOBILENET, OUTPUTS, RESIZE, digest, draft
from wisp.errors import QuotaExceeded, StorageQuota
from wisp.names import parse_model
from wisp.policy.schema import Quota
from wisp.registry.keys import Kind, key
from wisp.registry.records import Model
from wisp.registry.registry import Registry


async def put_model(registry: Registry, name: str, content: str, size_bytes: int, quota: Quota | None = None) -> Model:
    model, _ = await registry.models.put(
        ACME,
        parse_model(name),
        digest=digest(content),
        size_bytes=size_bytes,
        inputs=INPUTS,
        outputs=OUTPUTS,
        quota=quota,
    )
    return model


async def test_each_blob_counts_once_and_as_long_as_a_record_needs_it(acme: Registry) -> None:
    used = acme.storage.used_bytes
    assert await used(ACME) == 0
    await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True)
    assert await used(ACME) == 1234 + 3
    await acme.functions.put_version(ACME, RESIZE, draft("a"), activate=True)
    assert await used(ACME) == 1234 + 3
    await acme.functions.put_version(ACME, CLASSIFY, draft("b"), activate=True)
    assert await used(ACME) == 2 * 1234 + 3
    await put_model(acme, MOBILENET, "net", 1000)
    await put_model(acme, "another", "net", 1000)
    assert await used(ACME) == 2 * 1234 + 3 + 1000
    await acme.functions.delete(ACME, CLASSIFY)
    await acme.models.delete(ACME, MOBILENET)
    assert await used(ACME) == 1234 + 3 + 1000
    await acme.functions.delete(ACME, RESIZE)
    await acme.models.delete(ACME, parse_model("another"))
    assert await used(ACME) == 0
    assert await acme.connection.hash_all(key(ACME, Kind.SIZES)) == {}


async def test_what_would_be_too_much_changes_nothing(acme: Registry) -> None:
    quota = QUOTA.model_copy(update={"storage": 2000})
    first = await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True, quota=quota)
    with pytest.raises(StorageQuota) as refused:
        await acme.functions.put_version(ACME, CLASSIFY, draft("b"), activate=True, quota=quota)
    assert (refused.value.limit, refused.value.used) == (2000, 1237)
    with pytest.raises(StorageQuota):
        await put_model(acme, "net", "net", 764, quota)
    await put_model(acme, "net", "net", 763, quota)
    smaller = replace(draft("c"), module=draft("a").module)  # nothing but what is there already
    await acme.functions.put_version(ACME, RESIZE, smaller, activate=True, quota=quota)
    again = await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True, quota=quota)
    assert again == (first[0], False)
    assert (await acme.functions.get(ACME, CLASSIFY)).versions == (1,)


async def test_functions_and_models_are_counted_by_name(acme: Registry) -> None:
    quota = QUOTA.model_copy(update={"functions": 1, "models": 1})
    await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True, quota=quota)
    await acme.functions.put_version(ACME, CLASSIFY, draft("b"), activate=True, quota=quota)
    with pytest.raises(QuotaExceeded) as refused:
        await acme.functions.put_version(ACME, RESIZE, draft("a"), activate=True, quota=quota)
    assert (refused.value.limit, refused.value.used) == (1, 1)
    await put_model(acme, "net", "one", 10, quota)
    await put_model(acme, "net", "two", 10, quota)
    with pytest.raises(QuotaExceeded):
        await put_model(acme, "other", "one", 10, quota)


async def test_shared_models_are_nobodys_storage(acme: Registry) -> None:
    await acme.models.put(None, MOBILENET, digest=digest("x"), size_bytes=5, inputs=INPUTS, outputs=OUTPUTS)
    assert await acme.storage.used_bytes(ACME) == 0

"""How a model comes under a name: pushed as a file, which is judged and kept, or registered as another machine's."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from wisp.bearers import Bearers
from wisp.egress.remote import Remotes
from wisp.egress.remotemodels import parse_source
from wisp.models import ModelStore
from wisp.names import Digest, ModelName, TenantName
from wisp.policy.ceilings import Ceilings
from wisp.registry.blobs import digest_of
from wisp.registry.blobstore import BlobStore
from wisp.registry.expectations import Expected
from wisp.registry.records import Model
from wisp.registry.registry import Registry


class ModelUploads:
    """`ceilings` is called for the operator's policies in force."""

    def __init__(
        self,
        *,
        registry: Registry,
        blobs: BlobStore,
        models: ModelStore,
        remotes: Remotes,
        bearers: Bearers,
        ceilings: Callable[[], Ceilings],
    ) -> None:
        self._registry = registry
        self._blobs = blobs
        self._models = models
        self._remotes = remotes
        self._bearers = bearers
        self._ceilings = ceilings

    async def push(
        self, *, tenant: TenantName | None, model: ModelName, file: Path, expected: Expected = None
    ) -> tuple[Model, bool]:
        """(the record, whether it is new). Without a tenant it is the operator's, shared. Raises `InvalidModel`, and
        `PreconditionFailed` where the latest version has none of the expected digests."""
        quota = None
        if tenant is not None:
            owner = await self._registry.tenants.get(tenant)
            quota = self._ceilings().for_class(owner.class_name).quota
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size_bytes = os.fstat(fd).st_size
            digest = await asyncio.to_thread(digest_of, file)
            if tenant is not None and quota is not None:
                await self._registry.storage.check(tenant, quota, ((digest, size_bytes),))
            facts = await self._models.admit(tenant, digest, fd)
        finally:
            os.close(fd)
        digest = await self._blobs.put_file(file)
        return await self._registry.models.put(
            tenant,
            model,
            digest=digest,
            size_bytes=size_bytes,
            inputs=facts.inputs,
            outputs=facts.outputs,
            probe=facts.probe,
            quota=quota,
            expected=expected,
        )

    async def register(
        self, *, model: ModelName, source: str, bearer: str = "", expected: Expected = None
    ) -> tuple[Model, bool]:
        """A model of the operator's that another machine serves, and the credential for it, in the former one's place.

        Raises as `push` does.
        """
        parsed = parse_source(source)
        found = await self._remotes.describe(parsed, bearer)
        inputs, outputs = found.inputs, found.outputs
        content = [
            str(parsed),
            *([spec.name, spec.dtype, spec.shape] for spec in (*inputs, *outputs)),
            len(inputs),
            found.binary,
        ]
        digest = hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
        put, created = await self._registry.models.put(
            None,
            model,
            digest=Digest(f"sha256:{digest}"),
            size_bytes=0,
            inputs=inputs,
            outputs=outputs,
            source=str(parsed),
            binary=found.binary,
            expected=expected,
        )
        await self._bearers.put(put.name, put.version, put.source, bearer)
        return put, created

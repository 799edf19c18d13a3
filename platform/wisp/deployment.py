"""How an upload becomes an active version.

    policy    parsed, every fault with its line; what this release does not offer and what the ceiling does not allow
              is refused; models are pinned by digest
    module    a limited child reads its sections; `policy.admission` judges the facts; the child compiles it
    trial     a sandbox instantiates it once, with its files
    record    blobs first, then the version, numbered and activated in one step; the next request sees it

Whatever fails leaves nothing but unreferenced blobs, which the registry collects.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wisp.bundles import check_paths
from wisp.errors import Conflict, ExceedsCeiling, Fault, InvalidPolicy, NotFound, PreconditionFailed
from wisp.names import Digest, FunctionName, TenantName
from wisp.policy.admission import admit
from wisp.policy.ceilings import Ceilings
from wisp.policy.facts import ModuleFacts
from wisp.policy.grants import Grants
from wisp.policy.narrowing import narrow, refuse_excess
from wisp.policy.offer import unavailable
from wisp.policy.parse import parse_policy
from wisp.policy.quantity import print_size
from wisp.policy.schema import Policy, Quota
from wisp.registry.blobs import digest_of
from wisp.registry.blobstore import BlobStore
from wisp.registry.expectations import ANY, Expected
from wisp.registry.records import BundleFile, Draft, Function, ModelPin, Tenant, Version
from wisp.registry.registry import Registry
from wisp.registry.secrets import Secrets
from wisp.registry.snapshot import Snapshot
from wisp.trials import Trials, refuse

POLICY_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """`created` is False where the same content was there already; `active` and `revision` are the function's."""

    version: Version
    created: bool
    active: bool
    revision: int
    grants: Grants
    warnings: tuple[str, ...]


class Deployer:
    """`ceilings` is called for the operator's policies in force."""

    def __init__(
        self,
        *,
        registry: Registry,
        snapshot: Snapshot,
        blobs: BlobStore,
        trials: Trials,
        ceilings: Callable[[], Ceilings],
        secrets: Secrets,
    ) -> None:
        self._ceilings = ceilings
        self._registry = registry
        self._secrets = secrets
        self._snapshot = snapshot
        self._blobs = blobs
        self._trials = trials

    @property
    def ceilings(self) -> Ceilings:
        return self._ceilings()

    async def deploy(
        self,
        *,
        tenant: TenantName,
        function: FunctionName,
        module: Path,
        policy: bytes,
        bundle: tuple[tuple[str, Path], ...],
        activate: bool,
        author: str,
        message: str = "",
        expected: Expected = None,
    ) -> Deployed:
        """The files stay the caller's. Raises `Rejected` (every fault), `NotFound` for the tenant, `Unavailable`."""
        owner = await self._registry.tenants.get(tenant)
        parsed, grants = self._judge_policy(policy, owner)
        self._check_bundle(bundle)
        pins = await self._pin_models(tenant, parsed, grants)
        secrets = await self._open_secrets(tenant, parsed)
        sizes = await asyncio.to_thread(_sizes_of, module, *(path for _, path in bundle))
        await self._registry.storage.check(tenant, self._quota_of(owner), sizes)
        digest = sizes[0][0]
        facts = await self._trials.judge_module(tenant, module, digest, grants)
        await self._blobs.put_file(module)
        files = tuple(
            [
                BundleFile(path=name, digest=await self._blobs.put_file(path), size_bytes=path.stat().st_size)
                for name, path in sorted(bundle)
            ]
        )
        warnings = await self._trials.run(owner.name, function, digest, grants, pins, files, secrets)
        draft = _draft(
            module=digest,
            module_bytes=facts.size_bytes,
            policy=policy,
            grants=grants,
            bundle=files,
            pins=pins,
            facts_json=json.dumps(facts.to_json()),
            warnings=warnings,
            author=author,
        )
        return await self._record(owner, function, draft, grants, activate=activate, message=message, expected=expected)

    async def change_policy(
        self, *, tenant: TenantName, function: FunctionName, policy: bytes, author: str, expected: Expected = None
    ) -> Deployed:
        """A new version on the module and bundle of the active one (else the latest), and active.

        Between its reading of that version and its writing of the new one nothing may have come, else it would bring
        back a module that was replaced meanwhile. Raises `PreconditionFailed` at another revision than expected,
        `Conflict` where the function keeps changing.
        """
        for _ in range(POLICY_ATTEMPTS):
            existing = await self._registry.functions.get(tenant, function)
            if expected is not None and expected != (ANY,) and str(existing.revision) not in expected:
                raise PreconditionFailed(f"{tenant}/{function}: it has changed since; read it again")
            try:
                return await self._change_policy(existing, policy, author)
            except PreconditionFailed:
                continue
        raise Conflict(f"{tenant}/{function}: it changes too often just now; try again")

    async def _change_policy(self, existing: Function, policy: bytes, author: str) -> Deployed:
        tenant, function = existing.tenant, existing.name
        owner = await self._registry.tenants.get(tenant)
        former = await self._registry.functions.version(tenant, function, existing.active or existing.latest)
        parsed, grants = self._judge_policy(policy, owner)
        pins = await self._pin_models(tenant, parsed, grants)
        secrets = await self._open_secrets(tenant, parsed)
        for digest in {former.module, *(file.digest for file in former.bundle)}:
            await self._blobs.renew(digest)  # the former version may be deleted before the new one is recorded
        facts = ModuleFacts.from_json(json.loads(former.facts_json))
        refuse(admit(facts, grants))
        warnings = await self._trials.run(owner.name, function, former.module, grants, pins, former.bundle, secrets)
        draft = _draft(
            module=former.module,
            module_bytes=former.module_bytes,
            policy=policy,
            grants=grants,
            bundle=former.bundle,
            pins=pins,
            facts_json=former.facts_json,
            warnings=warnings,
            author=author,
        )
        return await self._record(
            owner, function, draft, grants, activate=True, message="", expected=(str(existing.revision),)
        )

    def _quota_of(self, owner: Tenant) -> Quota:
        return self.ceilings.for_class(owner.class_name).quota

    def _judge_policy(self, text: bytes, owner: Tenant) -> tuple[Policy, Grants]:
        policy = parse_policy(text)
        faults = unavailable(policy)
        if faults:
            raise InvalidPolicy(faults[0].message, faults)
        tenant_class, ceiling = self.ceilings.for_class(owner.class_name), self.ceilings.ceiling
        refuse_excess(policy, tenant_class, ceiling)
        return policy, narrow(policy, tenant_class, ceiling)

    def _check_bundle(self, bundle: tuple[tuple[str, Path], ...]) -> None:
        check_paths(name for name, _ in bundle)
        size, most = sum(path.stat().st_size for _, path in bundle), self.ceilings.ceiling.files.bundle
        if size > most:
            message = f"the bundle's files have {size} bytes; the ceiling's files.bundle is {print_size(most)}"
            fault = Fault(field="file", message=message, asked=print_size(size), allowed=print_size(most))
            raise ExceedsCeiling(message, (fault,))

    async def _pin_models(self, tenant: TenantName, policy: Policy, grants: Grants) -> tuple[ModelPin, ...]:
        pins, faults = [], []
        for index, grant in enumerate(grants.models):
            try:
                model = await self._registry.models.resolve(tenant, str(grant.model))
            except NotFound as error:
                faults.append(policy.positions.fault(("models", index, "model"), error.message))
                continue
            pins.append(
                ModelPin(
                    name=grant.name,
                    model=model.name,
                    version=model.version,
                    digest=model.digest,
                    inputs=model.inputs,
                    outputs=model.outputs,
                    shared=model.tenant is None,
                    source=model.source,
                    binary=model.binary,
                )
            )
        if faults:
            raise InvalidPolicy(f"the policy names a model that is not there: {faults[0].message}", tuple(faults))
        return tuple(pins)

    async def _open_secrets(self, tenant: TenantName, policy: Policy) -> tuple[tuple[str, str], ...]:
        """The values of those that the policy names: the trial is to see the environment that requests will see."""
        sealed = await self._secrets.sealed(tenant, policy.secrets)
        there = {name for name, _ in sealed}
        faults = tuple(
            policy.positions.fault(("secrets", index), f"there is no secret {name}; put it first")
            for index, name in enumerate(policy.secrets)
            if name not in there
        )
        if faults:
            raise InvalidPolicy(f"the policy names a secret that is not there: {faults[0].message}", faults)
        return self._secrets.variables(tenant, sealed)

    async def _record(
        self,
        owner: Tenant,
        function: FunctionName,
        draft: Draft,
        grants: Grants,
        *,
        activate: bool,
        message: str,
        expected: Expected,
    ) -> Deployed:
        placed = await self._registry.functions.place(
            owner.name,
            function,
            draft,
            activate=activate,
            message=message,
            expected=expected,
            quota=self._quota_of(owner),
        )
        await self._snapshot.settle(owner.name, function)
        return Deployed(
            version=placed.version,
            created=placed.created,
            active=placed.function.active == placed.version.number,
            revision=placed.function.revision,
            grants=grants,
            warnings=placed.version.warnings,
        )


def _sizes_of(*paths: Path) -> tuple[tuple[Digest, int], ...]:
    return tuple((digest_of(path), path.stat().st_size) for path in paths)


def _draft(
    *,
    module: Digest,
    module_bytes: int,
    policy: bytes,
    grants: Grants,
    bundle: tuple[BundleFile, ...],
    pins: tuple[ModelPin, ...],
    facts_json: str,
    warnings: tuple[str, ...],
    author: str,
) -> Draft:
    """What makes two uploads the same: module, policy text, bundle and pinned models."""
    text = policy.decode()
    content = [
        module,
        text,
        [[file.path, file.digest] for file in bundle],
        sorted([pin.name, pin.digest] for pin in pins),
    ]
    digest = hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
    return Draft(
        module=module,
        module_bytes=module_bytes,
        abi=grants.abi,
        policy_text=text,
        bundle=bundle,
        models=pins,
        facts_json=facts_json,
        content_digest=Digest(f"sha256:{digest}"),
        warnings=warnings,
        author=author,
        created_at=int(time.time()),
    )

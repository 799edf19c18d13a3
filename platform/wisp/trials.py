"""What an upload must pass before it is recorded: its module is judged and compiled, and instantiated once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from wisp.bundles import BundleStore, bundle_of, unseen
from wisp.code import CodeStore, compile_limits
from wisp.errors import Fault, InvalidModule
from wisp.hostmounts import HostStore, host_mounts_of
from wisp.inspection import facts_of
from wisp.links import make_links
from wisp.names import Digest, FunctionName, TenantName
from wisp.placement import unplaced
from wisp.policy.admission import admit
from wisp.policy.ceilings import Ceilings
from wisp.policy.facts import ModuleFacts
from wisp.policy.grants import Grants
from wisp.registry.records import BundleFile, ModelPin
from wisp.scheduling.jobs import Job
from wisp.scheduling.sandboxes import Sandboxes
from wisp.wire.outcome import Outcome

TRIAL_QUEUE_S = 10.0


class Trials:
    """`ceilings` is called for the operator's policies in force; `gpu`: this node has one."""

    def __init__(
        self,
        *,
        code: CodeStore,
        bundles: BundleStore,
        hostfiles: HostStore,
        sandboxes: Sandboxes,
        ceilings: Callable[[], Ceilings],
        gpu: bool = False,
    ) -> None:
        self._code = code
        self._bundles = bundles
        self._hostfiles = hostfiles
        self._sandboxes = sandboxes
        self._ceilings = ceilings
        self._gpu = gpu

    async def judge_module(self, tenant: TenantName, module: Path, digest: Digest, grants: Grants) -> ModuleFacts:
        limits = compile_limits(self._ceilings())
        fd = os.open(module, os.O_RDONLY | os.O_CLOEXEC)
        try:
            async with self._code.compilers.start(limits, tenant) as compilation:
                facts = await facts_of(compilation, fd, limits)
                refuse(admit(facts, grants))
                await self._code.compile(digest, compilation)
        finally:
            os.close(fd)
        return facts

    async def run(
        self,
        tenant: TenantName,
        function: FunctionName,
        module: Digest,
        grants: Grants,
        pins: tuple[ModelPin, ...],
        files: tuple[BundleFile, ...],
        secrets: tuple[tuple[str, str], ...],
    ) -> tuple[str, ...]:
        """Instantiates it once, in a sandbox. What the guest's own start does wrong is a warning: it would do the same
        at each request, and say so."""
        link, _ = make_links(tenant, function, module, grants, pins, secrets, gpu=self._gpu)
        job = Job(
            tenant=tenant,
            link=link,
            binding=None,
            models=(),
            code=await self._code.segment(module, self._ceilings()),
            head=b"",
            body=b"",
            body_segment=(),
            body_bytes=0,
            timeout_ns=grants.timeout_ns,
            bundle=await self._bundles.segment(bundle_of(files, grants)),
            hosts=await self._hostfiles.segment(host_mounts_of(grants, self._ceilings().ceiling)),
            probe=True,
        )
        ending, _ = await self._sandboxes.run(job, queue_timeout_s=TRIAL_QUEUE_S)
        self._sandboxes.forget(link)
        warnings = (*unseen((file.path for file in files), grants), *unplaced(grants, gpu=self._gpu))
        if ending.outcome is Outcome.OK:
            return warnings
        return (f"its start ends with {ending.outcome}: {ending.detail}", *warnings)


def refuse(faults: tuple[Fault, ...]) -> None:
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InvalidModule(f"{faults[0].field}: {faults[0].message}{more}", faults)

"""What a node does before a new version answers on it, so that no request waits for it.

warm      before the switch: compiled code, bundle, host directories, models, links in the sandboxes that are free.
          The former version answers meanwhile, `SWITCH_S` at most
upload    after an upload anywhere, activated or not: its code is compiled here too, in the background
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from wisp.bundles import BundleStore
from wisp.code import CodeStore
from wisp.errors import NotFound, WispError
from wisp.hostmounts import HostStore
from wisp.names import Digest, FunctionName, TenantName
from wisp.plans import Plan, Plans
from wisp.policy.ceilings import Ceilings
from wisp.registry.functions import Functions
from wisp.registry.records import Entry
from wisp.scheduling.hosts import InferenceHost
from wisp.scheduling.jobs import Job
from wisp.scheduling.sandboxes import Sandboxes
from wisp.scheduling.tenanthosts import TenantHosts

log = logging.getLogger(__name__)

SWITCH_S: Final = 10.0
RETRY_S: Final = 0.25
MAX_UPLOADS: Final = 1024
"""Uploads whose code waits to be compiled; beyond them the first use compiles."""


class Prewarmer:
    """`run` beside the requests. `warm` and `upload` never raise what a version does wrong: they log it."""

    def __init__(
        self,
        *,
        plans: Plans,
        functions: Functions,
        code: CodeStore,
        bundles: BundleStore,
        hostfiles: HostStore,
        host: InferenceHost,
        own_hosts: TenantHosts,
        gpu_host: InferenceHost | None = None,
        sandboxes: Sandboxes,
        ceilings: Callable[[], Ceilings],
        switch_s: float = SWITCH_S,
    ) -> None:
        self._plans = plans
        self._functions = functions
        self._code = code
        self._bundles = bundles
        self._hostfiles = hostfiles
        self._host = host
        self._own_hosts = own_hosts
        self._gpu_host = gpu_host
        self._sandboxes = sandboxes
        self._ceilings = ceilings
        self._switch_s = switch_s
        self._uploads: dict[tuple[TenantName, FunctionName], None] = {}
        self._uploaded = asyncio.Event()
        self._under_way: set[asyncio.Future[None]] = set()

    async def warm(self, entry: Entry) -> None:
        """Returns when the entry can answer at once, or when the former has answered for long enough."""
        if not entry.versions:
            return
        numbers = "+".join(str(version.number) for version in entry.versions)
        place = f"{entry.tenant.name}/{entry.function.name}@{numbers}"
        attempts = asyncio.ensure_future(self._attempts(entry, place))
        self._under_way.add(attempts)
        attempts.add_done_callback(self._under_way.discard)
        # Not cancelled in the end: requests will wait for what has begun, and a compilation would begin anew.
        done, _ = await asyncio.wait({attempts}, timeout=self._switch_s)
        if done:
            attempts.result()
        else:
            log.warning("%s answers from now on, though it is not ready after %g s", place, self._switch_s)

    async def _attempts(self, entry: Entry, place: str) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._switch_s
        while True:
            if await self._attempt(entry, place) or loop.time() >= until:
                return
            await asyncio.sleep(RETRY_S)

    async def _attempt(self, entry: Entry, place: str) -> bool:
        ready = True
        try:
            plans = self._plans.prepare(entry, self._ceilings()).plans
            async with asyncio.TaskGroup() as group:  # the slowest of them decides, not their sum
                group.create_task(self._host.ensure(_models_of(plans, gpu=False)))
                if self._gpu_host is not None and (models := _models_of(plans, gpu=True)):
                    group.create_task(self._gpu_host.ensure(models))
                linking = [group.create_task(self._link_of(plan)) for plan in plans]
                if self._own_hosts.get(entry.tenant.name) is not None:  # none is started ahead of a request
                    own = tuple({model for plan in plans for model in plan.own_models})
                    group.create_task(self._own_hosts.ensure(entry.tenant.name, own))
            for link in linking:
                self._sandboxes.bring(link.result())
        except* (WispError, OSError) as failed:  # a full disk, too, is no reason to serve no more
            log.warning("%s is not ready to answer: %s", place, first_of(failed))
            ready = False
        return ready

    async def _link_of(self, plan: Plan) -> Job:
        return Job(
            tenant=plan.entry.tenant.name,
            link=plan.link,
            binding=None,
            models=(),
            code=await self._code.segment(plan.module, plan.ceilings),
            head=b"",
            body=b"",
            body_segment=(),
            body_bytes=0,
            timeout_ns=0,
            bundle=await self._bundles.segment(plan.bundle),
            hosts=await self._hostfiles.segment(plan.hosts),
        )

    def upload(self, tenant: TenantName, function: FunctionName) -> None:
        """The function has changed somewhere, perhaps by an upload."""
        if len(self._uploads) < MAX_UPLOADS:
            self._uploads[tenant, function] = None
            self._uploaded.set()

    async def run(self) -> None:
        """Until cancelled: one upload after the other. Ends what is being warmed, too."""
        try:
            while True:
                await self._uploaded.wait()
                self._uploaded.clear()
                while self._uploads:
                    tenant, function = next(iter(self._uploads))
                    del self._uploads[tenant, function]
                    await self._compile_latest(tenant, function)
        finally:
            for attempts in self._under_way:
                attempts.cancel()

    async def _compile_latest(self, tenant: TenantName, function: FunctionName) -> None:
        try:
            latest = (await self._functions.get(tenant, function)).latest
            version = await self._functions.version(tenant, function, latest)
            await self._code.segment(version.module, self._ceilings())
        except NotFound:
            pass  # deleted, or its latest version was
        except (WispError, OSError) as error:
            log.warning("%s/%s: the newest upload is not ready on this node yet: %s", tenant, function, error)


def _models_of(plans: tuple[Plan, ...], *, gpu: bool) -> tuple[Digest, ...]:
    return tuple({model for plan in plans if plan.gpu is gpu for model in plan.models})


def first_of(group: BaseExceptionGroup[WispError | OSError]) -> WispError | OSError:
    for error in group.exceptions:
        return first_of(error) if isinstance(error, BaseExceptionGroup) else error
    raise ValueError("an empty group")

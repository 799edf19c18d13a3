"""One node: Redis, the registry, the children, and the two paths over them, started and stopped in order.

Everything that runs beside requests (the embedded server's supervision, the event stream, the collection of unused
blobs) is watched: a task that ends by a defect is logged at once, and the node says that it is not ready.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from wisp.accesslog import AccessLog
from wisp.background import Background
from wisp.bearers import Bearers
from wisp.datadirectory import DataDirectory
from wisp.denials import Denials
from wisp.deployment import Deployer
from wisp.dispatch import Dispatcher
from wisp.egress.outbound import Egress
from wisp.egress.remote import Remotes
from wisp.errors import InvalidSettings
from wisp.guards import Guards
from wisp.inferring.catalogue import Catalogue
from wisp.inferring.hosted import HostedModels
from wisp.inferring.inferring import Inferring
from wisp.inferring.remote import RemoteInference
from wisp.inferring.states import RemoteStates
from wisp.keeping import Keeper, KeptState, prepare_registry
from wisp.ledger import Ledger
from wisp.modeluploads import ModelUploads
from wisp.policy.ceilings import Ceilings, default_policies_dir
from wisp.policybook import PolicyBook, make_policy_book
from wisp.pools import Pools
from wisp.prewarm import Prewarmer
from wisp.quotas.quotas import Quotas
from wisp.registry.bearers import ModelBearers
from wisp.registry.cipher import SecretCipher
from wisp.registry.embedded import EmbeddedRedis
from wisp.registry.following import Following, nothing
from wisp.registry.garbage import collect_at_times
from wisp.registry.registry import Registry
from wisp.registry.secrets import Secrets
from wisp.registry.snapshot import Snapshot
from wisp.scheduling.budget import ByteBudget
from wisp.scheduling.hosts import InferenceHost
from wisp.scheduling.precedence import Precedence
from wisp.scheduling.rooms import Rooms
from wisp.scheduling.routerlines import RouterLines
from wisp.scheduling.sandboxes import Sandboxes
from wisp.scheduling.tenanthosts import TenantHosts
from wisp.scheduling.walls import WallWatch
from wisp.settings import Settings
from wisp.stores import Stores
from wisp.suspensions import Suspensions
from wisp.tenantlog import TenantLog
from wisp.trials import Trials

log = logging.getLogger(__name__)

LINES_PER_WORKER = 4
"""Inferences that callers ask for without a guest, at a time: those that wait in the host are there to be batched."""


class Node:
    """`async with Node(settings)`: ready inside the block; afterwards no child, socket or segment is left."""

    def __init__(self, settings: Settings) -> None:
        assert settings.operator_key is not None
        self.settings = settings
        self.operator_key_sha256 = hashlib.sha256(settings.operator_key.encode()).digest()
        self.draining = False
        self.background = Background()
        self.directory = DataDirectory(settings.data_dir)
        self.data_dir = self.directory.path
        self.staging = self.directory.staging
        self.tenantlog = TenantLog()
        self.denials = Denials()
        self.budget = ByteBudget(settings.body_budget_bytes)
        self.walls = WallWatch()
        self.registry: Registry
        self.book: PolicyBook
        self.snapshot: Snapshot
        self.secrets: Secrets
        self.stores: Stores
        self.host: InferenceHost
        self.own_hosts: TenantHosts
        self.gpu_host: InferenceHost | None = None
        self.sandboxes: Sandboxes
        self.precedence: Precedence
        self.deployer: Deployer
        self.model_uploads: ModelUploads
        self.dispatcher: Dispatcher
        self.inferring: Inferring
        self.egress: Egress
        self.guards: Guards
        self.kept: KeptState | None = None
        self.quotas: Quotas
        self.ledger: Ledger
        self.accesslog = AccessLog(settings.log_format) if settings.access_log == "on" else None
        self._stack = AsyncExitStack()

    @property
    def ceilings(self) -> Ceilings:
        """What the operator allows at present."""
        return self.book.ceilings

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        empty_directory = self.directory.prepare()
        embedded, offline = await self._start_registry()
        self.stores = Stores(
            self._stack,
            self.settings,
            data_dir=self.data_dir,
            empty_directory=empty_directory,
            connection=self.registry.connection,
            local=embedded is not None,
            ceilings=lambda: self.ceilings,
            budget=self.budget,
            walls=self.walls,
        )
        await self._start_children(empty_directory)
        bearers = Bearers(ModelBearers(self.registry.connection, self.secrets.cipher))
        remotes = Remotes(bearers.of)
        self._stack.push_async_callback(remotes.close)
        self._open_uploads(remotes, bearers)
        self._open_requests(remotes)
        beside = self._keep_up(offline=offline)
        if embedded is not None:
            beside.append(embedded.run())
        beside += [self.book.run(), self.guards.run(), self.quotas.run(), self.ledger.run()]
        beside += [self.own_hosts.run(), collect_at_times(self.registry, self.stores.blobs)]
        self._stack.push_async_callback(self.background.end)
        self.background.start(beside)

    async def _start_registry(self) -> tuple[EmbeddedRedis | None, bool]:
        """What is known, and by whom: the server if it is this node's own, and whether it could not be reached."""
        embedded = None if self.settings.redis is not None else EmbeddedRedis(self.data_dir)
        if embedded is not None:
            self._stack.push_async_callback(embedded.stop)
        url = await embedded.start() if embedded is not None else self.settings.redis
        assert url is not None
        self.registry = Registry(url)
        self._stack.push_async_callback(self.registry.aclose)
        self.kept = None if embedded is not None else await KeptState.open(self.data_dir)
        offline = await prepare_registry(self.registry, self.kept)
        self._start_accounts()
        self.book = make_policy_book(
            self.registry.policies,
            directory=self.settings.policies,
            defaults=default_policies_dir(),
            alone=embedded is not None,
        )
        self._stack.push_async_callback(self.book.close)
        await self.book.open(None if self.kept is None or not offline else self.kept.policies)
        secrets_key = self.settings.secrets_key or self.directory.secrets_key(shared=embedded is None)
        self.secrets = Secrets(self.registry.connection, SecretCipher(secrets_key))
        self.snapshot = Snapshot(self.registry)
        if self.kept is not None:
            await self.kept.restore(self.snapshot, offline=offline)
        return embedded, offline

    def _start_accounts(self) -> None:
        """Before what answers requests, so that they end after it."""
        self.ledger = Ledger(self.registry.usage, self.data_dir / "usage")
        self._stack.push_async_callback(self.ledger.close)
        if self.accesslog is not None:
            self.accesslog.start()
            self._stack.callback(self.accesslog.stop)

    async def _start_children(self, empty_directory: Path) -> None:
        """And tries what is started for each upload."""
        limits, stores = self.ceilings.ceiling.limits, self.stores
        self.book.fit(limits.response_body + limits.logs)
        pools = Pools(
            self.settings,
            empty_directory=empty_directory,
            rooms=Rooms(self.data_dir / "models" / "rooms"),
            answer_bytes=limits.response_body + limits.logs,
            open_model=stores.open_model,
            on_fingerprint=stores.code.cache.set_fingerprint,
            walls=self.walls,
        )
        self.host, self.own_hosts, self.sandboxes = pools.host, pools.own_hosts, pools.sandboxes
        self.precedence = pools.precedence
        stores.inline.host, stores.inline.own_hosts = self.host, self.own_hosts
        self._stack.push_async_callback(self.host.stop)
        self._stack.push_async_callback(self.own_hosts.stop)
        self._stack.push_async_callback(stores.inline.close)
        self._stack.push_async_callback(self.sandboxes.stop)
        await asyncio.gather(
            self.host.start(), self.sandboxes.start(), stores.compilers.probe(), stores.admissions.probe()
        )
        if pools.gpu_host is not None:
            self._stack.push_async_callback(pools.gpu_host.stop)
            await pools.start_gpu_host()
            self.gpu_host = pools.gpu_host
        if self.settings.require_walls:
            if missing := self.walls.missing():
                raise InvalidSettings(f"--require-walls: {missing[0]}")
            self.walls.enforced = True

    def _open_uploads(self, remotes: Remotes, bearers: Bearers) -> None:
        self.deployer = Deployer(
            registry=self.registry,
            snapshot=self.snapshot,
            blobs=self.stores.blobs,
            trials=Trials(
                code=self.stores.code,
                bundles=self.stores.bundles,
                hostfiles=self.stores.hostfiles,
                sandboxes=self.sandboxes,
                ceilings=lambda: self.ceilings,
                gpu=self.gpu_host is not None,
            ),
            ceilings=lambda: self.ceilings,
            secrets=self.secrets,
        )
        self.model_uploads = ModelUploads(
            registry=self.registry,
            blobs=self.stores.blobs,
            models=self.stores.models,
            remotes=remotes,
            bearers=bearers,
            ceilings=lambda: self.ceilings,
        )

    def _open_requests(self, remotes: Remotes) -> None:
        self.egress = Egress(self.budget)
        self._stack.push_async_callback(self.egress.close)
        self.guards = Guards(self.registry.functions, self.tenantlog, self.snapshot.doubt_function)
        self.quotas = Quotas(self.registry.quotas)
        self._stack.push_async_callback(self.quotas.close)
        suspensions = Suspensions(self.registry)
        self._stack.push_async_callback(suspensions.close)
        self.snapshot.on_change = suspensions.note_change
        self.snapshot.on_suspended = suspensions.stop
        self.dispatcher = Dispatcher(
            snapshot=self.snapshot,
            sandboxes=self.sandboxes,
            host=self.host,
            own_hosts=self.own_hosts,
            gpu_host=self.gpu_host,
            code=self.stores.code,
            bundles=self.stores.bundles,
            hostfiles=self.stores.hostfiles,
            inline=self.stores.inline,
            budget=self.budget,
            tenantlog=self.tenantlog,
            denials=self.denials,
            ceilings=lambda: self.ceilings,
            secrets=self.secrets,
            egress=self.egress,
            remotes=remotes,
            guards=self.guards,
            quotas=self.quotas,
            suspensions=suspensions,
            ledger=self.ledger,
            operator_key_sha256=self.operator_key_sha256,
        )
        lines = RouterLines(LINES_PER_WORKER * self.settings.workers)
        self._stack.callback(lines.close)
        states = RemoteStates(remotes)
        self._stack.push_async_callback(states.close)
        self.inferring = Inferring(
            snapshot=self.snapshot,
            catalogue=Catalogue(self.registry.models),
            hosted=HostedModels(host=self.host, own_hosts=self.own_hosts, lines=lines),
            remote=RemoteInference(remotes, self.budget),
            states=states,
            budget=self.budget,
            quotas=self.quotas,
            suspensions=suspensions,
            ledger=self.ledger,
            ceilings=lambda: self.ceilings,
        )

    def _keep_up(self, *, offline: bool) -> list[Coroutine[None, None, None]]:
        """What follows the registry's changes, to be run beside the requests."""
        prewarmer = Prewarmer(
            plans=self.dispatcher.plans,
            functions=self.registry.functions,
            code=self.stores.code,
            bundles=self.stores.bundles,
            hostfiles=self.stores.hostfiles,
            host=self.host,
            own_hosts=self.own_hosts,
            gpu_host=self.gpu_host,
            sandboxes=self.sandboxes,
            ceilings=lambda: self.ceilings,
        )
        self.snapshot.prepare = prewarmer.warm
        following = Following(
            self.snapshot,
            prepare_registry=self.registry.prepare if offline else nothing,
            on_policy=self.book.wake,
            on_function=prewarmer.upload,
            on_slots=self.quotas.note_short,
        )
        beside = [following.run(), prewarmer.run()]
        if self.kept is not None:
            elsewhere = self.settings.blobs is None or not self.settings.blobs.startswith("file:")
            self.kept.keeper = Keeper(
                self.kept.file,
                self.snapshot,
                policies=lambda: self.book.documents.values(),
                unsettled=lambda: following.unsettled,
                recalling=lambda: following.recalling,
                blobs=self.stores.blobs if elsewhere else None,
            )
            beside.append(self.kept.keeper.run())
            self._stack.push_async_callback(self.kept.keeper.save)
        return beside

    def providers(self) -> dict[str, tuple[str, ...]]:
        """onnxruntime's, by the inference host that has them."""
        return {"shared": self.host.providers} | ({} if self.gpu_host is None else {"gpu": self.gpu_host.providers})

    def readiness(self) -> dict[str, object]:
        """What `/readyz` shows. A node whose Redis is away for a moment stays ready: it answers from memory."""
        sandboxes = sum(slot.ready for slot in self.sandboxes.slots)
        inference = self.host.ready
        return {
            "ready": not self.draining and not self.background.failed and sandboxes > 0 and inference,
            "draining": self.draining,
            "sandboxes": {"ready": sandboxes, "total": len(self.sandboxes.slots)},
            "inference": inference,
            "registry": self.snapshot.reach.as_json() | ({} if self.kept is None else {"kept": self.kept.as_json()}),
            "quotas": {"cut_off": self.quotas.cut_off},
            "policies": {"source": self.book.source.value, "faulty": sorted(self.book.faults)},
        }

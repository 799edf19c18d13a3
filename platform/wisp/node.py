"""One node: Redis, the registry, the children, and the two paths over them, started and stopped in order.

Everything that runs beside requests (the embedded server's supervision, the event stream, the collection of unused
blobs) is watched: a task that ends by a defect is logged at once, and the node says that it is not ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import shutil
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from wisp.accesslog import AccessLog
from wisp.bearers import Bearers
from wisp.bundles import BundleStore
from wisp.code import CodeStore
from wisp.cores import usable_cores, usable_memory_bytes
from wisp.denials import Denials
from wisp.deployment import Deployer
from wisp.dispatch import Dispatcher
from wisp.egress.outbound import Egress
from wisp.egress.remote import Remotes
from wisp.errors import InvalidSettings, RegistryUnavailable
from wisp.guards import Guards
from wisp.hostmounts import HostStore
from wisp.inferring.catalogue import Catalogue
from wisp.inferring.hosted import HostedModels
from wisp.inferring.inferring import Inferring
from wisp.inferring.remote import RemoteInference
from wisp.inline import InlineModels
from wisp.keeping import Keeper, KeptState, prepare_registry
from wisp.ledger import Ledger
from wisp.models import ModelStore
from wisp.names import Digest
from wisp.placement import GPU_PROVIDER, has_gpu, model_of
from wisp.policy.ceilings import Ceilings, default_policies_dir
from wisp.policybook import PolicyBook, make_policy_book
from wisp.prewarm import Prewarmer
from wisp.quotas import Quotas
from wisp.registry.bearers import ModelBearers
from wisp.registry.blobstore import BlobStore, open_blobs
from wisp.registry.cipher import SecretCipher, load_secrets_key
from wisp.registry.embedded import EmbeddedRedis
from wisp.registry.following import Following, nothing
from wisp.registry.garbage import collect_garbage
from wisp.registry.registry import Registry
from wisp.registry.secrets import Secrets
from wisp.registry.snapshot import Snapshot
from wisp.scheduling.admissions import Admissions
from wisp.scheduling.budget import ByteBudget
from wisp.scheduling.children import make_empty_directory
from wisp.scheduling.codecache import CodeCache, load_key
from wisp.scheduling.compilers import Compilers
from wisp.scheduling.hosts import Bounds, InferenceHost, OpenedModel
from wisp.scheduling.modelcache import ModelCache
from wisp.scheduling.rooms import Room, Rooms
from wisp.scheduling.routerlines import RouterLines
from wisp.scheduling.sandboxes import Sandboxes
from wisp.scheduling.tenanthosts import TenantHosts
from wisp.scheduling.uploads import UploadTurns, concurrent_uploads
from wisp.scheduling.walls import WallWatch
from wisp.settings import Settings
from wisp.suspensions import Suspensions
from wisp.tenantlog import TenantLog
from wisp.wire.exchange import MAX_HEADER_BYTES
from wisp.wire.walls import ChildKind

log = logging.getLogger(__name__)

SECRETS_KEY_FILE = "secrets.key"
OWN_HOST = Bounds(data_bytes=2 << 30, arena_bytes=512 << 20, patience_s=1.0)
"""Of each tenant's inference host."""
GARBAGE_EVERY_S = 600.0
CANCEL_AGAIN_S = 0.2
LINES_PER_WORKER = 4
"""Inferences that callers ask for without a guest, at a time: those that wait in the host are there to be batched."""
ENVELOPE_BYTES = 64 * 1024
assert ENVELOPE_BYTES > MAX_HEADER_BYTES


class Node:
    """`async with Node(settings)`: ready inside the block; afterwards no child, socket or segment is left."""

    def __init__(self, settings: Settings) -> None:
        assert settings.operator_key is not None
        self.settings = settings
        self.operator_key_sha256 = hashlib.sha256(settings.operator_key.encode()).digest()
        self.draining = False
        self.failed = False
        self.data_dir = settings.data_dir.absolute()
        self.staging = self.data_dir / "staging"
        self.tenantlog = TenantLog()
        self.denials = Denials()
        self.budget = ByteBudget(settings.body_budget_bytes)
        self.walls = WallWatch()
        self.registry: Registry
        self.book: PolicyBook
        self.snapshot: Snapshot
        self.secrets: Secrets
        self.blobs: BlobStore
        self.code: CodeStore
        self.models: ModelStore
        self.inline: InlineModels
        self.bundles: BundleStore
        self.hostfiles = HostStore()
        self.host: InferenceHost
        self.own_hosts: TenantHosts
        self.gpu_host: InferenceHost | None = None
        self.sandboxes: Sandboxes
        self.deployer: Deployer
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
        empty_directory = self._prepare_directories()
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
        self.secrets = Secrets(self.registry.connection, SecretCipher(self._secrets_key()))
        self.snapshot = Snapshot(self.registry)
        if self.kept is not None:
            await self.kept.restore(self.snapshot, offline=offline)
        self.blobs = open_blobs(
            self.settings.blobs or (f"file://{quote(str(self.data_dir / 'blobs'))}" if embedded else "redis:"),
            connection=self.registry.connection,
            cache=self.data_dir / "blobcache",
            cache_bytes=self.settings.blob_cache_bytes,
        )
        self._stack.push_async_callback(self.blobs.aclose)
        cache = CodeCache(self.data_dir / "code", load_key(self.data_dir / "code.key"))
        self._stack.callback(cache.close)
        turns = UploadTurns(concurrent_uploads(usable_cores()))
        compilers = Compilers(empty_directory=empty_directory, turns=turns, walls=self.walls)
        admissions = Admissions(empty_directory=empty_directory, turns=turns, walls=self.walls)
        self.code = CodeStore(cache, compilers, self.blobs)
        models = ModelCache(self.data_dir / "models", load_key(self.data_dir / "models.key"))
        self.models = ModelStore(models, admissions, self.blobs, lambda: self.ceilings)
        guests = Admissions(empty_directory=empty_directory, walls=self.walls)
        self.inline = InlineModels(guests, lambda: self.ceilings, self.budget)
        self.bundles = BundleStore(self.blobs)
        self._stack.callback(self.bundles.cache.close)
        self._stack.callback(self.hostfiles.close)
        await self._start_children(empty_directory, cache, compilers, admissions)
        bearers = Bearers(ModelBearers(self.registry.connection, self.secrets.cipher))
        remotes = Remotes(bearers.of)
        self._stack.push_async_callback(remotes.close)
        self.deployer = Deployer(
            registry=self.registry,
            snapshot=self.snapshot,
            blobs=self.blobs,
            code=self.code,
            bundles=self.bundles,
            hostfiles=self.hostfiles,
            models=self.models,
            remotes=remotes,
            bearers=bearers,
            sandboxes=self.sandboxes,
            ceilings=lambda: self.ceilings,
            secrets=self.secrets,
            gpu=self.gpu_host is not None,
        )
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
            code=self.code,
            bundles=self.bundles,
            hostfiles=self.hostfiles,
            inline=self.inline,
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
        self.inferring = Inferring(
            snapshot=self.snapshot,
            catalogue=Catalogue(self.registry.models),
            hosted=HostedModels(host=self.host, own_hosts=self.own_hosts, lines=lines),
            remote=RemoteInference(remotes, self.budget),
            budget=self.budget,
            quotas=self.quotas,
            suspensions=suspensions,
            ledger=self.ledger,
            ceilings=lambda: self.ceilings,
        )
        prewarmer = Prewarmer(
            plans=self.dispatcher.plans,
            functions=self.registry.functions,
            code=self.code,
            bundles=self.bundles,
            hostfiles=self.hostfiles,
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
                blobs=self.blobs if elsewhere else None,
            )
            beside.append(self.kept.keeper.run())
            self._stack.push_async_callback(self.kept.keeper.save)
        await self._start_background(embedded, *beside)

    def _start_accounts(self) -> None:
        """Before what answers requests, so that they end after it."""
        self.ledger = Ledger(self.registry.usage, self.data_dir / "usage")
        self._stack.push_async_callback(self.ledger.close)
        if self.accesslog is not None:
            self.accesslog.start()
            self._stack.callback(self.accesslog.stop)

    def _prepare_directories(self) -> Path:
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.rmtree(self.staging, ignore_errors=True)  # what uploads left when a former process died
            self.staging.mkdir(mode=0o700)
            return make_empty_directory(self.data_dir)
        except OSError as error:
            raise InvalidSettings(f"--data-dir: {self.data_dir} cannot be used: {error.strerror}") from error

    def _secrets_key(self) -> bytes:
        if self.settings.secrets_key is not None:
            return self.settings.secrets_key
        path = self.data_dir / SECRETS_KEY_FILE
        if self.settings.redis is not None:
            log.warning(
                "secrets are sealed with this node's own key, %s: nodes that share a Redis need one WISP_SECRETS_KEY",
                path,
            )
        try:
            return load_secrets_key(path)
        except OSError as error:
            raise InvalidSettings(f"{path}: {error.strerror}") from error

    async def _start_children(
        self, empty_directory: Path, cache: CodeCache, compilers: Compilers, admissions: Admissions
    ) -> None:
        limits = self.ceilings.ceiling.limits
        self.book.fit(limits.response_body + limits.logs)
        rooms = Rooms(self.data_dir / "models" / "rooms")
        self.host = InferenceHost(
            empty_directory=empty_directory,
            threads=self.settings.workers,
            batch_delay_s=self.settings.batch_delay_s,
            open_model=self._open_model,
            memory_bytes=self.settings.model_memory_bytes or usable_memory_bytes() // 2,
            room=rooms.make(),
            on_lost=lambda host: self.sandboxes.detach(host),
            walls=self.walls,
        )
        self.own_hosts = TenantHosts(
            lambda: InferenceHost(
                empty_directory=empty_directory,
                threads=self.settings.workers,
                batch_delay_s=self.settings.batch_delay_s,
                open_model=self._open_model,
                memory_bytes=OWN_HOST.data_bytes // 2,
                room=rooms.make(),
                on_lost=lambda host: self.sandboxes.detach(host),
                walls=self.walls,
                bounds=OWN_HOST,
            ),
            most=self.settings.tenant_hosts,
        )
        self.sandboxes = Sandboxes(
            workers=self.settings.workers,
            spare=self.settings.spare,
            empty_directory=empty_directory,
            answer_bytes=limits.response_body + limits.logs + ENVELOPE_BYTES,
            host=self.host,
            own_hosts=self.own_hosts,
            on_fingerprint=cache.set_fingerprint,
            walls=self.walls,
        )
        self.inline.host, self.inline.own_hosts = self.host, self.own_hosts
        self._stack.push_async_callback(self.host.stop)
        self._stack.push_async_callback(self.own_hosts.stop)
        self._stack.push_async_callback(self.inline.close)
        self._stack.push_async_callback(self.sandboxes.stop)
        await asyncio.gather(self.host.start(), self.sandboxes.start(), compilers.probe(), admissions.probe())
        if self.settings.gpu != "off":
            await self._start_gpu_host(empty_directory, rooms.make())
        if self.settings.require_walls:
            if missing := self.walls.missing():
                raise InvalidSettings(f"--require-walls: {missing[0]}")
            self.walls.enforced = True

    async def _open_model(self, digest: Digest, room: Room) -> OpenedModel:
        model, gpu = model_of(digest)
        if gpu:  # what was prepared is for a processor
            return OpenedModel(fd=await self.blobs.open(model), gpu=True)
        return self.inline.open(digest) or await self.models.open(model, room)

    async def _start_gpu_host(self, empty_directory: Path, room: Room) -> None:
        host = InferenceHost(
            empty_directory=empty_directory,
            threads=self.settings.workers,
            batch_delay_s=self.settings.batch_delay_s,
            open_model=self._open_model,
            memory_bytes=self.settings.model_memory_bytes or usable_memory_bytes() // 2,
            room=room,
            on_lost=lambda host: self.sandboxes.detach(host),
            walls=self.walls,
            gpu=True,
        )
        self._stack.push_async_callback(host.stop)
        await host.start()
        if has_gpu(host.providers):
            self.gpu_host = self.sandboxes.gpu_host = host
            return
        if self.settings.gpu == "require":
            raise InvalidSettings(f"--gpu require: no {GPU_PROVIDER} works here; see onnxruntime-gpu in the README")
        log.warning("--gpu auto: no %s works here; models with target: gpu do not run on this node", GPU_PROVIDER)
        await host.stop()
        self.walls.forget(ChildKind.GPU_INFERENCE)

    async def _start_background(self, embedded: EmbeddedRedis | None, *beside: Coroutine[None, None, None]) -> None:
        running = [*beside, self.book.run(), self.guards.run(), self.quotas.run(), self.ledger.run()]
        running += [self.own_hosts.run(), self._collect_garbage()]
        running += [] if embedded is None else [embedded.run()]
        tasks = [asyncio.create_task(coroutine) for coroutine in running]
        for task in tasks:
            task.add_done_callback(self._note_background_end)

        async def end_background() -> None:
            left = set(tasks)
            while left:  # the Redis client loses a cancellation that arrives while it looks into a new connection
                for task in left:
                    task.cancel()
                _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)

        self._stack.push_async_callback(end_background)

    def _note_background_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.failed = True
            log.critical("a background task failed; restart this node", exc_info=error)

    async def _collect_garbage(self) -> None:
        while True:
            await asyncio.sleep(GARBAGE_EVERY_S)
            with contextlib.suppress(RegistryUnavailable):  # it is reported by what serves requests; here: next time
                await self.registry.tenants.repair_index()
                await collect_garbage(self.registry, self.blobs)

    def providers(self) -> dict[str, tuple[str, ...]]:
        """onnxruntime's, by the inference host that has them."""
        return {"shared": self.host.providers} | ({} if self.gpu_host is None else {"gpu": self.gpu_host.providers})

    def readiness(self) -> dict[str, object]:
        """What `/readyz` shows. A node whose Redis is away for a moment stays ready: it answers from memory."""
        sandboxes = sum(slot.ready for slot in self.sandboxes.slots)
        inference = self.host.ready
        return {
            "ready": not self.draining and not self.failed and sandboxes > 0 and inference,
            "draining": self.draining,
            "sandboxes": {"ready": sandboxes, "total": len(self.sandboxes.slots)},
            "inference": inference,
            "registry": self.snapshot.reach.as_json() | ({} if self.kept is None else {"kept": self.kept.as_json()}),
            "quotas": {"cut_off": self.quotas.cut_off},
            "policies": {"source": self.book.source.value, "faulty": sorted(self.book.faults)},
        }

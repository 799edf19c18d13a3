"""What a node keeps as files and segments, and the limited children that make it: code, models, bundles, host files.

Blobs lie under all of it: what a store does not have, or has lost, it makes again from the blob with that digest.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

from wisp.bundles import BundleStore
from wisp.code import CodeStore
from wisp.cores import usable_cores
from wisp.hostmounts import HostStore
from wisp.inline import InlineModels
from wisp.models import ModelStore
from wisp.names import Digest
from wisp.placement import model_of
from wisp.policy.ceilings import Ceilings
from wisp.registry.blobstore import BlobStore, open_blobs
from wisp.registry.connection import Connection
from wisp.scheduling.admissions import Admissions
from wisp.scheduling.budget import ByteBudget
from wisp.scheduling.codecache import CodeCache, load_key
from wisp.scheduling.compilers import Compilers
from wisp.scheduling.hosts import OpenedModel
from wisp.scheduling.modelcache import ModelCache
from wisp.scheduling.rooms import Room
from wisp.scheduling.uploads import UploadTurns, concurrent_uploads
from wisp.scheduling.walls import WallWatch
from wisp.settings import Settings


class Stores:
    """Open once made; `stack` closes them. `local`: the registry is this node's own, so blobs lie beside it unless
    `--blobs` says otherwise."""

    def __init__(
        self,
        stack: AsyncExitStack,
        settings: Settings,
        *,
        data_dir: Path,
        empty_directory: Path,
        connection: Connection,
        local: bool,
        ceilings: Callable[[], Ceilings],
        budget: ByteBudget,
        walls: WallWatch,
    ) -> None:
        self.blobs: BlobStore = open_blobs(
            settings.blobs or (f"file://{quote(str(data_dir / 'blobs'))}" if local else "redis:"),
            connection=connection,
            cache=data_dir / "blobcache",
            cache_bytes=settings.blob_cache_bytes,
        )
        stack.push_async_callback(self.blobs.aclose)
        cache = CodeCache(data_dir / "code", load_key(data_dir / "code.key"))
        stack.callback(cache.close)
        turns = UploadTurns(concurrent_uploads(usable_cores()))
        self.compilers = Compilers(empty_directory=empty_directory, turns=turns, walls=walls)
        self.admissions = Admissions(empty_directory=empty_directory, turns=turns, walls=walls)
        self.code = CodeStore(cache, self.compilers, self.blobs)
        models = ModelCache(data_dir / "models", load_key(data_dir / "models.key"))
        self.models = ModelStore(models, self.admissions, self.blobs, ceilings)
        guests = Admissions(empty_directory=empty_directory, walls=walls)
        self.inline = InlineModels(guests, ceilings, budget)
        self.bundles = BundleStore(self.blobs)
        stack.callback(self.bundles.cache.close)
        self.hostfiles = HostStore()
        stack.callback(self.hostfiles.close)

    async def open_model(self, digest: Digest, room: Room) -> OpenedModel:
        """For an inference host, by the digest that it knows the model by."""
        model, gpu = model_of(digest)
        if gpu:  # what was prepared is for a processor
            return OpenedModel(fd=await self.blobs.open(model), gpu=True)
        return self.inline.open(digest) or await self.models.open(model, room)

"""The processes that serve requests, as many and as large as the settings say: sandboxes, and inference hosts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from wisp.cores import usable_cores, usable_memory_bytes
from wisp.errors import InvalidSettings
from wisp.placement import GPU_PROVIDER, has_gpu
from wisp.scheduling.hosts import Bounds, InferenceHost, OpenModel
from wisp.scheduling.precedence import Precedence
from wisp.scheduling.rooms import Rooms
from wisp.scheduling.sandboxes import Sandboxes
from wisp.scheduling.tenanthosts import TenantHosts
from wisp.scheduling.walls import WallWatch
from wisp.settings import Settings
from wisp.wire.exchange import MAX_HEADER_BYTES
from wisp.wire.walls import ChildKind

log = logging.getLogger(__name__)

OWN_HOST: Final = Bounds(data_bytes=2 << 30, arena_bytes=512 << 20, patience_s=1.0)
"""Of each tenant's inference host."""
ENVELOPE_BYTES: Final = 64 * 1024
assert ENVELOPE_BYTES > MAX_HEADER_BYTES


class Pools:
    """None of them runs before it is started. `answer_bytes`: the most that a guest may answer and log."""

    def __init__(
        self,
        settings: Settings,
        *,
        empty_directory: Path,
        rooms: Rooms,
        answer_bytes: int,
        open_model: OpenModel,
        on_fingerprint: Callable[[str], None],
        walls: WallWatch,
    ) -> None:
        self._settings = settings
        self._empty_directory = empty_directory
        self._rooms = rooms
        self._open_model = open_model
        self._walls = walls
        self.host = self._make_host()
        self.own_hosts = TenantHosts(lambda: self._make_host(bounds=OWN_HOST), most=settings.tenant_hosts)
        self.gpu_host = None if settings.gpu == "off" else self._make_host(gpu=True)
        self.precedence = Precedence(self._thrifty_hosts, alone=not settings.share_port)
        self.sandboxes = Sandboxes(
            workers=settings.workers,
            spare=settings.spare,
            empty_directory=empty_directory,
            answer_bytes=answer_bytes + ENVELOPE_BYTES,
            host=self.host,
            own_hosts=self.own_hosts,
            on_fingerprint=on_fingerprint,
            walls=walls,
            precedence=self.precedence,
        )

    def _thrifty_hosts(self) -> list[int]:
        """Their processes. Who starts, or infers on a GPU, waits for other things than a core."""
        hosts = (self.host, *self.own_hosts.unhurried)
        return [pid for host in hosts if host.ready and (pid := host.pid) is not None]

    def _make_host(self, *, bounds: Bounds | None = None, gpu: bool = False) -> InferenceHost:
        shared_bytes = self._settings.model_memory_bytes or usable_memory_bytes() // 2
        return InferenceHost(
            empty_directory=self._empty_directory,
            threads=self._settings.workers,
            cores=usable_cores(),
            batch_delay_s=self._settings.batch_delay_s,
            open_model=self._open_model,
            memory_bytes=shared_bytes if bounds is None else bounds.data_bytes // 2,
            room=self._rooms.make(),
            on_lost=lambda host: self.sandboxes.detach(host),
            walls=self._walls,
            bounds=bounds,
            gpu=gpu,
        )

    async def start_gpu_host(self) -> None:
        """There is none afterwards where it does not work here. Raises `InvalidSettings` if it must."""
        host = self.gpu_host
        if host is None:
            return
        await host.start()
        if has_gpu(host.providers):
            self.sandboxes.gpu_host = host
            return
        if self._settings.gpu == "require":
            raise InvalidSettings(f"--gpu require: no {GPU_PROVIDER} works here; see onnxruntime-gpu in the README")
        log.warning("--gpu auto: no %s works here; models with target: gpu do not run on this node", GPU_PROVIDER)
        self.gpu_host = None
        await host.stop()
        self._walls.forget(ChildKind.GPU_INFERENCE)

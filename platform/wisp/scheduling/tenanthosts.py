"""Inference hosts of single tenants, for models that their class does not trust: started when a request needs one,
bounded in number, and ended when nobody has needed it for a while.

Such a host holds one tenant's models and sees one tenant's tensors. What breaks it costs that tenant's inferences
alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from wisp.errors import ModelLoading
from wisp.names import Digest, TenantName
from wisp.scheduling.hosts import InferenceHost

IDLE_S = 60.0
LOOK_EVERY_S = 5.0


@dataclass(slots=True, kw_only=True, eq=False)
class Tenanted:
    host: InferenceHost
    users: int = 0
    used_s: float = 0.0


class TenantHosts:
    """At most `most` at a time; the one that was used longest ago makes room."""

    def __init__(self, make: Callable[[], InferenceHost], *, most: int, idle_s: float = IDLE_S) -> None:
        self.make = make
        self._most = most
        self._idle_s = idle_s
        self._hosts: OrderedDict[TenantName, Tenanted] = OrderedDict()
        self._former_restarts = 0
        self._ending: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._hosts)

    @property
    def restarts(self) -> int:
        """Of all that there have been."""
        return self._former_restarts + sum(held.host.restarts for held in self._hosts.values())

    def get(self, tenant: TenantName) -> InferenceHost | None:
        held = self._hosts.get(tenant)
        return None if held is None else held.host

    def has(self, tenant: TenantName, digests: tuple[Digest, ...]) -> bool:
        held = self._hosts.get(tenant)
        return held is not None and held.host.ready and held.host.has(digests)

    async def ensure(self, tenant: TenantName, digests: tuple[Digest, ...]) -> None:
        """Returns when these models are loaded in the tenant's host. Raises `ModelLoading`."""
        held = self._hosts.get(tenant)
        if held is None:
            self._make_room()
            held = self._hosts[tenant] = Tenanted(host=self.make())
            held.host.spawn()
        with self._used(held, tenant):
            await held.host.ensure(digests)

    @contextmanager
    def lease(self, tenant: TenantName, digests: tuple[Digest, ...]) -> Iterator[None]:
        """The tenant's host and those of its models that are loaded stay."""
        held = self._hosts.get(tenant)
        if held is None:
            yield
            return
        with self._used(held, tenant), held.host.lease(digests):
            yield

    @contextmanager
    def _used(self, held: Tenanted, tenant: TenantName) -> Iterator[None]:
        held.users += 1
        self._hosts.move_to_end(tenant)
        try:
            yield
        finally:
            held.users -= 1
            held.used_s = time.monotonic()

    def unbind(self, tenant: TenantName, handle: int) -> None:
        held = self._hosts.get(tenant)
        if held is not None:
            held.host.unbind(handle)

    def drop(self, tenant: TenantName, digest: Digest) -> None:
        held = self._hosts.get(tenant)
        if held is not None:
            held.host.drop(digest)

    async def run(self) -> None:
        """Ends what is idle, until cancelled."""
        while True:
            await asyncio.sleep(min(LOOK_EVERY_S, self._idle_s))
            before_s = time.monotonic() - self._idle_s
            for tenant, held in list(self._hosts.items()):
                if not held.users and held.used_s < before_s:
                    self._end(tenant)

    async def stop(self) -> None:
        for tenant in list(self._hosts):
            self._end(tenant)
        if self._ending:
            await asyncio.gather(*self._ending)

    def _make_room(self) -> None:
        if len(self._hosts) < self._most:
            return
        idle = next((tenant for tenant, held in self._hosts.items() if not held.users), None)
        if idle is None:
            raise ModelLoading("this node's inference hosts are all in use by other tenants; try again")
        self._end(idle)

    def _end(self, tenant: TenantName) -> None:
        host = self._hosts.pop(tenant).host
        self._former_restarts += host.restarts
        task = asyncio.get_running_loop().create_task(host.stop())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

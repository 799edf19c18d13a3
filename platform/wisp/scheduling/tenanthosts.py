"""Inference hosts of single tenants, for models that their class does not trust: started when a request needs one,
bounded in number, and ended when nobody has needed it for a while.

Such a host holds one tenant's models and sees one tenant's tensors. What breaks it costs that tenant's inferences
alone, and so does what it uses of the processor: beyond a share, its threads go on less urgently than everything else.
That cannot be taken back, so once the tenant has kept below its share for as long again, another process takes over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from wisp.cores import usable_cores
from wisp.errors import ModelLoading, WispError
from wisp.names import Digest, TenantName
from wisp.scheduling.appetites import Appetite, slow_down
from wisp.scheduling.hosts import InferenceHost

log = logging.getLogger(__name__)

IDLE_S = 60.0
LOOK_EVERY_S = 5.0
SHARE = 1 / 8
"""Of all cores that the node may use."""
MOMENT_S = 10.0
"""How long a successor waits for a moment in which nobody uses the process that it takes over from."""
MOMENT_STEP_S = 0.01


@dataclass(slots=True, kw_only=True, eq=False)
class Tenanted:
    host: InferenceHost
    users: int = 0
    leases: int = 0
    used_s: float = 0.0
    appetite: Appetite | None = None
    slow: bool = False

    def look(self, share: float) -> None:
        """Counts what its process has used, and slows it down if that was too much."""
        pid = self.host.pid
        if pid is None or not self.host.ready:
            return
        if self.appetite is None or self.appetite.pid != pid:
            self.appetite, self.slow = Appetite(pid, share), False
        self.appetite.look()
        if self.appetite.over and not self.slow:
            self.slow = True
            slow_down(pid)

    @property
    def reformed(self) -> bool:
        return self.slow and self.appetite is not None and self.appetite.calm


class HostLease:
    """Of a tenant's host and of models in it, from when it is made to the end of its block."""

    __slots__ = ("_held", "_models", "_share")

    def __init__(self, held: Tenanted, digests: tuple[Digest, ...], share: float) -> None:
        self._held, self._share = held, share
        self._models = held.host.lease(digests)
        held.users += 1
        held.leases += 1

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        held = self._held
        self._models.__exit__()
        held.users -= 1
        held.leases -= 1
        held.used_s = time.monotonic()
        held.look(self._share)


class TenantHosts:
    """At most `most` at a time; the one that was used longest ago makes room."""

    def __init__(
        self, make: Callable[[], InferenceHost], *, most: int, idle_s: float = IDLE_S, share: float | None = None
    ) -> None:
        """`share`: cores that each of them may use before others go first."""
        self.make = make
        self._share = SHARE * usable_cores() if share is None else share
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

    @property
    def unhurried(self) -> list[InferenceHost]:
        """Those that use no more than their share."""
        return [held.host for held in self._hosts.values() if not held.slow]

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

    def lease(self, tenant: TenantName, digests: tuple[Digest, ...]) -> AbstractContextManager[None]:
        """The tenant's host and those of its models that are loaded stay."""
        held = self._hosts.get(tenant)
        if held is None:
            return nullcontext()
        self._hosts.move_to_end(tenant)
        return HostLease(held, digests, self._share)

    def watch(self) -> None:
        """Called now and then while guests run: what infers for long is weighed before it ends."""
        for held in self._hosts.values():
            if held.leases:
                held.look(self._share)

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
        """Ends what is idle, and replaces what was slowed down and may go faster again; until cancelled."""
        while True:
            await asyncio.sleep(min(LOOK_EVERY_S, self._idle_s))
            before_s = time.monotonic() - self._idle_s
            for tenant, held in list(self._hosts.items()):
                held.look(self._share)
                if not held.users and held.used_s < before_s:
                    self._end(tenant)
                elif held.reformed:
                    await self._replace(tenant, held)

    async def _replace(self, tenant: TenantName, held: Tenanted) -> None:
        """By a process that has the same models open, in a moment in which nobody uses it. Where that does not come,
        or the models do not open, it is tried again later."""
        leaving = successor = self.make()
        successor.spawn()
        try:
            async with asyncio.timeout(MOMENT_S):
                await successor.ensure(held.host.loaded)
                while held.users:  # noqa: ASYNC110 - it is no event, but the absence of any
                    await asyncio.sleep(MOMENT_STEP_S)
            if self._hosts.get(tenant) is held:
                self._hosts[tenant] = Tenanted(host=successor, used_s=held.used_s)
                leaving = held.host
        except (TimeoutError, WispError):
            log.info("tenant %s: its inference host goes on less urgently; another could not take over", tenant)
        finally:
            self._stop(leaving)

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
        self._stop(self._hosts.pop(tenant).host)

    def _stop(self, host: InferenceHost) -> None:
        self._former_restarts += host.restarts
        task = asyncio.get_running_loop().create_task(host.stop())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

"""The kill switch: what runs of a tenant or a function is stopped when an operator suspends it.

Refusing the next request is `dispatch`'s. Here are those that are under way: each stands in a list from before its turn
to its end. The moment that this node knows of a suspension they are cancelled, as if their callers had gone, and the
callers are told; one that has just ended well is not answered either. When the registry changes for its tenant in a way
that nobody said, the records are read again.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Final

from wisp.errors import NotFound, RegistryUnavailable, Suspended
from wisp.names import FunctionName, TenantName
from wisp.registry.registry import Registry

log = logging.getLogger(__name__)

AGAIN_S: Final = 0.2
"""Where the registry cannot be read, while anything runs that might have to be stopped."""

Name = tuple[TenantName, FunctionName]


class UnderWay:
    """`with`, in the task of one request. Raises `Suspended` at its end if it was stopped."""

    __slots__ = ("_among", "_cancelled", "_cancelling", "_name", "_soon", "_task")

    def __init__(self, among: dict[Name, set[UnderWay]], name: Name) -> None:
        self._among = among
        self._name = name
        self._soon: asyncio.Handle | None = None
        """There once it was stopped."""
        self._cancelled = False

    def __enter__(self) -> None:
        task = asyncio.current_task()  # there is one: a coroutine runs
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        others = self._among.get(self._name)
        if others is None:
            self._among[self._name] = {self}
        else:
            others.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        others = self._among[self._name]
        others.discard(self)
        if not others:
            del self._among[self._name]
        if self._soon is None:
            return
        self._soon.cancel()
        # As `asyncio.timeout` has it: who else cancelled the task meanwhile is not kept from it.
        if self._cancelled and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise _stopped() from None
        if kind is None:
            raise _stopped()

    def stop(self) -> None:
        if self._soon is None:  # not at once: it may be this very task that found out
            self._soon = asyncio.get_running_loop().call_soon(self._cancel)

    def _cancel(self) -> None:
        self._cancelled = True
        self._task.cancel()


def _stopped() -> Suspended:
    return Suspended("the function was suspended while it ran")


class Suspensions:
    """`note_change` is called after every change that this node hears of, `stop` for what it knows to be suspended."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._under_way: dict[Name, set[UnderWay]] = {}
        self._changed: set[TenantName] = set()
        self._checking: asyncio.Task[None] | None = None

    def under_way(self, tenant: TenantName, function: FunctionName) -> UnderWay:
        return UnderWay(self._under_way, (tenant, function))

    def stop(self, tenant: TenantName, function: FunctionName | None) -> None:
        """None: all of the tenant's functions."""
        for (owner, name), requests in self._under_way.items():
            if owner == tenant and function in (None, name):
                for request in requests:
                    request.stop()

    def note_change(self, tenant: TenantName) -> None:
        if any(owner == tenant for owner, _ in self._under_way):
            self._changed.add(tenant)
            if self._checking is None:
                self._checking = asyncio.get_running_loop().create_task(self._check())
                self._checking.add_done_callback(self._note_end)

    async def _check(self) -> None:
        while self._changed:
            tenant = self._changed.pop()
            functions = [function for owner, function in self._under_way if owner == tenant]
            try:
                for name in await self._suspended(tenant, functions):
                    self.stop(*name)
            except RegistryUnavailable:
                if any(owner == tenant for owner, _ in self._under_way):
                    self._changed.add(tenant)
                    await asyncio.sleep(AGAIN_S)

    async def _suspended(self, tenant: TenantName, functions: list[FunctionName]) -> list[Name]:
        owner = await self._registry.tenants.find(tenant)
        if owner is None:
            return []
        names: list[Name] = []
        for function in functions:
            try:
                if owner.suspended or (await self._registry.functions.get(tenant, function)).suspended:
                    names.append((tenant, function))
            except NotFound:  # deleted: nothing new begins, and what runs may end
                continue
        return names

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._checking = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("looking for what was suspended failed by a defect", exc_info=error)

    async def close(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait({self._checking})

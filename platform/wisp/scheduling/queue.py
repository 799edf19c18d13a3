"""Who gets the next free sandbox: tenants take turns, each in its own order of arrival, each queue bounded."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Generic, TypeVar

from wisp.errors import Overloaded, TooManyInflight

W = TypeVar("W")


class Waiter(Generic[W]):
    """One waiting request; `granted` resolves to what it waits for."""

    __slots__ = ("granted",)

    def __init__(self) -> None:
        self.granted: asyncio.Future[W] = asyncio.get_running_loop().create_future()


class FairQueue(Generic[W]):
    """Round-robin over tenants. A tenant with a thousand waiting requests delays another by one turn."""

    def __init__(self, *, per_tenant: int, total: int) -> None:
        self.per_tenant = per_tenant
        self.total = total
        self.length = 0
        self._tenants: OrderedDict[str, deque[Waiter[W]]] = OrderedDict()

    def push(self, tenant: str, waiter: Waiter[W]) -> None:
        """Raises `Overloaded` when the node's queue is full, `TooManyInflight` when the tenant's is."""
        if self.length >= self.total:
            raise Overloaded("this node's queue is full; try again", limit=self.total, used=self.length)
        queue = self._tenants.get(tenant)
        if queue is not None and len(queue) >= self.per_tenant:
            raise TooManyInflight("this tenant's queue is full; try again", limit=self.per_tenant, used=self.per_tenant)
        if queue is None:
            queue = self._tenants[tenant] = deque()
        queue.append(waiter)
        self.length += 1

    def pop(self) -> Waiter[W] | None:
        """The next waiter that still waits; its tenant goes to the end of the round."""
        while self._tenants:
            tenant, queue = next(iter(self._tenants.items()))
            waiter = queue.popleft()
            self.length -= 1
            if queue:
                self._tenants.move_to_end(tenant)
            else:
                del self._tenants[tenant]
            if not waiter.granted.done():
                return waiter
        return None

    def discard(self, tenant: str, waiter: Waiter[W]) -> None:
        """A caller that went away gives its place back at once."""
        queue = self._tenants.get(tenant)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            self.length -= 1
            if not queue:
                del self._tenants[tenant]

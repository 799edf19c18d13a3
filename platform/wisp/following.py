"""Who follows a function's log while it is written: bounded readers that never hold the writer up."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from wisp.errors import TooManyInflight
from wisp.names import FunctionName, TenantName

MAX_WAITING: Final = 2000
"""Lines that a reader may lag behind; with one more it has lost lines, and its stream ends."""
MAX_FOLLOWERS: Final = 8
"""Of one tenant, on one node."""

Line = TypeVar("Line")


class Follower(Generic[Line]):
    """One reader. `lost`: lines that came after it lagged too far behind. `ended`: no more will come."""

    def __init__(self, backlog: Iterable[Line]) -> None:
        self.lost = 0
        self.ended = False
        self._waiting: deque[Line] = deque(backlog)
        self._room = len(self._waiting) + MAX_WAITING
        self._fresh = asyncio.Event()

    def push(self, line: Line) -> None:
        if self.lost or len(self._waiting) >= self._room:
            self.lost += 1
        else:
            self._waiting.append(line)
        self._fresh.set()

    def end(self) -> None:
        self.ended = True
        self._fresh.set()

    async def take(self, timeout_s: float) -> Line | None:
        """The next line; None where none came in time, and at once where none will come."""
        if not self._waiting and not self.lost and not self.ended:
            self._fresh.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._fresh.wait()
            except TimeoutError:
                return None
        if not self._waiting:
            return None
        if len(self._waiting) <= MAX_WAITING:
            self._room = MAX_WAITING  # the backlog's share is used up
        return self._waiting.popleft()

    @property
    def over(self) -> bool:
        return not self._waiting and (self.ended or self.lost > 0)


class Followers(Generic[Line]):
    """All readers of a node's log."""

    def __init__(self) -> None:
        self._of: dict[tuple[TenantName, FunctionName], set[Follower[Line]]] = {}
        self._counts: Counter[TenantName] = Counter()
        self._ending = False

    @property
    def count(self) -> int:
        return sum(self._counts.values())

    def followed(self, tenant: TenantName, function: FunctionName) -> bool:
        return (tenant, function) in self._of

    def tell(self, tenant: TenantName, function: FunctionName, line: Line) -> None:
        for follower in self._of.get((tenant, function), ()):
            follower.push(line)

    @contextmanager
    def follow(self, tenant: TenantName, function: FunctionName, backlog: Iterable[Line]) -> Iterator[Follower[Line]]:
        """Raises `TooManyInflight`."""
        if self._counts[tenant] >= MAX_FOLLOWERS:
            raise TooManyInflight(
                f"{MAX_FOLLOWERS} logs of the tenant are followed already", limit=MAX_FOLLOWERS, used=MAX_FOLLOWERS
            )
        follower = Follower(backlog)
        follower.ended = self._ending
        key = (tenant, function)
        self._counts[tenant] += 1
        self._of.setdefault(key, set()).add(follower)
        try:
            yield follower
        finally:
            self._counts[tenant] -= 1
            if not self._counts[tenant]:
                del self._counts[tenant]
            self._of[key].discard(follower)
            if not self._of[key]:
                del self._of[key]

    def end(self, tenant: TenantName, function: FunctionName) -> None:
        """The function is gone."""
        for follower in self._of.get((tenant, function), ()):
            follower.end()

    def end_all(self) -> None:
        """The node drains: whoever follows is told so, as is who comes yet."""
        self._ending = True
        for followers in self._of.values():
            for follower in followers:
                follower.end()

"""Which tenant may have how many of a node's sandboxes, so that none ever holds them all.

Long runs hold a sandbox for seconds, brief ones for milliseconds. A node has more sandboxes than it is told to work
with: beside the `workers`, which one tenant's long runs may fill, some to spare. The last free one is always left for a
brief run, the one before it for a tenant that has no long run yet, and no tenant's runs of any kind fill all. So a
function that is brief waits for a brief turn at most, even while others' processes are started anew, and a long one of
a second tenant finds a place beside the long ones of the first. Of long ones that wait, those of tenants that have none
come first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

PENALTY_NS: Final = 30_000_000_000
"""How long a tenant's runs are not taken for brief ones after one of them was not."""
MAX_PENALTIES: Final = 4096


class Shares:
    """Counts who holds what. With one sandbox in all there is nothing to share."""

    def __init__(self, workers: int, spare: int, clock_ns: Callable[[], int]) -> None:
        self.workers = workers
        self.total = workers + spare
        self.missing = 0
        """Of those, how many have no process that is ready."""
        self.long = 0
        self._clock_ns = clock_ns
        self._held: dict[str, int] = {}
        self._long: dict[str, int] = {}
        self._until_ns: dict[str, int] = {}

    def may_take(self, tenant: str, brief: bool) -> bool:
        """Whether a sandbox that is free may go to this tenant."""
        most = self.total - 1
        if most == 0:
            return True
        if self.missing:  # the last one of what is there is left for brief runs too, while there are two
            most = max(1, most - self.missing)
        if self._held.get(tenant, 0) >= most:
            return False
        if brief:
            return True
        own = self._long.get(tenant, 0)
        return self.long < most and (not own or (own < self.workers and self.long < most - 1))

    def is_newcomer(self, tenant: str, brief: bool) -> bool:
        """Whether it may take one for a long run, and has none yet."""
        return not brief and tenant not in self._long and self.may_take(tenant, brief)

    def may_take_behind(self, tenant: str, brief: bool) -> bool:
        """`may_take` while a newcomer waits."""
        return (brief or tenant not in self._long) and self.may_take(tenant, brief)

    def most(self, *, brief: bool) -> int:
        """How many one tenant can have of the kind."""
        return max(1, self.total - 1 if brief else min(self.workers, self.total - 1))

    def waits_for(self, tenant: str, *, brief: bool) -> Callable[[str, bool], bool]:
        """Which turns (tenant, whether brief) have to end before this tenant may have another sandbox."""
        if self._held.get(tenant, 0) >= self.most(brief=True):
            return lambda holder, _: holder == tenant
        if brief:
            return lambda _, __: True
        own = self._long.get(tenant, 0)
        if own >= self.most(brief=False):
            return lambda holder, short: holder == tenant and not short
        if self.long >= self.total - (2 if own else 1):
            return lambda _, short: not short
        return lambda _, __: True

    def is_trusted(self, tenant: str) -> bool:
        """Whether its runs may be taken for brief ones."""
        if not self._until_ns or (until_ns := self._until_ns.get(tenant)) is None:
            return True
        if self._clock_ns() < until_ns:
            return False
        del self._until_ns[tenant]
        return True

    def distrust(self, tenant: str) -> None:
        self._until_ns.pop(tenant, None)
        if len(self._until_ns) >= MAX_PENALTIES:
            del self._until_ns[next(iter(self._until_ns))]
        self._until_ns[tenant] = self._clock_ns() + PENALTY_NS

    def take(self, tenant: str, *, brief: bool) -> None:
        self._held[tenant] = self._held.get(tenant, 0) + 1
        if not brief:
            self.take_long(tenant)

    def take_long(self, tenant: str) -> None:
        """One that it holds already turned out to be long."""
        self._long[tenant] = self._long.get(tenant, 0) + 1
        self.long += 1

    def give_back(self, tenant: str, *, brief: bool) -> None:
        _less(self._held, tenant)
        if not brief:
            _less(self._long, tenant)
            self.long -= 1


def _less(counts: dict[str, int], tenant: str) -> None:
    left = counts[tenant] - 1
    if left:
        counts[tenant] = left
    else:
        del counts[tenant]

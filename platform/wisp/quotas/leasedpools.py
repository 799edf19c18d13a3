"""One resource of a tenant's quota on one node: how much is left of what was leased, what was used, what to ask for."""

from __future__ import annotations

import math
from typing import Final

from wisp.registry.quotas import Ask, Grant

HORIZON_S: Final = 2.0
"""A lease is for so long at the present pace."""
SHORTEST_S: Final = 0.5
"""A pace is not judged by less."""


class Pool:
    """One resource. `left`: to be taken now, below zero where requests needed more than they had reserved."""

    __slots__ = ("acknowledged", "estimate", "left", "limit", "low", "reserved", "sent", "spent", "used", "want")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.left: float = 0
        self.reserved: float = 0
        self.spent = 0
        self.sent = 0
        self.acknowledged = 0
        self.used = 0
        self.low: float = 0
        self.want = 0
        self.estimate: float = 0

    def reserve(self, most: float) -> float:
        amount = min(self.estimate, most, self.left if self.left > 0 else 0)
        self.left -= amount
        self.reserved += amount
        return amount

    def settle(self, reserved: float, used: int) -> None:
        self.left += reserved - used
        self.reserved -= reserved
        self.spent += used
        self.estimate = max(used, self.estimate - (self.estimate - used) / 8)

    def ask(self, elapsed_s: float, least: float, most: float) -> Ask:
        pace = (self.spent - self.sent) / max(elapsed_s, SHORTEST_S)
        free = min(max(pace * HORIZON_S, least), max(most, least))
        self.want = math.ceil(free + self.reserved)
        if self.limit is not None:
            self.want = min(self.want, self.limit)
        self.sent = self.spent
        keep = min(self.want, math.floor(max(self.left, 0) + self.reserved))
        if self.limit is not None:
            self.left = min(self.left, self.want - self.reserved)  # what is more goes back with this lease
        return Ask(limit=self.limit, keep=keep, want=self.want, spent=self.spent, acknowledged=self.acknowledged)

    def take_over(self, grant: Grant) -> None:
        self.left = grant.granted - (self.spent - self.sent) - self.reserved
        self.low = -math.inf if self.limit is None else self.left / 2
        self.acknowledged = self.sent
        self.used = grant.used

"""How long a request would wait for a sandbox, from what is measured; whoever would wait too long is told at once.

The estimate is meant to be low: a request is refused only if it could hardly have been served. Functions that nobody
has measured count nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from wisp.errors import QueueTimeout, TooManyInflight

NS: Final = 1_000_000_000
LONGEST_RETRY_S: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What stands before a request, in ns of sandboxes' time.

    `first_ns`: until a sandbox that it may have is expected to come free; `own_ns`, `all_ns`: expected use of what its
    tenant and everybody has waiting; `own_most`, `sandboxes`: how many its tenant can have, and how many there are;
    `share`: of its tenant among those that wait, 0 to 1.
    """

    first_ns: int
    own_ns: int
    all_ns: int
    own_most: int
    sandboxes: int
    share: float

    @property
    def own(self) -> float:
        """In ns: behind its own tenant's requests alone, on every sandbox that the tenant can have."""
        return self.first_ns + self.own_ns / self.own_most

    @property
    def expected(self) -> float:
        """In ns: at its share's pace, at worst when everything that waits now has been served."""
        by_share = self.own_ns / (self.sandboxes * self.share) if self.share > 0 else math.inf
        return max(self.own, self.first_ns + min(by_share, self.all_ns / self.sandboxes))

    @property
    def retry_after_s(self) -> int:
        """When the queue will have become short enough to be worth another try."""
        return min(LONGEST_RETRY_S, max(1, math.ceil(self.expected / NS)))


def refuse_hopeless(wait: Wait, timeout_s: float) -> None:
    """Raises `TooManyInflight` where its own tenant's requests are in the way, `QueueTimeout` where others' are."""
    timeout_ns = timeout_s * NS
    if wait.own_ns and wait.own_ns / wait.own_most > timeout_ns:
        raise TooManyInflight(
            f"this tenant's waiting requests need longer than the {timeout_s:g} s that this one may wait; try again",
            retry_after_s=wait.retry_after_s,
        )
    if wait.expected > timeout_ns:
        raise QueueTimeout(
            f"no sandbox is expected to come free within {timeout_s:g} s; try again",
            retry_after_s=wait.retry_after_s,
        )

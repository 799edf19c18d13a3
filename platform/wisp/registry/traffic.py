"""Which versions of a function answer, in which proportion, and when a candidate has failed: values, and the choice."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

WHOLE_PERCENT = 100
MAX_SHARES = 8
MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    version: int
    percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A candidate fails when, over the last `window_s`, it had at least `min_requests` and more than
    `max_errors_per_million` of them were errors of its own."""

    max_errors_per_million: int
    min_requests: int
    window_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """`split`: at least two versions, the stable one first, adding up to 100. `id`: the function's revision that set
    it, so that what was counted under one split is never judged under another.

    `sticky_header`: requests with the same value of it (lower-case name) go to the same version; `sticky_key`:
    requests with the same key do.
    """

    id: int
    split: tuple[Share, ...]
    sticky_header: str | None
    sticky_key: bool
    guard: Guard | None

    def place_of(self, point: float) -> int:
        """Which share, counted from 0, a point in [0, 100) falls to. The stable version's part begins at 0: as a
        candidate's grows, those who have it keep it."""
        for place, share in enumerate(self.split):
            point -= share.percent
            if point < 0:
                return place
        return 0


def sticky_point(function: str, value: bytes) -> float:
    """The same point in [0, 100) for the same value, on every node and under every split of `tenant/function`."""
    digest = hashlib.blake2b(function.encode() + b"\0" + value, digest_size=6).digest()
    return int.from_bytes(digest, "big") * WHOLE_PERCENT / (1 << 48)

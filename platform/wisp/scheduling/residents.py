"""Which models stay open in one inference host: a budget of bytes, and who leaves first when it is full.

What is used more lately, is smaller, or took longer to open stays longer (Cao and Irani, "Cost-Aware WWW Proxy Caching
Algorithms", 1997: GreedyDual-Size). A model with a lease never leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from wisp.names import Digest

MIB = 1 << 20


@dataclass(slots=True, kw_only=True)
class Resident:
    size_bytes: int
    load_ms: int
    worth: float = 0.0
    leases: int = 0


class Residents:
    """Counts; who asks tells the host. `used_bytes` includes models that are being opened."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._held: dict[Digest, Resident] = {}
        self._floor = 0.0
        """The worth of the last one that left: what is used now is worth more than what was used then."""

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._held

    def lease(self, digests: Iterable[Digest]) -> tuple[Resident, ...]:
        """Those of them that are held: they are in use until they are given back, once each."""
        leased = tuple(self._held[digest] for digest in digests if digest in self._held)
        for held in leased:
            held.leases += 1
            self._appreciate(held)
        return leased

    @staticmethod
    def give_back(leased: Iterable[Resident]) -> None:
        for held in leased:
            held.leases -= 1

    def put(self, digest: Digest, size_bytes: int, load_ms: int = 0) -> None:
        """It is held, or its size is known better now."""
        held = self._held.get(digest)
        if held is None:
            held = self._held[digest] = Resident(size_bytes=0, load_ms=0)
        self.used_bytes += size_bytes - held.size_bytes
        held.size_bytes, held.load_ms = size_bytes, load_ms
        self._appreciate(held)

    def drop(self, digest: Digest) -> None:
        held = self._held.pop(digest, None)
        if held is not None:
            self.used_bytes -= held.size_bytes

    def is_leased(self, digest: Digest) -> bool:
        held = self._held.get(digest)
        return held is not None and held.leases > 0

    def evict_for(self, size_bytes: int, keep: Iterable[Digest] = ()) -> tuple[Digest, ...] | None:
        """Drops as many as it takes for that many bytes more; who they were. None, and drops nobody, if those without
        a lease are not enough."""
        excess = self.used_bytes + size_bytes - self.budget_bytes
        kept = frozenset(keep)
        idle = [(held.worth, digest) for digest, held in self._held.items() if not held.leases and digest not in kept]
        leaving: list[Digest] = []
        for worth, digest in sorted(idle):
            if excess <= 0:
                break
            excess -= self._held[digest].size_bytes
            self._floor = max(self._floor, worth)
            leaving.append(digest)
        if excess > 0:
            return None
        for digest in leaving:
            self.drop(digest)
        return tuple(leaving)

    def clear(self) -> None:
        """The host is gone, and all that it held."""
        self._held.clear()
        self.used_bytes = 0

    def _appreciate(self, held: Resident) -> None:
        held.worth = self._floor + (1 + held.load_ms) / (1 + held.size_bytes / MIB)


class Lease:
    """Models that stay from when it is made to the end of its block; then `freed` tells of it."""

    __slots__ = ("_freed", "_leased")

    def __init__(self, leased: tuple[Resident, ...], freed: asyncio.Event) -> None:
        self._leased = leased
        self._freed = freed

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        Residents.give_back(self._leased)
        self._freed.set()

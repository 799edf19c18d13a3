"""The order in which waiting inferences reach the workers: first come first served within a tenant, tenants in turn.

A tenant with a thousand jobs waiting delays another's next job by one job a turn. The queue knows of a job only its
tenant; weights, and taking several jobs of one model together, belong here.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar


class Queued(Protocol):
    @property
    def tenant(self) -> str: ...


J = TypeVar("J", bound=Queued)


class FairQueue(Generic[J]):
    """Any thread may put, any may take. Unbounded: whoever puts has bounded what it puts (one job a slot)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # One per job, or False to end one taker. A SimpleQueue wakes a waiting thread without Python-level locking.
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        # In turn order: the first tenant is the next to be served, and none is here without a job.
        self._lanes: dict[str, deque[J]] = {}

    def put(self, job: J) -> None:
        with self._lock:
            self._lanes.setdefault(job.tenant, deque()).append(job)
        self._tokens.put(True)

    def take(self) -> J | None:
        """Waits for a job; None once `close` was called for this taker."""
        if not self._tokens.get():
            return None
        with self._lock:
            tenant, lane = next(iter(self._lanes.items()))
            job = lane.popleft()
            del self._lanes[tenant]
            if lane:
                self._lanes[tenant] = lane
        return job

    def close(self, takers: int) -> None:
        """Lets that many takers go, after the jobs that are waiting now."""
        for _ in range(takers):
            self._tokens.put(False)

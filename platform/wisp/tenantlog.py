"""What functions wrote and why they failed, as their tenants may read it: the newest lines of each, bounded."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum

from wisp.following import Follower, Followers
from wisp.names import FunctionName, RequestId, TenantName

MAX_LINES = 1000
MAX_LINE_CHARS = 4096
MAX_FUNCTIONS = 2000
MAX_BYTES = 64 * 1024 * 1024
"""Of text, over all functions; beyond it whole functions are forgotten, the longest silent first."""


class Stream(StrEnum):
    STDERR = "stderr"
    LOG = "log"
    PLATFORM = "platform"
    """The platform's own words: how an invocation ended and what it would have needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """`time` in Unix seconds."""

    time: float
    request_id: RequestId
    version: int
    stream: Stream
    text: str


class TenantLog:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self.followers: Followers[LogLine] = Followers()
        self._functions: OrderedDict[tuple[TenantName, FunctionName], deque[LogLine]] = OrderedDict()
        self._bytes = 0

    def add(
        self,
        tenant: TenantName,
        function: FunctionName,
        *,
        request_id: RequestId,
        version: int,
        stream: Stream,
        text: str,
    ) -> None:
        """One or more lines; each is cut to `MAX_LINE_CHARS`."""
        lines = self._functions.setdefault((tenant, function), deque())
        self._functions.move_to_end((tenant, function))
        now = time.time()
        for line in text.splitlines()[:MAX_LINES]:
            cut = line[:MAX_LINE_CHARS]
            added = LogLine(time=now, request_id=request_id, version=version, stream=stream, text=cut)
            lines.append(added)
            self.followers.tell(tenant, function, added)
            self._bytes += len(cut)
        while len(lines) > MAX_LINES:
            self._bytes -= len(lines.popleft().text)
        while len(self._functions) > MAX_FUNCTIONS or (self._bytes > MAX_BYTES and len(self._functions) > 1):
            self._drop(*next(iter(self._functions)))

    def follow(self, tenant: TenantName, function: FunctionName) -> AbstractContextManager[Follower[LogLine]]:
        """What stands there and what comes. Raises `TooManyInflight`."""
        return self.followers.follow(tenant, function, self.lines(tenant, function))

    def lines(self, tenant: TenantName, function: FunctionName) -> list[LogLine]:
        """Oldest first."""
        return list(self._functions.get((tenant, function), ()))

    def forget(self, tenant: TenantName, function: FunctionName) -> None:
        """The function is gone, and with it who follows its log."""
        self._drop(tenant, function)
        self.followers.end(tenant, function)

    def _drop(self, tenant: TenantName, function: FunctionName) -> None:
        lines = self._functions.pop((tenant, function), None)
        if lines is not None:
            self._bytes -= sum(len(line.text) for line in lines)

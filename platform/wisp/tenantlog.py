"""What functions wrote and why they failed, as their tenants may read it: the newest lines of each, bounded."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import StrEnum

from wisp.following import Follower, Followers
from wisp.names import FunctionName, RequestId, TenantName

MAX_LINES = 1000
MAX_LINE_CHARS = 4096
MAX_FUNCTIONS = 2000
MAX_FUNCTION_CHARS = 512 * 1024
"""More than one request may write."""
MAX_CHARS = 64 * 1024 * 1024
"""Over all functions; beyond it whole functions are forgotten, the longest silent first."""


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
    """Belongs to one event loop. Taking text in costs the same whatever is in it; lines are made when it is read."""

    def __init__(self) -> None:
        self.followers: Followers[LogLine] = Followers()
        self._functions: OrderedDict[tuple[TenantName, FunctionName], Written] = OrderedDict()
        self._chars = 0

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
        """One or more lines."""
        written = self._functions.setdefault((tenant, function), Written())
        self._functions.move_to_end((tenant, function))
        said = LogLine(time=time.time(), request_id=request_id, version=version, stream=stream, text=text)
        self._chars += written.add(said)
        if self.followers.followed(tenant, function):
            for line in lines_of(said)[:MAX_LINES]:
                self.followers.tell(tenant, function, line)
        while len(self._functions) > MAX_FUNCTIONS or (self._chars > MAX_CHARS and len(self._functions) > 1):
            self._drop(*next(iter(self._functions)))

    def follow(self, tenant: TenantName, function: FunctionName) -> AbstractContextManager[Follower[LogLine]]:
        """What stands there and what comes. Raises `TooManyInflight`."""
        return self.followers.follow(tenant, function, self.lines(tenant, function))

    def lines(self, tenant: TenantName, function: FunctionName) -> list[LogLine]:
        """Oldest first; each is cut to `MAX_LINE_CHARS`."""
        written = self._functions.get((tenant, function))
        return [] if written is None else written.lines()

    def forget(self, tenant: TenantName, function: FunctionName) -> None:
        """The function is gone, and with it who follows its log."""
        self._drop(tenant, function)
        self.followers.end(tenant, function)

    def _drop(self, tenant: TenantName, function: FunctionName) -> None:
        written = self._functions.pop((tenant, function), None)
        if written is not None:
            self._chars -= written.chars


class Written:
    """What one function wrote of late, as it came."""

    __slots__ = ("chars", "texts")

    def __init__(self) -> None:
        self.texts: deque[LogLine] = deque()
        self.chars = 0

    def add(self, said: LogLine) -> int:
        """By how many characters it has grown, or shrunk."""
        before = self.chars
        self.texts.append(said)
        self.chars += len(said.text)
        while len(self.texts) > MAX_LINES or (self.chars > MAX_FUNCTION_CHARS and len(self.texts) > 1):
            self.chars -= len(self.texts.popleft().text)
        return self.chars - before

    def lines(self) -> list[LogLine]:
        newest: list[LogLine] = []
        for said in reversed(self.texts):
            for line in reversed(lines_of(said)):
                newest.append(line)
                if len(newest) == MAX_LINES:
                    return newest[::-1]
        return newest[::-1]


def lines_of(said: LogLine) -> list[LogLine]:
    return [replace(said, text=line[:MAX_LINE_CHARS]) for line in said.text.splitlines()]

"""The closed sets of the policy vocabulary, spelled as they stand in YAML."""

from __future__ import annotations

from enum import StrEnum


class Abi(StrEnum):
    """How a guest is spoken to."""

    HANDLER = "handler"
    COMMAND = "command"


class Target(StrEnum):
    """Where a model may run."""

    CPU = "cpu"
    GPU = "gpu"
    ANY = "any"


class ControlFlow(StrEnum):
    """How much a model's graph may decide by itself: nothing, which branch to take, or how often to run a part too."""

    NONE = "none"
    BRANCHES = "branches"
    LOOPS = "loops"

    @property
    def level(self) -> int:
        """Each allows what those below it do."""
        return list(ControlFlow).index(self)


class Batch(StrEnum):
    """Whether rows of a shared model may run in one batch with other tenants'."""

    SHARED = "shared"
    ISOLATE = "isolate"


class Clock(StrEnum):
    """What a guest sees of time: the exact clock, one in coarse steps, or one that stands still."""

    REAL = "real"
    COARSE = "coarse"
    FROZEN = "frozen"

    def narrower(self, other: Clock) -> Clock:
        """The one of the two that tells a guest less."""
        return max(self, other, key=_CLOCKS.index)


_CLOCKS = (Clock.REAL, Clock.COARSE, Clock.FROZEN)


class Random(StrEnum):
    """Where a guest's random bytes come from: the system, or one fixed sequence."""

    REAL = "real"
    FROZEN = "frozen"


class Method(StrEnum):
    """Of outbound requests. Not CONNECT, which would be a way round every check, and not TRACE, which shows headers
    that were added."""

    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"
    OPTIONS = "OPTIONS"


class OnViolation(StrEnum):
    """What a refused capability does to a guest: ends it, or answers an errno."""

    TRAP = "trap"
    ERRNO = "errno"


class Access(StrEnum):
    """Who may call a function: holders of a key, or everybody."""

    KEY = "key"
    PUBLIC = "public"


class MountSource(StrEnum):
    """What stands behind a mount in a guest's file system."""

    BUNDLE = "bundle"
    HOST = "host"
    SCRATCH = "scratch"
    LOG = "log"

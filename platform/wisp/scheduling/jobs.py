"""What is given to a sandbox to run: one request, and its ways out while its guest runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from wisp.errors import ChildLost
from wisp.names import Digest, TenantName
from wisp.scheduling.bundlecache import BundleSegment
from wisp.scheduling.codecache import CodeSegment
from wisp.wire.inferences import Binding, BoundModel
from wisp.wire.invocations import FunctionLink
from wisp.wire.meters import Metered
from wisp.wire.outbound import Inbound
from wisp.wire.outcome import Ending, Outcome, Receipt


class Outbound(Protocol):
    """One invocation's way out."""

    async def fetch(self, message: bytes, deadline_ns: int) -> Inbound: ...


class Inline(Protocol):
    """The models that one invocation brings."""

    async def load(self, data: bytes, deadline_ns: int) -> tuple[Inbound, BoundModel | None]:
        """What to tell the sandbox, and what to tell the inference host first, once for each model."""


class Remote(Protocol):
    """One invocation's way to models that other machines serve."""

    async def compute(self, message: bytes, deadline_ns: int) -> tuple[Inbound, Metered]: ...


@dataclass(slots=True, kw_only=True)
class Job:
    """One request, ready to run. `body_parts`, or `body_segment` where it is very large, hold a body that is too large
    for a frame; neither is the job's. `bundle` and `hosts` are there where a mount shows them. Nobody changes one; it
    is not frozen, because to set so many fields would take three times as long, for every request."""

    tenant: TenantName
    link: FunctionLink
    binding: Binding | None
    models: tuple[Digest, ...]
    """In the shared host."""
    code: CodeSegment
    head: bytes
    body: bytes
    body_segment: tuple[int, ...]
    body_bytes: int
    body_parts: tuple[bytes | bytearray, ...] = ()
    timeout_ns: int
    request_id: bytes = b""
    bundle: BundleSegment | None = None
    hosts: BundleSegment | None = None
    probe: bool = False
    self_contained: bool = False
    """It reaches nothing outside its sandbox, and its body, if it has one, fits a frame."""
    weight: int = 1
    """The tenant's share beside others that wait."""
    outbound: Outbound | None = None
    """None: nothing is reachable."""
    remote: Remote | None = None
    """None: all models are here."""
    inline: Inline | None = None
    """None: the guest brings no models."""
    abandoned: Callable[[Receipt], None] | None = None
    """Told what the guest used if its caller went away while it ran."""
    own_models: tuple[Digest, ...] = ()
    needs_own: bool = False
    """Whether the tenant's own host must be there, with `own_models` loaded."""
    gpu: bool = False
    """Whether `models` are in the host that has the GPU."""


class Lost(ChildLost):
    """A guest's process died under it; `receipt` is what could be measured from outside."""

    def __init__(self, message: str, receipt: Receipt) -> None:
        super().__init__(message)
        self.receipt = receipt

    @property
    def ending(self) -> Ending:
        return Ending(outcome=Outcome.CHILD_LOST, receipt=self.receipt, response=b"", logs=b"", detail=self.message)

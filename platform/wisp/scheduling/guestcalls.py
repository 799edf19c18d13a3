"""What a running guest asks the router for: an outbound request, a model that it brings, an inference elsewhere.

The guest waits meanwhile, so there is one at a time. Nothing of an answer stays when the guest has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wisp.errors import ChildLost, InvalidFrame
from wisp.names import Digest
from wisp.scheduling.jobs import Job
from wisp.wire.invocations import Kind
from wisp.wire.outbound import INBOUND_HEAD, OUTBOUND_HEAD, Inbound, Status, place, take
from wisp.wire.segments import Segment

if TYPE_CHECKING:
    from wisp.scheduling.hosts import InferenceHost
    from wisp.scheduling.measures import Measure

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The guest that runs, as far as its calls go. `host`: where a model that it brings would be; `leases`: what keeps
    its models loaded, if it may infer."""

    job: Job
    number: int
    deadline_ns: int
    host: Callable[[], InferenceHost | None]
    leases: contextlib.ExitStack | None


class GuestCalls:
    """Of one slot, through its successive processes. `send` reaches the present one, `kill` ends it."""

    def __init__(
        self,
        slot: int,
        segment_bytes: int,
        measure: Measure,
        *,
        send: Callable[[Kind, bytes], None],
        kill: Callable[[str], None],
    ) -> None:
        self._slot = slot
        self._segment = Segment.create("outbound", segment_bytes)
        self._measure = measure
        self._send = send
        self._kill = kill
        self._used_bytes = 0
        """What may lie in the segment of the invocation that runs."""
        self._answering: asyncio.Task[None] | None = None
        self.any = False
        """Whether the guest that runs has asked for anything."""

    @property
    def fd(self) -> int:
        return self._segment.fd

    def begin(self, kind: int, payload: bytes, caller: Caller | None) -> None:
        """Raises `InvalidFrame`."""
        number, sequence, in_segment, length = OUTBOUND_HEAD.unpack_from(payload)
        busy = self._answering is not None and not self._answering.done()
        if caller is None or number != caller.number or busy:
            raise InvalidFrame(f"an outbound request for invocation {number}")
        self.any = True
        message = take(in_segment, length, payload[OUTBOUND_HEAD.size :], self._segment.view)
        if in_segment:
            self._used_bytes = max(self._used_bytes, length)
        answer = {Kind.OUTBOUND: self._fetch, Kind.GRAPH: self._load, Kind.REMOTE: self._compute}[Kind(kind)]
        answering = self._answer(answer(caller, message), number, sequence)
        self._answering = asyncio.get_running_loop().create_task(answering)
        self._answering.add_done_callback(self._note_answered)

    async def _fetch(self, caller: Caller, message: bytes) -> Inbound:
        if caller.job.outbound is None:
            return Inbound(status=Status.UNREACHABLE)
        return await caller.job.outbound.fetch(message, caller.deadline_ns)

    async def _load(self, caller: Caller, data: bytes) -> Inbound:
        if caller.job.inline is None:
            return Inbound(status=Status.UNREACHABLE)
        answer, model = await caller.job.inline.load(data, caller.deadline_ns)
        if model is not None:
            host = caller.host()
            if host is None:
                return Inbound(status=Status.UNREACHABLE, content=b"the inference host is gone; try again")
            try:
                host.grant(self._slot, caller.number, model)
            except ChildLost as error:
                return Inbound(status=Status.UNREACHABLE, content=error.message.encode())
            assert caller.leases is not None  # what may bring models has a binding
            caller.leases.enter_context(host.lease((Digest(model.digest),)))
        return answer

    async def _compute(self, caller: Caller, message: bytes) -> Inbound:
        if caller.job.remote is None:
            return Inbound(status=Status.UNREACHABLE)
        self._measure.ask()
        try:
            answer, metered = await caller.job.remote.compute(message, caller.deadline_ns)
        except InvalidFrame as error:
            return Inbound(status=Status.INVALID, content=error.message.encode())
        self._measure.add(caller.number, metered)
        return answer

    async def _answer(self, asked: Awaitable[Inbound], number: int, sequence: int) -> None:
        answer = await asked
        try:
            in_segment, inline = place(answer.content, self._segment.view)
        except ValueError:
            answer, in_segment, inline = Inbound(status=Status.TOO_LARGE), False, b""
        length = len(answer.content)
        if in_segment:
            self._used_bytes = max(self._used_bytes, length)
        head = INBOUND_HEAD.pack(number, sequence, answer.status, in_segment, length)
        self._send(Kind.INBOUND, b"".join((head, inline)))

    def _note_answered(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ChildLost):
            log.error("an outbound request failed by a defect", exc_info=error)
            self._kill("its outbound request could not be answered")

    def end(self) -> None:
        """The guest has ended: nobody waits for the answer, and nothing of it stays."""
        self.any = False
        if self._answering is not None:
            self._answering.cancel()
            self._answering = None
        if self._used_bytes:
            self._segment.clear(self._used_bytes)
            self._used_bytes = 0

    def wipe(self) -> None:
        """Its process is gone, and may have written anything."""
        self._segment.clear(self._segment.size_bytes)

    def close(self) -> None:
        self._segment.close()

"""The router's own lines to the inference hosts, for inferences that no guest asks for.

Each line is a slot as a sandbox has one: a socket, a tensor segment, a meter, one inference at a time. The router only
copies bytes into the segment and out of it. Tenants take turns where all lines are in use; what waits for a model
waits in the host's own queue, beside the guests' inferences.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wisp.errors import ChildLost, InvalidFrame, Overloaded, QueueTimeout
from wisp.names import TenantName
from wisp.scheduling.hosts import TENSOR_BYTES, InferenceHost
from wisp.wire.channel import Channel, Frame
from wisp.wire.inferences import COMPUTE_HEAD, DONE_HEAD, Binding, Kind, Status
from wisp.wire.meters import Meter, Metered
from wisp.wire.segments import Segment
from wisp.wire.tensors import ElementType, TensorRef, pack_tensors, unpack_tensors

FIRST_SLOT: Final = 1 << 20
"""Sandboxes have the slots below."""
INPUT_ROOM: Final = TENSOR_BYTES // 2
ALIGNMENT: Final = 64
GRACE_S: Final = 0.5
"""Past the deadline, for the host to say that it stopped."""
MAX_WAITING: Final = 1024
NS: Final = 1_000_000_000
LOST: Final = "the inference host was lost under this request; try again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """One input: `data` has exactly the bytes of its type and dimensions."""

    dtype: ElementType
    dims: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    index: int
    dtype: ElementType
    dims: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Inferred:
    """`outputs` are there if the status is OK; `queue_ns`: the wait for a line."""

    status: Status
    outputs: tuple[Got, ...]
    metered: Metered
    queue_ns: int


class RouterLine:
    """Belongs to the event loop. What it shares with a host is made when it is first needed, and given up whenever a
    kernel may still write to it."""

    def __init__(self, slot: int) -> None:
        self._slot = slot
        self.host: InferenceHost | None = None
        self._pid: int | None = None
        self._channel: Channel | None = None
        self._segment: Segment | None = None
        self._meter: Meter | None = None
        self._used_bytes = 0
        self._tenant: TenantName | None = None
        self._sequence = 0
        self._answer: asyncio.Future[Frame] | None = None

    async def infer(
        self,
        host: InferenceHost,
        tenant: TenantName,
        binding: Binding,
        number: int,
        inputs: Sequence[Put],
        deadline_ns: int,
    ) -> tuple[Status, tuple[Got, ...], Metered]:
        """Model 0 of the binding, once. Raises `ChildLost`. Cancelling it stops the inference."""
        self._attach(host, tenant)
        meter = self._meter
        assert meter is not None
        host.open(self._slot, number, binding, deadline_ns)
        done = False
        try:
            answer = self._ask(number, self._place(inputs))
            left_s = (deadline_ns - time.monotonic_ns()) / NS + GRACE_S
            async with asyncio.timeout(left_s):
                frame = await answer
            status, outputs = self._read(frame)
            done = status not in (Status.DEADLINE, Status.MODEL_TIME)
            return status, outputs, meter.read(number)
        except TimeoutError as error:
            if self._meter is not meter:  # it broke in the same moment
                raise ChildLost(LOST) from error
            return Status.DEADLINE, (), meter.read(number)
        except (OSError, InvalidFrame, struct.error, ValueError) as error:
            raise ChildLost(LOST) from error
        finally:
            self._answer = None
            with contextlib.suppress(ChildLost):
                host.close(self._slot, number)
            if not done:
                self.detach()

    def _attach(self, host: InferenceHost, tenant: TenantName) -> None:
        if self.host is not host or self._pid != host.pid:
            self.detach()
            meter = Meter.create()
            try:
                socket_fd, segment_fd = host.attach(self._slot, meter.fd)
            except BaseException:
                meter.close()
                raise
            self.host, self._pid, self._meter = host, host.pid, meter
            self._segment = Segment(segment_fd)
            self._channel = Channel.from_fd(socket_fd)
            self._channel.sock.setblocking(False)
            asyncio.get_running_loop().add_reader(socket_fd, self._receive)
        elif self._tenant != tenant and self._segment is not None:
            self._segment.clear(self._segment.size_bytes)
        self._tenant = tenant

    def _place(self, inputs: Sequence[Put]) -> list[TensorRef]:
        """Raises `ValueError` if they do not fit; the caller has asked `room` first."""
        assert self._segment is not None
        refs, offset = [], 0
        for index, put in enumerate(inputs):
            length = len(put.data)
            if offset + length > INPUT_ROOM:
                raise ValueError("the inputs do not fit the segment")
            self._segment.view[offset : offset + length] = put.data
            refs.append(TensorRef(index=index, dtype=put.dtype, dims=put.dims, offset=offset, length=length))
            offset += -(-length // ALIGNMENT) * ALIGNMENT
        return refs

    def _ask(self, number: int, inputs: list[TensorRef]) -> asyncio.Future[Frame]:
        assert self._channel is not None
        self._sequence += 1
        head = COMPUTE_HEAD.pack(number, self._sequence, 0, len(inputs), INPUT_ROOM, TENSOR_BYTES - INPUT_ROOM)
        self._answer = asyncio.get_running_loop().create_future()
        self._channel.send(Kind.COMPUTE, head + pack_tensors(inputs))
        return self._answer

    def _receive(self) -> None:
        assert self._channel is not None
        try:
            frame = self._channel.receive()
        except BlockingIOError:
            return
        except (OSError, InvalidFrame) as error:
            self._fail(error)
            return
        if frame is None:
            self._fail(EOFError("end of file"))
            return
        frame.close_fds()  # it has no reason to send any
        try:
            sequence = DONE_HEAD.unpack_from(frame.payload)[1]
        except struct.error as error:
            self._fail(error)
            return
        if self._answer is not None and not self._answer.done() and sequence == self._sequence:
            self._answer.set_result(frame)

    def _fail(self, error: Exception) -> None:
        answer = self._answer
        self.detach()
        if answer is not None and not answer.done():
            answer.set_exception(InvalidFrame(f"the line to the inference host broke: {error}"))

    def _read(self, frame: Frame) -> tuple[Status, tuple[Got, ...]]:
        """Raises `InvalidFrame`."""
        if self._segment is None:
            raise InvalidFrame("the line broke behind its answer")
        _, _, status, count, _ = DONE_HEAD.unpack_from(frame.payload)
        refs = unpack_tensors(frame.payload, DONE_HEAD.size, count, self._segment.size_bytes)
        view = self._segment.view
        outputs = tuple(
            Got(
                index=ref.index,
                dtype=ref.dtype,
                dims=ref.dims,
                data=view[ref.offset : ref.offset + ref.length].tobytes(),
            )
            for ref in refs
        )
        return Status(status), outputs

    def detach(self) -> None:
        """The next inference gets a new socket, segment and meter."""
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._channel.close()
        for shared in (self._segment, self._meter):
            if shared is not None:
                shared.close()
        self.host = self._channel = self._segment = self._meter = None


class RouterLines:
    """`count` of them, to whatever hosts. Tenants take turns; each waits no longer than it is told."""

    def __init__(self, count: int) -> None:
        self._lines = [RouterLine(FIRST_SLOT + place) for place in range(count)]
        self._idle = list(self._lines)
        self._waiting: OrderedDict[TenantName, deque[asyncio.Future[RouterLine]]] = OrderedDict()
        self._numbers = itertools.count(1)

    async def infer(
        self,
        host: InferenceHost,
        tenant: TenantName,
        binding: Binding,
        inputs: Sequence[Put],
        *,
        timeout_s: float,
        queue_timeout_s: float,
    ) -> Inferred:
        """`timeout_s` from when it has a line, at most. Raises `Overloaded`, `QueueTimeout`, `ChildLost`."""
        asked_ns = time.monotonic_ns()
        line = self._take(host) if self._idle else await self._wait(tenant, queue_timeout_s)
        began_ns = time.monotonic_ns()
        deadline_ns = began_ns + round(timeout_s * NS)
        try:
            status, outputs, metered = await line.infer(host, tenant, binding, next(self._numbers), inputs, deadline_ns)
        finally:
            self._release(line)
        return Inferred(status=status, outputs=outputs, metered=metered, queue_ns=began_ns - asked_ns)

    def _take(self, host: InferenceHost) -> RouterLine:
        """One that leads there already, if one does."""
        found = next((line for line in reversed(self._idle) if line.host is host), self._idle[-1])
        self._idle.remove(found)
        return found

    async def _wait(self, tenant: TenantName, timeout_s: float) -> RouterLine:
        if sum(map(len, self._waiting.values())) >= MAX_WAITING:
            raise Overloaded("this node's queue is full; try again", limit=MAX_WAITING, used=MAX_WAITING)
        granted: asyncio.Future[RouterLine] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(granted)
        try:
            async with asyncio.timeout(timeout_s):
                return await granted
        except BaseException as error:
            if granted.done() and not granted.cancelled():
                self._release(granted.result())  # granted in the very moment in which the wait ended
            else:
                granted.cancel()
            if isinstance(error, TimeoutError):
                raise QueueTimeout(f"no inference could begin within {timeout_s:g} s; try again") from error
            raise

    def _release(self, line: RouterLine) -> None:
        while self._waiting:
            tenant, queue = next(iter(self._waiting.items()))
            granted = queue.popleft()
            if queue:
                self._waiting.move_to_end(tenant)
            else:
                del self._waiting[tenant]
            if not granted.done():
                granted.set_result(line)
                return
        self._idle.append(line)

    def close(self) -> None:
        for line in self._lines:
            line.detach()

"""One slot of the pool: a sandbox process and its successors, what it has loaded, and the one guest that runs in it.

What a sandbox has loaded is decided here, so that the router always knows which module it must send along. A guest that
overruns its deadline, or whose caller has gone, ends with its process; the slot starts another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING

from wisp.errors import ChildLost, InvalidFrame
from wisp.names import Digest
from wisp.scheduling.answers import SLICE_BYTES, take_out
from wisp.scheduling.appetites import LONG_NICENESS
from wisp.scheduling.bodyrooms import BodyRoom
from wisp.scheduling.bundlecache import BundleSegment
from wisp.scheduling.children import Child
from wisp.scheduling.hosts import InferenceHost
from wisp.scheduling.jobs import Job, Lost
from wisp.scheduling.lines import Line
from wisp.scheduling.measures import Measure
from wisp.scheduling.turns import Turn
from wisp.wire.channel import MAX_FRAME_BYTES, Frame
from wisp.wire.confinement import Limits
from wisp.wire.inferences import Binding
from wisp.wire.invocations import (
    FAILED_HEAD,
    HANDLE,
    INLINE_BYTES,
    INVOKE_HEAD,
    STOP,
    THREAD,
    FunctionLink,
    Kind,
    bytes_in_segment,
    decode_result,
)
from wisp.wire.outbound import INBOUND_HEAD, OUTBOUND_HEAD, Inbound, Status, place, take
from wisp.wire.outcome import Ending, Outcome, Receipt
from wisp.wire.segments import Segment, create_frozen
from wisp.wire.walls import ChildKind

if TYPE_CHECKING:
    from wisp.scheduling.sandboxes import Sandboxes

log = logging.getLogger(__name__)

GRACE_S = 0.25
"""Past the deadline, before the process is killed: for a host call to notice, and for the answer to be copied."""
ABANDON_S = 0.25
"""How long a guest that was told to stop may go on before its process is killed: a host call may have to end first."""
MAX_MODULES = 64
"""Modules that one sandbox keeps linked."""
FIRST_DELAY_S, LAST_DELAY_S = 0.05, 5.0
DATA_BYTES = 1024 * 1024 * 1024
"""RLIMIT_DATA of a sandbox: Python, the engine, and one guest's memory at its ceiling."""


class Sandbox:
    """One slot of the pool and the process that fills it at present."""

    def __init__(self, pool: Sandboxes, slot: int) -> None:
        self._pool = pool
        self.slot = slot
        self._answer = Segment.create("answer", pool.answer_bytes)
        self._outbound = Segment.create("outbound", pool.answer_bytes)
        self._body = BodyRoom()
        self._outbound_bytes = 0
        """What may lie in it of the invocation that runs."""
        self._fetching: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._taking: asyncio.Task[None] | None = None
        """A large answer's way out of the segment."""
        self._child: Child | None = None
        self._modules: OrderedDict[str, dict[int, BundleSegment | None]] = OrderedDict()
        """Linked handles by module, each with the content of the host's directories that it was linked with."""
        self._measure = Measure()
        self._shared = Line(slot, self._measure, own=False)
        self._own = Line(slot, self._measure, own=True)
        self._leases: contextlib.ExitStack | None = None
        """Of the models that the invocation may use, those that the guest brought among them."""
        self._running: asyncio.Future[Ending | None] | None = None
        """Who waits for the ending; it is cancelled where nobody does any more."""
        self._job: Job | None = None
        self._number = 0
        self._deadline_ns = 0
        self._overrun: asyncio.TimerHandle | None = None
        self._delay_s = FIRST_DELAY_S
        self.ready = False
        self.turn: Turn | None = None
        """The pool's: who has it."""
        self._stop_fd = -1
        """Where the process hears which invocation to stop."""
        self._thread = 0
        """Of the process, that guests run on; 0 while it is not known, or once it was slowed down."""

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and self._child.alive else None

    @property
    def busy(self) -> bool:
        return self._running is not None

    def has(self, link: FunctionLink) -> bool:
        return link.module in self._modules

    def spawn(self) -> None:
        if self._pool.stopping:
            return
        self._loop = asyncio.get_running_loop()
        hears_fd, self._stop_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._child = Child(
                "wisp.sandbox.main",
                limits=Limits(data_bytes=DATA_BYTES),
                empty_directory=self._pool.empty_directory,
                on_frame=self._take,
                on_end=self._note_end,
                fds={
                    "answer_fd": self._answer.fd,
                    "outbound_fd": self._outbound.fd,
                    "body_fd": self._body.fd,
                    "stop_fd": hears_fd,
                },
            )
        finally:
            os.close(hears_fd)
        self._measure.follow(self._child.pid)

    def start(self, job: Job, number: int, running: asyncio.Future[Ending | None]) -> None:
        """Sends the job; `running` will be its ending, or `ChildLost`. Raises `ChildLost` at once if the process is
        gone."""
        child, loop = self._child, self._loop
        assert child is not None
        assert loop is not None
        assert self._running is None
        deadline_ns = time.monotonic_ns() + job.timeout_ns
        self._measure.begin(number)
        self._bring(child, job)
        if job.binding is not None:
            # A host that is gone is no reason to refuse: the guest gets an errno if it infers before the next is there.
            with contextlib.suppress(ChildLost):
                self._open_inference(child, job, job.binding, number, deadline_ns)
            self._lease(job)
        kind = Kind.PROBE if job.probe else Kind.INVOKE
        if job.body_parts:
            kind = Kind.LAID
            self._body.lay(job.body_parts)
        payload = INVOKE_HEAD.pack(number, job.link.handle, len(job.head), job.body_bytes, deadline_ns)
        child.send(kind, b"".join((payload, job.head, job.body, job.request_id)), job.body_segment)
        self._running, self._job, self._number = running, job, number
        self._deadline_ns = deadline_ns
        self._overrun = loop.call_later(job.timeout_ns / 1e9 + GRACE_S, self._kill_overrun, number)

    def bring(self, job: Job) -> None:
        """Ahead of the first request; a process that is gone gets it then."""
        if self._child is not None:
            with contextlib.suppress(ChildLost):
                self._bring(self._child, job)

    def _bring(self, child: Child, job: Job) -> None:
        """Whatever of the job the process does not have yet."""
        link = job.link
        handles = self._modules.get(link.module)
        if handles is None:
            while len(self._modules) >= MAX_MODULES:
                digest, former = self._modules.popitem(last=False)
                child.send(Kind.UNLOAD, digest.encode())
                for handle in former:
                    child.send(Kind.UNLINK, HANDLE.pack(handle))
            child.send(Kind.MODULE, link.module.encode(), (job.code.fd,))
            handles = self._modules[link.module] = {}
        self._modules.move_to_end(link.module)
        if link.handle not in handles or handles[link.handle] is not job.hosts:
            self._link(child, link, tuple(shown.fd for shown in (job.bundle, job.hosts) if shown is not None))
            handles[link.handle] = job.hosts

    def _link(self, child: Child, link: FunctionLink, fds: tuple[int, ...]) -> None:
        payload = link.encode()
        if len(payload) < MAX_FRAME_BYTES:
            child.send(Kind.LINK, payload, fds)
            return
        own = create_frozen("link", [payload])
        try:
            child.send(Kind.LINK, b"", (own, *fds))
        finally:
            os.close(own)

    def _open_inference(self, child: Child, job: Job, binding: Binding, number: int, deadline_ns: int) -> None:
        if job.models or job.remote is not None or (job.inline is not None and not job.needs_own):
            self._shared.open(child, self._pool.host_of(job), job.tenant, binding, number, deadline_ns)
        own = self._pool.own_hosts.get(job.tenant) if job.needs_own else None
        if own is not None:
            self._own.open(child, own, job.tenant, binding, number, deadline_ns)

    def _lease(self, job: Job) -> None:
        """What it may infer with stays loaded until it has ended."""
        self._leases = contextlib.ExitStack()
        self._leases.enter_context(self._pool.host_of(job).lease(job.models))
        if job.needs_own:
            self._leases.enter_context(self._pool.own_hosts.lease(job.tenant, job.own_models))

    def detach(self, host: InferenceHost | None = None) -> None:
        """From this host, or from all: the next guest that infers gets a new line."""
        for line in (self._shared, self._own):
            if host is None or line.host is host:
                line.detach()

    def forget(self, link: FunctionLink) -> None:
        handles = self._modules.get(link.module)
        if handles is None or link.handle not in handles or self._child is None:
            return
        with contextlib.suppress(ChildLost):  # its successor starts with nothing loaded
            handles.pop(link.handle, None)
            self._child.send(Kind.UNLINK, HANDLE.pack(link.handle))
            if not handles:
                del self._modules[link.module]
                self._child.send(Kind.UNLOAD, link.module.encode())

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.RESULT:
            number, used = bytes_in_segment(frame.payload, self._answer.size_bytes)
            if self._running is None or number != self._number or self._taking is not None:
                raise InvalidFrame(f"a result for invocation {number}, which is not running")
            if used > SLICE_BYTES:
                self._taking = asyncio.get_running_loop().create_task(self._take_out(frame.payload, used))
                self._taking.add_done_callback(self._note_taken)
                return
            _, ending = decode_result(frame.payload, self._answer.view)
            if used > INLINE_BYTES:
                self._answer.clear(used)
            self._conclude(ending)
        elif frame.kind in (Kind.OUTBOUND, Kind.GRAPH, Kind.REMOTE):
            self._start_fetching(frame.kind, frame.payload)
        elif frame.kind == Kind.FAILED:
            reason = frame.payload[FAILED_HEAD.size :].decode("utf-8", "replace")
            log.error("sandbox %d could not run a guest: %s", self.slot, ascii(reason))
            self._lose("the function could not be run; its operator was told")
        elif frame.kind == Kind.THREAD:
            self._thread = self._own_thread(*THREAD.unpack(frame.payload))
        elif frame.kind == Kind.READY and not self.ready:
            said = self._pool.walls.note(ChildKind.SANDBOX, frame.payload)
            fingerprint, self._thread = str(said["fingerprint"]), self._own_thread(int(str(said["thread"])))
            self.ready = True
            self._delay_s = FIRST_DELAY_S
            self._pool.note_ready(self, fingerprint)
        else:
            raise InvalidFrame(f"frame kind {frame.kind} from a sandbox")

    async def _take_out(self, payload: bytes, used_bytes: int) -> None:
        """The guest has ended; its slot is free once its answer is out of it."""
        if self._overrun is not None:
            self._overrun.cancel()
        content = await take_out(self._answer, used_bytes)
        _, ending = decode_result(payload, content, taken_out=True)
        self._taking = None
        self._conclude(ending)

    def _note_taken(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            if not isinstance(error, InvalidFrame):
                log.error("an answer was not taken out of its segment, by a defect", exc_info=error)
            self.kill(f"its answer could not be taken: {error}")

    def _conclude(self, ending: Ending) -> None:
        if ending.outcome is Outcome.INFERENCE_TIMEOUT:
            self.detach()
        assert self._job is not None
        self._finish(ending.measured(self._measure.end(ending.receipt, self._job.link)))

    def _start_fetching(self, kind: int, payload: bytes) -> None:
        """The guest waits meanwhile, so there is one at a time. Raises `InvalidFrame`."""
        number, sequence, in_segment, length = OUTBOUND_HEAD.unpack_from(payload)
        busy = self._fetching is not None and not self._fetching.done()
        if self._running is None or self._job is None or number != self._number or busy:
            raise InvalidFrame(f"an outbound request for invocation {number}")
        message = take(in_segment, length, payload[OUTBOUND_HEAD.size :], self._outbound.view)
        if in_segment:
            self._outbound_bytes = max(self._outbound_bytes, length)
        fetch = {Kind.OUTBOUND: self._fetch, Kind.GRAPH: self._load, Kind.REMOTE: self._compute}[Kind(kind)]
        answer = fetch(self._job, number, message)
        self._fetching = asyncio.get_running_loop().create_task(self._inbound(answer, number, sequence))
        self._fetching.add_done_callback(self._note_fetched)

    async def _fetch(self, job: Job, number: int, message: bytes) -> Inbound:
        if job.outbound is None:
            return Inbound(status=Status.UNREACHABLE)
        return await job.outbound.fetch(message, self._deadline_ns)

    async def _load(self, job: Job, number: int, data: bytes) -> Inbound:
        if job.inline is None:
            return Inbound(status=Status.UNREACHABLE)
        answer, model = await job.inline.load(data, self._deadline_ns)
        if model is not None:
            host = self._own.host if job.needs_own else self._pool.host_of(job)
            if host is None:
                return Inbound(status=Status.UNREACHABLE, content=b"the inference host is gone; try again")
            try:
                host.grant(self.slot, number, model)
            except ChildLost as error:
                return Inbound(status=Status.UNREACHABLE, content=error.message.encode())
            assert self._leases is not None  # what may bring models has a binding
            self._leases.enter_context(host.lease((Digest(model.digest),)))
        return answer

    async def _compute(self, job: Job, number: int, message: bytes) -> Inbound:
        if job.remote is None:
            return Inbound(status=Status.UNREACHABLE)
        self._measure.ask()
        try:
            answer, metered = await job.remote.compute(message, self._deadline_ns)
        except InvalidFrame as error:
            return Inbound(status=Status.INVALID, content=error.message.encode())
        self._measure.add(number, metered)
        return answer

    async def _inbound(self, fetched: Awaitable[Inbound], number: int, sequence: int) -> None:
        answer = await fetched
        try:
            in_segment, inline = place(answer.content, self._outbound.view)
        except ValueError:
            answer, in_segment, inline = Inbound(status=Status.TOO_LARGE), False, b""
        length = len(answer.content)
        if in_segment:
            self._outbound_bytes = max(self._outbound_bytes, length)
        if self._child is not None:
            head = INBOUND_HEAD.pack(number, sequence, answer.status, in_segment, length)
            self._child.send(Kind.INBOUND, b"".join((head, inline)))

    def _note_fetched(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ChildLost):
            log.error("an outbound request failed by a defect", exc_info=error)
            self.kill("its outbound request could not be answered")

    def _stop_fetching(self) -> None:
        """The guest has ended: nobody waits for the answer, and nothing of it stays."""
        if self._fetching is not None:
            self._fetching.cancel()
            self._fetching = None
        if self._outbound_bytes:
            self._outbound.clear(self._outbound_bytes)
            self._outbound_bytes = 0

    def _lose(self, message: str) -> None:
        """Ends what runs, if something does, without a word from its process."""
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None
        if self._job is not None:
            self._finish(Lost(message, self._measure.end(Receipt(), self._job.link)))
        else:
            self._finish(ChildLost(message))

    def _finish(self, result: Ending | ChildLost) -> None:
        if self._fetching is not None or self._outbound_bytes:
            self._stop_fetching()
        if self._overrun is not None:
            self._overrun.cancel()
            self._overrun = None
        self._shared.close(self._number)
        self._own.close(self._number)
        if self._leases is not None:
            self._leases.close()
            self._leases = None
        if self._body.used_bytes:
            self._body.wipe()
        self._tell(result)
        self._job = None
        self._pool.release(self, cpu_ns=result.receipt.cpu_ns if isinstance(result, Ending) else None)

    def _tell(self, result: Ending | ChildLost) -> None:
        """Once: whoever waits for it, or, where nobody does any more, whoever bills it."""
        running, self._running = self._running, None
        if running is None or self._job is None:
            return
        if not running.done():
            if isinstance(result, ChildLost):
                running.set_exception(result)
            else:
                running.set_result(result)
        elif self._job.abandoned is not None and isinstance(result, Ending | Lost):
            self._job.abandoned(result.receipt)

    def _kill_overrun(self, number: int) -> None:
        """The guest, or a host call in it, did not stop at its deadline."""
        if self._running is not None and self._number == number and self._job is not None:
            self._pool.kills += 1
            timeout_ns = self._job.timeout_ns
            receipt = self._measure.end(Receipt(guest_ns=timeout_ns), self._job.link)
            detail = "the guest did not stop at its deadline; its process was ended"
            self._tell(
                Ending(outcome=Outcome.DEADLINE_EXCEEDED, receipt=receipt, response=b"", logs=b"", detail=detail)
            )
            self.kill("a guest overran its deadline")

    def _own_thread(self, thread: int) -> int:
        """Raises `InvalidFrame` for one that is not the child's: what it says is not believed."""
        if self._child is None or not Path(f"/proc/{self._child.pid}/task/{thread}").is_dir():
            raise InvalidFrame("a thread that is none of its own")
        return thread

    def cpu_ns(self) -> int:
        """What the process has used since its guest was started."""
        return self._measure.cpu_ns()

    def slow_down(self) -> None:
        """From here on everybody else goes first. Nothing where it has been done, or no guest runs."""
        if self._thread and self._running is not None:
            thread, self._thread = self._thread, 0
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.setpriority(os.PRIO_PROCESS, thread, LONG_NICENESS)

    def abandon(self, number: int) -> None:
        """The caller is gone: the guest is stopped, and its process ended if it does not."""
        if self._running is not None and self._number == number:
            with contextlib.suppress(OSError):  # full, or nobody reads: the process is ended below
                os.write(self._stop_fd, STOP.pack(number))
            asyncio.get_running_loop().call_later(ABANDON_S, self._kill_abandoned, number)

    def _kill_abandoned(self, number: int) -> None:
        if self._running is not None and self._number == number and self._taking is None:
            self.kill("its caller went away")

    def kill(self, reason: str) -> None:
        if self._child is not None:
            self._child.kill(reason)

    def _note_end(self, reason: str) -> None:
        was_ready, self.ready = self.ready, False
        self._thread = 0
        os.close(self._stop_fd)
        self._modules.clear()
        self.detach()
        self._answer.clear(self._answer.size_bytes)
        self._outbound.clear(self._outbound.size_bytes)
        self._lose("the process that ran this request died; try again")
        if self._pool.stopping:
            return
        log.warning("sandbox %d ended (%s)", self.slot, reason)
        self._pool.note_lost(self)
        delay_s = 0.0 if was_ready else self._delay_s
        if not was_ready:
            self._delay_s = min(self._delay_s * 2, LAST_DELAY_S)
        asyncio.get_running_loop().call_later(delay_s, self.spawn)

    async def stop(self) -> None:
        if self._child is not None:
            self._child.kill("the platform stops")
            await self._child.reaped()
        self.detach()
        self._answer.close()
        self._outbound.close()
        self._body.close()

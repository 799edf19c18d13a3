"""The pool of sandboxes: one guest at a time in each, taken in turn by tenants, killed and replaced when one overruns.

A request waits in the fair queue for a free sandbox, is run in it, and leaves it free for the next. What a sandbox has
loaded is decided here, so that the router always knows which module it must send along.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wisp.errors import ChildLost, InvalidFrame, QueueTimeout
from wisp.names import Digest, TenantName
from wisp.scheduling.bundlecache import BundleSegment
from wisp.scheduling.children import Child
from wisp.scheduling.codecache import CodeSegment
from wisp.scheduling.hosts import TENSOR_BYTES, InferenceHost
from wisp.scheduling.queue import FairQueue, Waiter
from wisp.wire.channel import MAX_FRAME_BYTES, Frame
from wisp.wire.confinement import Limits
from wisp.wire.inferences import Binding
from wisp.wire.invocations import FAILED_HEAD, HANDLE, INLINE_BYTES, INVOKE_HEAD, FunctionLink, Kind, decode_result
from wisp.wire.outcome import Ending, Outcome, Receipt
from wisp.wire.segments import Segment, clear, create_frozen

log = logging.getLogger(__name__)

GRACE_S = 0.25
"""Past the deadline, before the process is killed: for a host call to notice, and for the answer to be copied."""
ABANDON_S = 0.05
"""How long a guest whose caller has gone may go on before its process is killed."""
MAX_MODULES = 64
"""Modules that one sandbox keeps linked."""
READY_S = 30.0
FIRST_DELAY_S, LAST_DELAY_S = 0.05, 5.0
DATA_BYTES = 1024 * 1024 * 1024
"""RLIMIT_DATA of a sandbox: Python, the engine, and one guest's memory at its ceiling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request, ready to run. `body_segment` holds the body that is too large for a frame; it is not the job's.
    `bundle` is there where a mount shows it."""

    tenant: TenantName
    link: FunctionLink
    binding: Binding | None
    models: tuple[Digest, ...]
    code: CodeSegment
    head: bytes
    body: bytes
    body_segment: tuple[int, ...]
    body_bytes: int
    timeout_ns: int
    request_id: bytes = b""
    bundle: BundleSegment | None = None
    probe: bool = False


class Sandbox:
    """One slot of the pool and the process that fills it at present."""

    def __init__(self, pool: Sandboxes, slot: int) -> None:
        self._pool = pool
        self.slot = slot
        self._answer = Segment.create("answer", pool.answer_bytes)
        self._child: Child | None = None
        self._modules: OrderedDict[str, set[int]] = OrderedDict()
        self._tensors: int | None = None
        """The tensor segment that this sandbox and the inference host share; None until a guest infers."""
        self._tensors_of: TenantName | None = None
        self._running: asyncio.Future[Ending] | None = None
        self._job: Job | None = None
        self._number = 0
        self._overrun: asyncio.TimerHandle | None = None
        self._delay_s = FIRST_DELAY_S
        self.ready = False

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
        self._child = Child(
            "wisp.sandbox.main",
            limits=Limits(data_bytes=DATA_BYTES),
            empty_directory=self._pool.empty_directory,
            on_frame=self._take,
            on_end=self._note_end,
            fds={"answer_fd": self._answer.fd},
        )

    def start(self, job: Job, number: int) -> asyncio.Future[Ending]:
        """Sends the job; the future resolves to its ending, or to `ChildLost`. Raises `ChildLost` at once if the
        process is gone."""
        assert self._child is not None
        assert self._running is None
        child = self._child
        deadline_ns = time.monotonic_ns() + job.timeout_ns
        self._bring(child, job)
        if job.binding is not None:
            # A host that is gone is no reason to refuse: the guest gets an errno if it infers before the next is there.
            with contextlib.suppress(ChildLost):
                self._open_inference(child, job, job.binding, number, deadline_ns)
        kind = Kind.PROBE if job.probe else Kind.INVOKE
        payload = INVOKE_HEAD.pack(number, job.link.handle, len(job.head), job.body_bytes, deadline_ns)
        child.send(kind, b"".join((payload, job.head, job.body, job.request_id)), job.body_segment)
        loop = asyncio.get_running_loop()
        self._running, self._job, self._number = loop.create_future(), job, number
        self._overrun = loop.call_later(job.timeout_ns / 1e9 + GRACE_S, self._kill_overrun, number)
        return self._running

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
            handles = self._modules[link.module] = set()
        self._modules.move_to_end(link.module)
        if link.handle not in handles:
            self._link(child, link, job.bundle)
            handles.add(link.handle)

    def _link(self, child: Child, link: FunctionLink, bundle: BundleSegment | None) -> None:
        payload, fds = link.encode(), () if bundle is None else (bundle.fd,)
        if len(payload) < MAX_FRAME_BYTES:
            child.send(Kind.LINK, payload, fds)
            return
        own = create_frozen("link", [payload])
        try:
            child.send(Kind.LINK, b"", (own, *fds))
        finally:
            os.close(own)

    def _open_inference(self, child: Child, job: Job, binding: Binding, number: int, deadline_ns: int) -> None:
        if self._tensors is None:
            socket_fd, self._tensors = self._pool.host.attach(self.slot)
            try:
                child.send(Kind.ATTACH, b"{}", (socket_fd, self._tensors))
            finally:
                os.close(socket_fd)
        elif self._tensors_of != job.tenant:
            clear(self._tensors, TENSOR_BYTES)
        self._tensors_of = job.tenant
        self._pool.host.open(self.slot, number, binding, deadline_ns)

    def detach(self) -> None:
        """The next guest that infers gets a new line: the host was replaced, or may still be writing to the old one."""
        if self._tensors is not None:
            os.close(self._tensors)
            self._tensors = None

    def forget(self, link: FunctionLink) -> None:
        handles = self._modules.get(link.module)
        if handles is None or link.handle not in handles or self._child is None:
            return
        with contextlib.suppress(ChildLost):  # its successor starts with nothing loaded
            handles.discard(link.handle)
            self._child.send(Kind.UNLINK, HANDLE.pack(link.handle))
            if not handles:
                del self._modules[link.module]
                self._child.send(Kind.UNLOAD, link.module.encode())

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.RESULT:
            number, ending = decode_result(frame.payload, self._answer.view)
            if self._running is None or number != self._number:
                raise InvalidFrame(f"a result for invocation {number}, which is not running")
            if (used := len(ending.response) + len(ending.logs)) > INLINE_BYTES:
                self._answer.clear(used)
            if ending.outcome is Outcome.INFERENCE_TIMEOUT:
                self.detach()
            self._finish(ending)
        elif frame.kind == Kind.FAILED:
            reason = frame.payload[FAILED_HEAD.size :].decode("utf-8", "replace")
            log.error("sandbox %d could not run a guest: %s", self.slot, ascii(reason))
            self._finish(ChildLost("the function could not be run; its operator was told"))
        elif frame.kind == Kind.READY and not self.ready:
            self.ready = True
            self._delay_s = FIRST_DELAY_S
            self._pool.note_ready(self, str(json.loads(frame.payload)["fingerprint"]))
        else:
            raise InvalidFrame(f"frame kind {frame.kind} from a sandbox")

    def _finish(self, result: Ending | ChildLost) -> None:
        future, job = self._running, self._job
        self._running = self._job = None
        if self._overrun is not None:
            self._overrun.cancel()
            self._overrun = None
        if job is not None and job.binding is not None:
            with contextlib.suppress(ChildLost):
                self._pool.host.close(self.slot, self._number)
        if future is not None and not future.done():
            if isinstance(result, ChildLost):
                future.set_exception(result)
            else:
                future.set_result(result)
        self._pool.release(self)

    def _kill_overrun(self, number: int) -> None:
        """The guest, or a host call in it, did not stop at its deadline."""
        if self._running is not None and self._number == number and self._job is not None:
            self._pool.kills += 1
            timeout_ns = self._job.timeout_ns
            receipt = Receipt(cpu_ns=timeout_ns, guest_ns=timeout_ns)
            detail = "the guest did not stop at its deadline; its process was ended"
            running, self._running = self._running, None
            if not running.done():
                running.set_result(
                    Ending(outcome=Outcome.DEADLINE_EXCEEDED, receipt=receipt, response=b"", logs=b"", detail=detail)
                )
            self.kill("a guest overran its deadline")

    def abandon(self, number: int) -> None:
        """The caller is gone: the guest may end by itself within a moment, else it is ended."""
        asyncio.get_running_loop().call_later(ABANDON_S, self._kill_abandoned, number)

    def _kill_abandoned(self, number: int) -> None:
        if self._running is not None and self._number == number:
            self.kill("its caller went away")

    def kill(self, reason: str) -> None:
        if self._child is not None:
            self._child.kill(reason)

    def _note_end(self, reason: str) -> None:
        was_ready, self.ready = self.ready, False
        self._modules.clear()
        self.detach()
        self._answer.clear(self._answer.size_bytes)
        self._finish(ChildLost("the process that ran this request died; try again"))
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


class Sandboxes:
    """All slots. `run` is the only way in."""

    def __init__(
        self,
        *,
        count: int,
        empty_directory: Path,
        answer_bytes: int,
        host: InferenceHost,
        queue_per_tenant: int = 256,
        queue_total: int = 2048,
        on_fingerprint: Callable[[str], None],
    ) -> None:
        self.empty_directory = empty_directory
        self.answer_bytes = answer_bytes
        self.host = host
        self.stopping = False
        self.kills = 0
        self.restarts = 0
        self._on_fingerprint = on_fingerprint
        self._all_ready = asyncio.Event()
        self._idle: list[Sandbox] = []
        self._queue: FairQueue[Sandbox] = FairQueue(per_tenant=queue_per_tenant, total=queue_total)
        self._numbers = itertools.count(1)
        self.slots = [Sandbox(self, slot) for slot in range(count)]

    @property
    def queued(self) -> int:
        return self._queue.length

    async def start(self) -> None:
        """Raises `ChildLost` if they do not all come up."""
        for sandbox in self.slots:
            sandbox.spawn()
        try:
            async with asyncio.timeout(READY_S):
                await self._all_ready.wait()
        except TimeoutError as error:
            raise ChildLost("the sandboxes do not start") from error

    async def run(self, job: Job, *, queue_timeout_s: float) -> tuple[Ending, int]:
        """Waits for a sandbox, then for the ending: (ending, ns spent waiting for the sandbox).

        Raises `Overloaded`, `TooManyInflight`, `QueueTimeout`, `ModelLoading`, `ChildLost`. Cancelled, it gives its
        place back, or ends the guest.
        """
        queued_ns = 0
        while True:
            if not self.host.has(job.models):
                await self.host.ensure(job.models)
            sandbox = self._take_idle(job.link)
            if sandbox is None:
                queued_ns -= time.monotonic_ns()
                sandbox = await self._wait(job, queue_timeout_s)
                queued_ns += time.monotonic_ns()
            if self.host.has(job.models):
                break
            self.release(sandbox)  # the host died while this request was queued: wait for the next, not in a sandbox
        number = next(self._numbers)
        try:
            running = sandbox.start(job, number)
        except ChildLost:
            raise  # its successor reports in by itself
        except BaseException:
            sandbox.kill("a request could not be given to it whole")
            raise
        try:
            return await asyncio.shield(running), queued_ns
        except asyncio.CancelledError:
            sandbox.abandon(number)
            raise

    async def _wait(self, job: Job, timeout_s: float) -> Sandbox:
        waiter: Waiter[Sandbox] = Waiter()
        self._queue.push(job.tenant, waiter)
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter.granted
        except BaseException as error:
            self._queue.discard(job.tenant, waiter)
            if waiter.granted.done() and not waiter.granted.cancelled():
                self.release(waiter.granted.result())  # granted in the very moment in which the wait ended
            if isinstance(error, TimeoutError):
                raise QueueTimeout(f"no sandbox came free within {timeout_s:g} s; try again") from error
            raise

    def _take_idle(self, link: FunctionLink) -> Sandbox | None:
        """One that has the module, if one does; else the one that was used last."""
        if not self._idle:
            return None
        for position, sandbox in enumerate(self._idle):
            if sandbox.has(link):
                return self._idle.pop(position)
        return self._idle.pop()

    def release(self, sandbox: Sandbox) -> None:
        """A sandbox that died since is not passed on: its successor reports in when it is ready."""
        if not sandbox.ready:
            return
        waiter = self._queue.pop()
        if waiter is None:
            self._idle.append(sandbox)
        else:
            waiter.granted.set_result(sandbox)

    def note_ready(self, sandbox: Sandbox, fingerprint: str) -> None:
        self._on_fingerprint(fingerprint)
        if all(slot.ready for slot in self.slots):
            self._all_ready.set()
        self.release(sandbox)

    def note_lost(self, sandbox: Sandbox) -> None:
        self.restarts += 1
        if sandbox in self._idle:
            self._idle.remove(sandbox)

    def forget(self, link: FunctionLink) -> None:
        """A function's version or grants were replaced."""
        for sandbox in self.slots:
            sandbox.forget(link)

    def detach_all(self) -> None:
        for sandbox in self.slots:
            sandbox.detach()

    async def stop(self) -> None:
        self.stopping = True
        for sandbox in self.slots:
            await sandbox.stop()

"""The pool of sandboxes: a request waits in the fair queue for a free one, is run in it, and leaves it to the next.

Who may have how many is `shares`, who comes next `queue`, what it is charged and expected to take `turns`; a request
that could not be served in time is refused before it waits (`waits`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from wisp.errors import ChildLost, QueueTimeout
from wisp.scheduling.hosts import InferenceHost
from wisp.scheduling.queue import FairQueue, Waiter
from wisp.scheduling.runtimes import HEAVY_NS, RunTime, RunTimes
from wisp.scheduling.shares import Shares
from wisp.scheduling.slots import Job, Lost, Sandbox
from wisp.scheduling.tenanthosts import TenantHosts
from wisp.scheduling.turns import Turns
from wisp.scheduling.waits import Wait, refuse_hopeless
from wisp.scheduling.walls import WallWatch
from wisp.wire.invocations import FunctionLink
from wisp.wire.outcome import Ending, Receipt

READY_S = 30.0
WATCH_S = 0.02
"""How often running guests are looked at, while any runs."""
NO_LEASE = contextlib.nullcontext()


def _bill(abandoned: Callable[[Receipt], None] | None, running: asyncio.Future[Ending]) -> None:
    error = running.exception()  # looked at in any case: nobody else waits for it any more
    receipt = error.receipt if isinstance(error, Lost) else None
    if error is None:
        receipt = running.result().receipt
    if abandoned is not None and receipt is not None:
        abandoned(receipt)


class Sandboxes:
    """All slots. `run` is the only way in."""

    def __init__(
        self,
        *,
        workers: int,
        spare: int,
        empty_directory: Path,
        answer_bytes: int,
        host: InferenceHost,
        own_hosts: TenantHosts,
        queue_per_tenant: int = 256,
        queue_total: int = 2048,
        on_fingerprint: Callable[[str], None],
        walls: WallWatch | None = None,
    ) -> None:
        self.walls = WallWatch() if walls is None else walls
        self.empty_directory = empty_directory
        self.answer_bytes = answer_bytes
        self.host = host
        self.own_hosts = own_hosts
        self.gpu_host: InferenceHost | None = None
        self.stopping = False
        self.kills = 0
        self.restarts = 0
        self._on_fingerprint = on_fingerprint
        self._all_ready = asyncio.Event()
        self._idle: list[Sandbox] = []
        clock_ns = time.monotonic_ns
        self._queue: FairQueue[Sandbox] = FairQueue(per_tenant=queue_per_tenant, total=queue_total, clock_ns=clock_ns)
        self._shares = Shares(workers, spare, clock_ns)
        self._turns = Turns(self._shares, self._queue.charge, clock_ns)
        self._times = RunTimes()
        self._watching: asyncio.TimerHandle | None = None
        self._numbers = itertools.count(1)
        self.slots = [Sandbox(self, slot) for slot in range(self._shares.total)]

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
        # A trial says nothing of what requests will take.
        runtime = RunTime() if job.probe else self._times.of(job.tenant, job.link.function)
        brief = self._shares.is_trusted(job.tenant) and runtime.brief
        while True:
            if not self._has_models(job):
                await self._ensure_models(job)
            sandbox = self._take_idle(job, runtime, brief=brief)
            if sandbox is None:
                queued_ns -= time.monotonic_ns()
                sandbox = await self._wait(job, runtime, brief=brief, timeout_s=queue_timeout_s)
                queued_ns += time.monotonic_ns()
            if self._has_models(job):
                break
            # The host died, or a model made room, while this request was queued: it waits again, but in no sandbox.
            self.release(sandbox)
        number = next(self._numbers)
        try:
            running = sandbox.start(job, number)
        except ChildLost:
            raise  # its successor reports in by itself
        except BaseException:
            sandbox.kill("a request could not be given to it whole")
            raise
        assert sandbox.turn is not None
        self._turns.begin(sandbox.turn)
        if runtime.heavy:
            sandbox.slow_down()
        self._watch_soon()
        try:
            with NO_LEASE if job.binding is None else self._lease(job):
                return await asyncio.shield(running), queued_ns
        except asyncio.CancelledError:
            running.add_done_callback(partial(_bill, job.abandoned))
            sandbox.abandon(number)
            raise

    def host_of(self, job: Job) -> InferenceHost:
        """Of its `models`."""
        return self.gpu_host if job.gpu and self.gpu_host is not None else self.host

    def _has_models(self, job: Job) -> bool:
        return self.host_of(job).has(job.models) and (
            not job.needs_own or self.own_hosts.has(job.tenant, job.own_models)
        )

    async def _ensure_models(self, job: Job) -> None:
        if job.models:
            await self.host_of(job).ensure(job.models)
        if job.needs_own:
            await self.own_hosts.ensure(job.tenant, job.own_models)

    @contextlib.contextmanager
    def _lease(self, job: Job) -> Iterator[None]:
        with self.host_of(job).lease(job.models):
            if not job.needs_own:
                yield
                return
            with self.own_hosts.lease(job.tenant, job.own_models):
                yield

    async def _wait(self, job: Job, runtime: RunTime, *, brief: bool, timeout_s: float) -> Sandbox:
        if not job.probe:
            self._refuse_hopeless(job, timeout_s, brief=brief)
        waiter: Waiter[Sandbox] = Waiter(job.tenant, runtime, brief=brief)
        self._queue.push(waiter, job.weight)
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter.granted
        except BaseException as error:
            self._queue.discard(waiter)
            if waiter.granted.done() and not waiter.granted.cancelled():
                self.release(waiter.granted.result())  # granted in the very moment in which the wait ended
            if isinstance(error, TimeoutError):
                retry_after_s = self._expect(job.tenant, job.weight, brief=brief).retry_after_s
                message = f"no sandbox came free within {timeout_s:g} s; try again"
                raise QueueTimeout(message, retry_after_s=retry_after_s) from error
            raise

    def _refuse_hopeless(self, job: Job, timeout_s: float, *, brief: bool) -> None:
        refuse_hopeless(self._expect(job.tenant, job.weight, brief=brief), timeout_s)

    def _expect(self, tenant: str, weight: int, *, brief: bool) -> Wait:
        held = [slot.turn for slot in self.slots if slot not in self._idle]
        return Wait(
            first_ns=self._turns.first_ns(tenant, held, brief=brief),
            own_ns=self._queue.ahead_ns(tenant),
            all_ns=self._queue.waiting_ns,
            own_most=self._shares.most(brief=brief),
            sandboxes=self._shares.total,
            share=weight / self._queue.weights(tenant, weight),
        )

    def _take_idle(self, job: Job, runtime: RunTime, *, brief: bool) -> Sandbox | None:
        """One that has the module, if one does; else the one that was used last. Those who wait may have none."""
        if not self._idle or not self._shares.may_take(job.tenant, brief):
            return None
        found = next((at for at, sandbox in enumerate(self._idle) if sandbox.has(job.link)), -1)
        sandbox = self._idle.pop(found)
        sandbox.turn = self._turns.open(job.tenant, runtime, brief=brief)
        return sandbox

    def release(self, sandbox: Sandbox, *, whole: bool = False) -> None:
        """Its turn is over; `whole` if a guest ran in it to its end. A sandbox that died since is not passed on: its
        successor reports in when it is ready."""
        turn, sandbox.turn = sandbox.turn, None
        if turn is not None:
            if whole:
                turn.runtime.note_cpu(sandbox.cpu_ns())
            self._turns.close(turn, whole=whole)
        if sandbox.ready:
            self._idle.append(sandbox)
        self._grant()

    def _grant(self) -> None:
        while self._idle:
            waiter = self._queue.pop(self._shares.may_take)
            if waiter is None:
                return
            sandbox = self._idle.pop()
            sandbox.turn = self._turns.open(waiter.tenant, waiter.runtime, brief=waiter.brief)
            waiter.granted.set_result(sandbox)

    def _watch_soon(self) -> None:
        if self._watching is None:
            self._watching = asyncio.get_running_loop().call_later(WATCH_S, self._watch)

    def _watch(self) -> None:
        self._watching = None
        held = [(slot, slot.turn) for slot in self.slots if slot.turn is not None]
        for slot, turn in held:
            self._turns.watch(turn)
            if slot.cpu_ns() > HEAVY_NS:
                slot.slow_down()
        if held and not self.stopping:
            self._watch_soon()

    def note_ready(self, sandbox: Sandbox, fingerprint: str) -> None:
        self._on_fingerprint(fingerprint)
        if all(slot.ready for slot in self.slots):
            self._all_ready.set()
        self.release(sandbox)

    def note_lost(self, sandbox: Sandbox) -> None:
        self.restarts += 1
        if sandbox in self._idle:
            self._idle.remove(sandbox)

    def bring(self, job: Job) -> None:
        """Loads and links a function in the sandboxes that are free now; the others do it with its first request."""
        for sandbox in self.slots:
            if sandbox.ready and not sandbox.busy:
                sandbox.bring(job)

    def forget(self, link: FunctionLink) -> None:
        """A function's version or grants were replaced."""
        for sandbox in self.slots:
            sandbox.forget(link)

    def detach(self, host: InferenceHost) -> None:
        """That process is gone."""
        for sandbox in self.slots:
            sandbox.detach(host)

    async def stop(self) -> None:
        self.stopping = True
        if self._watching is not None:
            self._watching.cancel()
        for sandbox in self.slots:
            await sandbox.stop()

"""The pool of sandboxes: a request waits in the fair queue for a free one, is run in it, and leaves it to the next.

Who may have how many is `shares`, who waits and comes next `waiting`, what goes behind another `behind`, what a run is
charged and expected to take `turns`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from pathlib import Path

from wisp.cores import idle_time_is_free
from wisp.errors import ChildLost
from wisp.scheduling.behind import Behind
from wisp.scheduling.hosts import InferenceHost
from wisp.scheduling.idleness import STEP_NS
from wisp.scheduling.jobs import Job
from wisp.scheduling.precedence import Precedence
from wisp.scheduling.queue import FairQueue
from wisp.scheduling.runs import Run
from wisp.scheduling.runtimes import HEAVY_NS, OVERSTAY_NS, RunTime, RunTimes
from wisp.scheduling.shares import Shares
from wisp.scheduling.slots import Sandbox
from wisp.scheduling.tenanthosts import TenantHosts
from wisp.scheduling.turns import Turn, Turns
from wisp.scheduling.waiting import Waiting
from wisp.scheduling.walls import WallWatch
from wisp.wire.invocations import FunctionLink
from wisp.wire.outcome import Ending

READY_S = 30.0
NS = 1_000_000_000
WATCH_S = STEP_NS / NS
"""How often running guests are looked at, while any runs."""


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
        precedence: Precedence | None = None,
    ) -> None:
        self.walls = WallWatch() if walls is None else walls
        self.precedence = Precedence() if precedence is None else precedence
        self.empty_directory = empty_directory
        self.answer_bytes = answer_bytes
        self.host = host
        self.own_hosts = own_hosts
        self.gpu_host: InferenceHost | None = None
        self.busy_poll = idle_time_is_free()
        self.stopping = False
        self.kills = 0
        self.restarts = 0
        self._on_fingerprint = on_fingerprint
        self._all_ready = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._idle: list[Sandbox] = []
        clock_ns = time.monotonic_ns
        self._queue: FairQueue[Run] = FairQueue(per_tenant=queue_per_tenant, total=queue_total, clock_ns=clock_ns)
        self._shares = Shares(workers, spare, clock_ns)
        self._turns = Turns(self._shares, self._queue.charge, clock_ns)
        self.times = RunTimes()
        self._watching: asyncio.TimerHandle | None = None
        self._numbers = itertools.count(1)
        self.slots = [Sandbox(self, slot) for slot in range(self._shares.total)]
        self._waiting = Waiting(self._queue, self._shares, self._turns, self.slots, self._idle)
        self._behind = Behind(self.slots, self._idle, self._queue, self._numbers, put_back=self.put_back)

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
        runtime = RunTime() if job.probe else self.times.of(job.tenant, job.link.function)
        brief = runtime.brief and self._shares.is_trusted(job.tenant)
        while True:
            if job.models or job.needs_own:
                while not self._has_models(job):  # another may have made room for itself before this goes on
                    await self._ensure_models(job)
            run = Run(job, runtime, self._loop, brief=brief, timeout_s=queue_timeout_s)
            if (ahead := self._behind.with_room(run)) is not None:
                self._behind.send(run, ahead)
            elif self._idle and self._shares.may_take(job.tenant, brief):
                self._begin(run, self._take_idle(job))
            else:
                self._waiting.enter(run)
            try:
                ending = await run.granted
            except asyncio.CancelledError:
                self._leave(run)
                raise
            queued_ns += run.queued_ns
            if ending is not None:
                return ending, queued_ns

    def host_of(self, job: Job) -> InferenceHost:
        """Of its `models`."""
        return self.gpu_host if job.gpu and self.gpu_host is not None else self.host

    def _has_models(self, job: Job) -> bool:
        return (not job.models or self.host_of(job).has(job.models)) and (
            not job.needs_own or self.own_hosts.has(job.tenant, job.own_models)
        )

    async def _ensure_models(self, job: Job) -> None:
        if job.models:
            await self.host_of(job).ensure(job.models)
        if job.needs_own:
            await self.own_hosts.ensure(job.tenant, job.own_models)

    def put_back(self, run: Run) -> None:
        """One that was sent ahead and has not begun: it waits again, as the next of its tenant."""
        run.ahead, run.goes_ahead, run.sandbox, run.sent_ns = False, False, None, 0
        if run.granted.done():  # its caller has gone
            return
        if self.stopping:
            run.fail(ChildLost("the platform stops"))
            return
        self._waiting.enter_again(run)
        self._grant(None)

    def _leave(self, run: Run) -> None:
        """Its caller has gone."""
        self._waiting.leave(run)
        if not run.granted.cancelled():
            run.bill()
        elif run.ahead and run.sandbox is not None:
            run.sandbox.take_back(run)
        elif run.sandbox is not None:
            run.sandbox.abandon(run.number)

    def _take_idle(self, job: Job) -> Sandbox:
        """The one that was used last of those that have the module, or of all. Not sooner one that has the function
        itself: to link it is less than to wake a process that sleeps."""
        idle, module = self._idle, job.link.module
        for at in range(len(idle) - 1, -1, -1):
            if module in idle[at].loaded:
                return idle.pop(at)
        return idle.pop()

    def _begin(self, run: Run, sandbox: Sandbox) -> None:
        turn = sandbox.turn = self._turns.open(run.tenant, run.runtime, brief=run.brief)
        run.sandbox, run.number = sandbox, next(self._numbers)
        try:
            sandbox.start(run)
        except ChildLost as error:
            run.fail(error)  # its successor reports in by itself
            return
        except Exception as error:  # noqa: BLE001 - this request's own, whoever's end has brought its turn
            sandbox.kill("a request could not be given to it whole")
            run.fail(error)
            return
        turn.began = True
        if run.runtime.heavy:
            sandbox.slow_down()
        if self._watching is None:
            self._watch_soon()

    def release(self, sandbox: Sandbox, *, cpu_ns: int | None = None, nn_ns: int = 0, began: bool = True) -> None:
        """Its turn is over. `cpu_ns`, `nn_ns`: what its guest has used, if one ran in it to its end. A sandbox that
        died since is not passed on: its successor reports in when it is ready."""
        turn, sandbox.turn = sandbox.turn, None
        if turn is not None:
            own_ns, whole = None, cpu_ns is not None and not turn.abandoned
            if cpu_ns is not None and turn.abandoned:
                turn.runtime.note_cpu_at_least(cpu_ns)
            elif cpu_ns is not None:
                turn.runtime.note_cpu(cpu_ns)
                if sandbox.guest_thread.first:
                    self.precedence.guests_ns += cpu_ns
                if sandbox.guest_thread.slowed and self.precedence.guests:
                    sandbox.guest_thread.hand_over()
                if turn.idleness is not None:
                    sandbox.look(turn, time.monotonic_ns(), sandbox.cpu_ns())
                own_ns = None if turn.by_clock else turn.own_ns(cpu_ns, nn_ns)
            if not began:
                turn.began = False
            self._turns.close(turn, whole=whole, own_ns=own_ns)
        if sandbox.ready:
            if sandbox.ahead.runs:
                self._go_on(sandbox)
            else:
                self._idle.append(sandbox)
        else:
            self._count_missing()
        self._grant(turn)

    def _go_on(self, sandbox: Sandbox) -> None:
        """With what was sent ahead: of the same tenant, and as brief as what ran, so that all shares stay."""
        now_ns = time.monotonic_ns()
        run = sandbox.go_on(now_ns)
        run.leave_queue(now_ns)
        turn = sandbox.turn = self._turns.open(run.tenant, run.runtime, brief=run.brief)
        turn.began = True
        self._behind.fill(sandbox)

    def _grant(self, ended: Turn | None) -> None:
        """To whoever waits, what has become possible by this turn's end."""
        while self._idle and self._queue.length:
            run = self._waiting.next()
            if run is None:
                return
            run.leave_queue(time.monotonic_ns())
            if not (run.job.models or run.job.needs_own) or self._has_models(run.job):
                self._begin(run, sandbox := self._take_idle(run.job))
                self._behind.fill(sandbox)
                if ended is not None and run.tenant == ended.tenant and run.brief is ended.brief:
                    return  # shares are what they were, and nobody who waits had one left then
            else:  # the host died, or a model made room: it waits for that, but in no sandbox
                run.granted.set_result(None)

    def _watch_soon(self) -> None:
        self._watching = self._loop.call_later(WATCH_S, self._watch)

    def _watch(self) -> None:
        self._watching = None
        self.own_hosts.watch()
        held = [(slot, slot.turn) for slot in self.slots if slot.turn is not None]
        now_ns = time.monotonic_ns()
        for slot, turn in held:
            cpu_ns = slot.cpu_ns()
            if turn.own_ns(cpu_ns) <= OVERSTAY_NS:  # of one that used more nothing is left to be learned
                slot.look(turn, now_ns, cpu_ns)
            self._turns.watch(turn, turn.own_ns(cpu_ns))
            if cpu_ns > HEAVY_NS:
                slot.slow_down()
            slot.watch(now_ns)
        if held and not self.stopping:
            self._watch_soon()

    def _count_missing(self) -> None:
        self._shares.missing = sum(not slot.ready for slot in self.slots)

    def note_ready(self, sandbox: Sandbox, fingerprint: str) -> None:
        self._on_fingerprint(fingerprint)
        self._count_missing()
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

"""One slot of the pool: a sandbox process and its successors, what it has loaded, and the one guest that runs in it.

What its process has loaded is `loaded`, what its guest infers over `lines`, what else it asks for `guestcalls`. A guest
that overruns its deadline, or whose caller has gone, ends with its process; the slot starts another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING

from wisp.errors import ChildLost, InvalidFrame
from wisp.scheduling.ahead import DEPTH, GIVE_BACK_NS, OVERDUE_NS, SKIPPED_CPU_NS, Ahead
from wisp.scheduling.answers import SLICE_BYTES, take_out
from wisp.scheduling.bodyrooms import BodyRoom
from wisp.scheduling.children import Child
from wisp.scheduling.guestcalls import Caller, GuestCalls
from wisp.scheduling.guestthread import GuestThread
from wisp.scheduling.hosts import InferenceHost
from wisp.scheduling.jobs import Job, Lost
from wisp.scheduling.lines import Lines
from wisp.scheduling.loaded import Loaded
from wisp.scheduling.measures import Measure
from wisp.scheduling.runs import Run
from wisp.scheduling.stops import Stops
from wisp.scheduling.turns import Turn
from wisp.wire.channel import Frame
from wisp.wire.confinement import Limits
from wisp.wire.invocations import (
    FAILED_HEAD,
    INLINE_BYTES,
    INVOKE_HEAD,
    SKIPPED,
    THREAD,
    FunctionLink,
    Kind,
    bytes_in_segment,
    decode_result,
)
from wisp.wire.outcome import Ending, Outcome, Receipt
from wisp.wire.segments import Segment
from wisp.wire.walls import ChildKind

if TYPE_CHECKING:
    from wisp.scheduling.sandboxes import Sandboxes

log = logging.getLogger(__name__)

GRACE_NS = 250_000_000
"""Past the deadline, before the process is killed: for a host call to notice, and for the answer to be copied."""
ABANDON_S = 0.25
"""How long a guest that was told to stop may go on before its process is killed: a host call may have to end first."""
FIRST_DELAY_S, LAST_DELAY_S = 0.05, 5.0
DATA_BYTES = 1024 * 1024 * 1024
"""RLIMIT_DATA of a sandbox: Python, the engine, and one guest's memory at its ceiling."""


class Sandbox:
    """One slot of the pool and the process that fills it at present."""

    def __init__(self, pool: Sandboxes, slot: int) -> None:
        self._pool = pool
        self.slot = slot
        self._answer = Segment.create("answer", pool.answer_bytes)
        self._body = BodyRoom()
        self._taking: asyncio.Task[None] | None = None
        """A large answer's way out of the segment."""
        self._child: Child | None = None
        self.loaded = Loaded()
        self._measure = Measure()
        self._lines = Lines(slot, self._measure, pool.own_hosts)
        self._calls = GuestCalls(slot, pool.answer_bytes, self._measure, send=self._send, kill=self.kill)
        self._run: Run | None = None
        """What runs, or has run and is not concluded."""
        self.ahead = Ahead()
        self._deadline_ns = 0
        self._delay_s = FIRST_DELAY_S
        self.ready = False
        self.turn: Turn | None = None
        """The pool's: who has it."""
        self._stops = Stops()
        self.guest_thread = GuestThread()

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and self._child.alive else None

    @property
    def busy(self) -> bool:
        return self._run is not None

    def spawn(self) -> None:
        if self._pool.stopping:
            return
        hears_fd = self._stops.open()
        try:
            self._child = Child(
                "wisp.sandbox.main",
                limits=Limits(data_bytes=DATA_BYTES),
                empty_directory=self._pool.empty_directory,
                on_frame=self._take,
                on_end=self._note_end,
                fds={
                    "answer_fd": self._answer.fd,
                    "outbound_fd": self._calls.fd,
                    "body_fd": self._body.fd,
                    "stop_fd": hears_fd,
                },
                options={"busy_poll": int(self._pool.busy_poll)},
            )
        finally:
            os.close(hears_fd)
        self._measure.follow(self._child.pid)

    def start(self, run: Run) -> None:
        """Sends its job; `granted` will be its ending, or `ChildLost`. Raises `ChildLost` at once if the process is
        gone."""
        child, job, number = self._child, run.job, run.number
        assert child is not None
        assert self._run is None
        deadline_ns = time.monotonic_ns() + job.timeout_ns
        self._measure.begin(number)
        self.loaded.bring(child, job)
        if job.binding is not None:
            self._lines.open(child, job, self._pool.host_of(job), job.binding, number, deadline_ns)
        kind = Kind.PROBE if job.probe else Kind.INVOKE
        if job.body_parts:
            kind = Kind.LAID
            self._body.lay(job.body_parts)
        payload = INVOKE_HEAD.pack(number, job.link.handle, len(job.head), job.body_bytes, deadline_ns)
        first = run.runtime.prompt and self._pool.precedence.guests
        if first is not self.guest_thread.first:
            self.guest_thread.put(first=first)
        child.send(kind, b"".join((payload, job.head, job.body, job.request_id)), job.body_segment)
        self._run, self._deadline_ns = run, deadline_ns

    def takes_ahead(self, now_ns: int) -> bool:
        """Whether a quick run of the same tenant may wait behind what runs."""
        run, turn, ahead = self._run, self.turn, self.ahead
        return (
            run is not None
            and turn is not None
            and len(ahead.runs) < DEPTH
            and not ahead.asked_back_ns
            and now_ns - turn.granted_ns < OVERDUE_NS
            and turn.brief
            and run.job.self_contained
            and run.runtime.quick
            and not run.runtime.spills
            and self._taking is None
        )

    def send_ahead(self, run: Run) -> None:
        """Behind what runs. Raises `ChildLost`."""
        child, job = self._child, run.job
        assert child is not None
        self.loaded.bring(child, job)
        payload = INVOKE_HEAD.pack(run.number, job.link.handle, len(job.head), job.body_bytes, job.timeout_ns)
        child.send(Kind.NEXT, b"".join((payload, job.head, job.body, job.request_id)))
        self.ahead.runs.append(run)

    def go_on(self, now_ns: int) -> Run:
        """With the first that was sent ahead: what ran has ended."""
        assert self._run is None
        run = self._run = self.ahead.runs.popleft()
        self.ahead.asked_back_ns = 0
        run.ahead = False
        first = run.runtime.prompt and self._pool.precedence.guests
        if first is not self.guest_thread.first:
            self.guest_thread.put(first=first)
        self._measure.go_on(run.number, run.sent_ns)
        self._deadline_ns = now_ns + run.job.timeout_ns
        if run.granted.done():  # its caller has gone
            self.abandon(run.number)
        return run

    def take_back(self, run: Run) -> None:
        """One that was sent ahead; `Sandboxes.put_back` is called if it had not begun."""
        self._stops.take_back(run.number)

    def watch(self, now_ns: int) -> None:
        """Called now and then, while a guest runs."""
        run, turn, ahead = self._run, self.turn, self.ahead
        if run is None or turn is None:
            return
        if self._taking is None and now_ns > self._deadline_ns + GRACE_NS:
            self._kill_overrun(run)
        elif ahead.asked_back_ns:
            if ahead.runs and now_ns - ahead.asked_back_ns > GIVE_BACK_NS:
                self.kill("it keeps requests that it was told to give back")
        elif ahead.runs and now_ns - turn.granted_ns > OVERDUE_NS:
            ahead.asked_back_ns = now_ns
            for each in ahead.runs:
                self.take_back(each)

    def bring(self, job: Job) -> None:
        """Ahead of the first request; a process that is gone gets it then."""
        if self._child is not None:
            with contextlib.suppress(ChildLost):
                self.loaded.bring(self._child, job)

    def detach(self, host: InferenceHost | None = None) -> None:
        """From this host, or from all."""
        self._lines.detach(host)

    def forget(self, link: FunctionLink) -> None:
        if self._child is not None:
            self.loaded.forget(self._child, link)

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.RESULT:
            number, used = bytes_in_segment(frame.payload, self._answer.size_bytes)
            run = self._run
            if run is None or number != run.number or self._taking is not None:
                raise InvalidFrame(f"a result for invocation {number}, which is not running")
            run.runtime.spills = used > 0
            if used > SLICE_BYTES:
                self._taking = asyncio.get_running_loop().create_task(self._take_out(run, frame.payload, used))
                self._taking.add_done_callback(self._note_taken)
                return
            _, ending = decode_result(frame.payload, self._answer.view)
            if used > INLINE_BYTES:
                self._answer.clear(used)
            self._conclude(run, ending)
        elif frame.kind in (Kind.OUTBOUND, Kind.GRAPH, Kind.REMOTE):
            self._calls.begin(frame.kind, frame.payload, None if self._run is None else self._caller(self._run))
        elif frame.kind == Kind.SKIPPED:
            self._note_skipped(*SKIPPED.unpack(frame.payload))
        elif frame.kind == Kind.FAILED:
            reason = frame.payload[FAILED_HEAD.size :].decode("utf-8", "replace")
            log.error("sandbox %d could not run a guest: %s", self.slot, ascii(reason))
            self._lose("the function could not be run; its operator was told")
        elif frame.kind == Kind.THREAD:
            self._follow(*THREAD.unpack(frame.payload))
        elif frame.kind == Kind.READY and not self.ready:
            said = self._pool.walls.note(ChildKind.SANDBOX, frame.payload)
            self._follow(int(str(said["thread"])))
            fingerprint, self.ready = str(said["fingerprint"]), True
            self._delay_s = FIRST_DELAY_S
            self._pool.note_ready(self, fingerprint)
        else:
            raise InvalidFrame(f"frame kind {frame.kind} from a sandbox")

    def _note_skipped(self, number: int) -> None:
        """Raises `InvalidFrame` for one that runs, or was never sent."""
        run = self.ahead.take(number)
        if run is not None:
            self._pool.put_back(run)
            return
        run = self._run
        is_it = run is not None and run.number == number and run.sent_ns and self._taking is None
        if run is None or not is_it or self._measure.cpu_ns() > SKIPPED_CPU_NS:
            raise InvalidFrame(f"no word of invocation {number}, or a wrong one")
        self._run = None
        self._pool.put_back(run)
        self._pool.release(self, began=False)

    async def _take_out(self, run: Run, payload: bytes, used_bytes: int) -> None:
        """The guest has ended; its slot is free once its answer is out of it."""
        self._judge_by_clock()
        content = await take_out(self._answer, used_bytes)
        _, ending = decode_result(payload, content, taken_out=True)
        self._taking = None
        self._conclude(run, ending)

    def _note_taken(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            if not isinstance(error, InvalidFrame):
                log.error("an answer was not taken out of its segment, by a defect", exc_info=error)
            self.kill(f"its answer could not be taken: {error}")

    def _judge_by_clock(self) -> None:
        if self.turn is not None:
            self.turn.by_clock = True

    def _conclude(self, run: Run, ending: Ending) -> None:
        if ending.outcome is Outcome.DEADLINE_EXCEEDED:
            self._judge_by_clock()
        if ending.outcome is Outcome.INFERENCE_TIMEOUT:
            self.detach()
        self._finish(ending.measured(self._measure.end(ending.receipt, run.job.link)))

    def _caller(self, run: Run) -> Caller:
        return Caller(
            job=run.job,
            number=run.number,
            deadline_ns=self._deadline_ns,
            host=lambda: self._lines.own.host if run.job.needs_own else self._pool.host_of(run.job),
            leases=self._lines.leases,
        )

    def _send(self, kind: Kind, payload: bytes) -> None:
        if self._child is not None:
            self._child.send(kind, payload)

    def _lose(self, message: str) -> None:
        """Ends what runs, if something does, without a word from its process."""
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None
        if self._run is not None:
            self._finish(Lost(message, self._measure.end(Receipt(), self._run.job.link)))
        else:
            self._finish(ChildLost(message))

    def _finish(self, result: Ending | ChildLost) -> None:
        if self._calls.any:
            self._calls.end()
        inferred = self._lines.leases is not None
        if inferred:
            self._lines.close()
        if self._body.used_bytes:
            self._body.wipe()
        run, self._run = self._run, None
        if run is not None:
            run.end(result)
        if isinstance(result, Ending):
            self._pool.release(self, cpu_ns=result.receipt.cpu_ns, nn_ns=result.receipt.nn_ns)
        else:
            self._pool.release(self)
        if inferred:
            self._lines.settle()

    def _kill_overrun(self, run: Run) -> None:
        """The guest, or a host call in it, did not stop at its deadline."""
        self._pool.kills += 1
        receipt = self._measure.end(Receipt(guest_ns=run.job.timeout_ns), run.job.link)
        detail = "the guest did not stop at its deadline; its process was ended"
        self._run = None
        run.end(Ending(outcome=Outcome.DEADLINE_EXCEEDED, receipt=receipt, response=b"", logs=b"", detail=detail))
        self.kill("a guest overran its deadline")

    def _follow(self, thread: int) -> None:
        """Raises `InvalidFrame`."""
        if self._child is not None:
            self.guest_thread.follow(self._child.pid, thread)
            if self._run is not None and self._run.runtime.prompt and self._pool.precedence.guests:
                self.guest_thread.put(first=True)

    def cpu_ns(self) -> int:
        """What the process has used since its guest was started."""
        return self._measure.cpu_ns()

    def look(self, turn: Turn, now_ns: int, cpu_ns: int) -> None:
        """At whether its guest has been idle."""
        self.guest_thread.look(turn, now_ns, cpu_ns)

    def slow_down(self) -> None:
        """From here on everybody else goes first. Nothing where no guest runs."""
        if self._run is not None:
            self.guest_thread.slow_down()

    def abandon(self, number: int) -> None:
        """The caller is gone: the guest is stopped, and its process ended if it does not."""
        if self._run is not None and self._run.number == number:
            if self.turn is not None:
                self.turn.abandoned = True
            self._stops.end(number)
            asyncio.get_running_loop().call_later(ABANDON_S, self._kill_abandoned, number)

    def _kill_abandoned(self, number: int) -> None:
        if self._run is not None and self._run.number == number and self._taking is None:
            self.kill("its caller went away")

    def kill(self, reason: str) -> None:
        if self._child is not None:
            self._child.kill(reason)

    def _note_end(self, reason: str) -> None:
        was_ready, self.ready = self.ready, False
        self.guest_thread.forget()
        self._stops.close()
        self.loaded.clear()
        self.detach()
        self._answer.clear(self._answer.size_bytes)
        self._calls.wipe()
        for run in self.ahead.take_all():
            self._pool.put_back(run)
        self.ahead.asked_back_ns = 0
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
        self._calls.close()
        self._body.close()

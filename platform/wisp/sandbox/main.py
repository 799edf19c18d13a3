"""The sandbox process: reads frames from the router, runs one guest at a time, answers.

It holds no key, no Redis and no path; its environment and working directory are empty. A frame that it cannot
understand ends it, since the router is the only one who writes to it. Run as `python -I -m wisp.sandbox.main`.
"""

from __future__ import annotations

import gc
import json
import os
import threading
import time

from wisp.errors import InvalidFrame
from wisp.policy.choices import MountSource
from wisp.sandbox.busypoll import BusyPoll
from wisp.sandbox.engine import configuration_fingerprint
from wisp.sandbox.guest import GuestRunner
from wisp.sandbox.handler import MissingExport
from wisp.sandbox.hostline import HostLine
from wisp.sandbox.mapping import MappedBundle
from wisp.sandbox.modules import LinkedModules
from wisp.sandbox.outbound import OutboundLine
from wisp.sandbox.pagemap import open_pagemap
from wisp.sandbox.sentahead import SentAhead
from wisp.sandbox.shifts import Shifts, slowed_down
from wisp.sandbox.traps import EngineError
from wisp.wire.channel import Channel, Frame
from wisp.wire.confinement import enter
from wisp.wire.invocations import (
    FAILED_HEAD,
    HANDLE,
    INLINE_BYTES,
    INVOKE_HEAD,
    MAX_DETAIL_BYTES,
    SKIPPED,
    THREAD,
    FunctionLink,
    Kind,
    encode_result,
)
from wisp.wire.outcome import Ending
from wisp.wire.segments import Segment
from wisp.wire.walls import ChildKind, encode_report, raise_walls

MANY_TENSOR_BYTES = 4 * 1024 * 1024


class Sandbox:
    """Owns everything of the process but its channel."""

    def __init__(
        self,
        channel: Channel,
        answer: Segment,
        outbound: OutboundLine | None = None,
        body: Segment | None = None,
        pagemap_fd: int = -1,
        poll: BusyPoll | None = None,
    ) -> None:
        self.channel = channel
        self.poll = poll
        self.answer = answer
        self.body = body
        self.outbound = outbound
        self.runner = GuestRunner(pagemap_fd)
        self.modules = LinkedModules(self.runner.engine, self.runner.linker)
        self.line: HostLine | None = None
        self.own_line: HostLine | None = None
        self.ahead = SentAhead()
        self.holds_answer = False
        """The last one lies in the segment: the router has taken it once it sends what was not sent ahead."""

    def shift(self, ready: dict[str, object]) -> bool:
        """Serves on this thread. True: it was slowed down; another is to go on. False: the router closed its end.

        The first one says `ready`, the next ones who they are.
        """
        thread = threading.get_native_id()
        urgency = os.getpriority(os.PRIO_PROCESS, 0)  # before the router knows this thread, and may slow it down
        if ready:
            self.channel.send(Kind.READY, json.dumps(ready | {"thread": thread}).encode())
            ready.clear()
        else:
            self.channel.send(Kind.THREAD, THREAD.pack(thread))
        while True:
            frame = self.next()
            if frame is None:
                return False
            self.take(frame)
            if frame.kind in (Kind.INVOKE, Kind.LAID, Kind.NEXT) and slowed_down(urgency):
                return True

    def next(self) -> Frame | None:
        """What came while a guest waited for an outbound request comes first."""
        if self.outbound is not None and self.outbound.deferred:
            return self.outbound.deferred.popleft()
        poll = self.poll
        if poll is None:
            return self.channel.receive()
        poll.wait()
        frame = self.channel.receive()
        poll.note()
        return frame

    def take(self, frame: Frame) -> None:
        if frame.kind == Kind.NEXT:
            self.go_on(frame)
        elif frame.kind in (Kind.INVOKE, Kind.LAID, Kind.PROBE):
            self.holds_answer = False
            self.invoke(frame)
        elif frame.kind == Kind.MODULE:
            self.add_module(frame)
        elif frame.kind == Kind.LINK:
            self.link(frame)
        elif frame.kind == Kind.UNLINK:
            self.modules.unlink(HANDLE.unpack(frame.payload)[0])
        elif frame.kind == Kind.UNLOAD:
            self.modules.drop(frame.payload.decode())
        elif frame.kind == Kind.INBOUND:
            pass  # too late: its guest has ended
        elif frame.kind == Kind.ATTACH:
            self.attach(frame)
        else:
            raise InvalidFrame(f"frame kind {frame.kind}")

    def add_module(self, frame: Frame) -> None:
        digest = frame.payload.decode()
        (fd,) = frame.fds
        try:
            self.modules.add(digest, fd)
        except (EngineError, InvalidFrame) as error:
            self.modules.note_failure(digest, str(error))

    def link(self, frame: Frame) -> None:
        fds, payload = list(frame.fds), frame.payload
        if not payload:
            with Segment(fds.pop(0), writable=False) as segment:
                payload = bytes(segment.view)
        function = FunctionLink.decode(payload)
        shows_host = any(mount.source == MountSource.HOST for mount in function.files)
        hosts = MappedBundle(fds.pop()) if shows_host else None
        self.modules.link(function, MappedBundle(fds.pop()) if fds else None, hosts)

    def attach(self, frame: Frame) -> None:
        own = json.loads(frame.payload).get("own", False)
        former = self.own_line if own else self.line
        if former is not None:
            former.close()
        socket_fd, segment_fd = frame.fds
        line = HostLine(Channel.from_fd(socket_fd), Segment(segment_fd))
        if own:
            self.own_line = line
        else:
            self.line = line

    def go_on(self, frame: Frame) -> None:
        """With one that was sent ahead."""
        number, _, _, _, timeout_ns = INVOKE_HEAD.unpack_from(frame.payload)
        if not self.ahead.begin(number):
            return
        if self.holds_answer:
            self.channel.send(Kind.SKIPPED, SKIPPED.pack(number))
            return
        self.invoke(frame, time.monotonic_ns() + timeout_ns)

    def stop(self, number: int, unbegun: bool) -> None:
        """For the main thread: ends the invocation, or takes it back where it has not begun."""
        if not unbegun:
            self.runner.stop(number)
        elif self.ahead.withdraw(number):
            self.channel.send(Kind.SKIPPED, SKIPPED.pack(number))

    def invoke(self, frame: Frame, begun_until_ns: int = 0) -> None:
        """`begun_until_ns`: its deadline, where the frame does not tell it."""
        number, handle, head_bytes, body_bytes, deadline_ns = INVOKE_HEAD.unpack_from(frame.payload)
        if begun_until_ns:
            deadline_ns = begun_until_ns
        start = INVOKE_HEAD.size
        head = frame.payload[start : start + head_bytes]
        try:
            function, prepared = self.modules.function(handle)
        except InvalidFrame as error:
            frame.close_fds()
            self.fail(number, str(error))
            return
        probe = frame.kind == Kind.PROBE
        try:
            if frame.fds:
                request_id = frame.payload[start + head_bytes :]
                with Segment(frame.fds[0], writable=False) as segment, segment.view[:body_bytes] as body:
                    ended = self.run(number, function, prepared, deadline_ns, head, body, request_id, probe=probe)
            elif frame.kind == Kind.LAID:
                if self.body is None or body_bytes > self.body.size_bytes:
                    raise InvalidFrame("a body that lies nowhere")
                request_id = frame.payload[start + head_bytes :]
                with self.body.view[:body_bytes] as body:
                    ended = self.run(number, function, prepared, deadline_ns, head, body, request_id, probe=probe)
            else:
                end = start + head_bytes + body_bytes
                inline, request_id = frame.payload[start + head_bytes : end], frame.payload[end:]
                ended = self.run(number, function, prepared, deadline_ns, head, inline, request_id, probe=probe)
        except MissingExport as error:
            self.fail(number, str(error))
            return
        self.give_back_tensors(ended[0].receipt.tensor_bytes)
        self.send_result(number, *ended)

    def run(
        self,
        number: int,
        function: FunctionLink,
        prepared: int,
        deadline_ns: int,
        head: bytes,
        body: bytes | memoryview,
        request_id: bytes,
        *,
        probe: bool,
    ) -> tuple[Ending, int]:
        return self.runner.run(
            number=number,
            function=function,
            prepared=prepared,
            deadline_ns=deadline_ns,
            head=head,
            body=body,
            line=self.line,
            own_line=self.own_line,
            answer=self.answer.view,
            probe=probe,
            files=self.modules.files(function.handle),
            request_id=request_id,
            outbound=self.outbound,
            habit=self.modules.habit(function.handle),
        )

    def give_back_tensors(self, used_bytes: int) -> None:
        """In the time of whoever used them. The router sees to it that the next tenant finds none in any case, which
        stops everybody for as long as there is much to give back."""
        if used_bytes > MANY_TENSOR_BYTES:
            for line in (self.line, self.own_line):
                if line is not None:
                    line.give_back()

    def send_result(self, number: int, ending: Ending, in_segment: int) -> None:
        logs = ending.logs + ending.lines
        if in_segment == 0 and len(ending.response) + len(logs) > INLINE_BYTES:
            in_segment = len(ending.response)
            self.answer.view[:in_segment] = ending.response
            use_segment = True
        else:
            use_segment = in_segment > 0
        self.holds_answer = use_segment
        if use_segment:
            self.answer.view[in_segment : in_segment + len(logs)] = logs
        self.channel.send(Kind.RESULT, encode_result(number, ending, in_segment if use_segment else None))

    def fail(self, number: int, reason: str) -> None:
        self.channel.send(Kind.FAILED, FAILED_HEAD.pack(number) + reason.encode()[:MAX_DETAIL_BYTES])

    def close(self) -> None:
        for line in (self.line, self.own_line):
            if line is not None:
                line.close()
        self.modules.close()
        self.runner.close()


def main() -> None:
    channel, options = enter()
    fingerprint = configuration_fingerprint()  # reads the library's version, which no file tells past the walls
    over_fd = os.eventfd(0, os.EFD_CLOEXEC)
    pagemap_fd = open_pagemap()
    report = raise_walls(ChildKind.SANDBOX)
    outbound = OutboundLine(channel, Segment(options["outbound_fd"])) if "outbound_fd" in options else None
    body = Segment(options["body_fd"]) if "body_fd" in options else None
    poll = BusyPoll(channel.fileno()) if options.get("busy_poll") else None
    sandbox = Sandbox(channel, Segment(options["answer_fd"]), outbound, body, pagemap_fd, poll)
    ready: dict[str, object] = {"fingerprint": fingerprint, "walls": encode_report(report)}
    # Nothing made so far is garbage, and a collection in the middle of a guest would only scan it again.
    gc.collect()
    gc.freeze()
    stop_fd = options.get("stop_fd", -1)
    Shifts(lambda: sandbox.shift(ready), sandbox.stop, stop_fd=stop_fd, over_fd=over_fd).run()


if __name__ == "__main__":
    main()

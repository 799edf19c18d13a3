"""A real sandbox process, started as production does (`scheduling.children`) and driven by frames."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sandbox.guests import ANSWER_BYTES, SECOND_NS, compiled, link, to_wasm
from wisp.wire.channel import Channel, Frame, socket_pair
from wisp.wire.confinement import Limits, child_arguments
from wisp.wire.invocations import INLINE_BYTES, INVOKE_HEAD, LAID_BYTES, FunctionLink, Kind, decode_result
from wisp.wire.outcome import Ending
from wisp.wire.segments import Segment, create_fixed, create_frozen

PATIENCE_S = 20.0
DATA_BYTES = 1 << 30
# The interpreter of a development machine may lie where only its owner can read: it is loaded first, and the identity
# changed then, which a start as that user would not need PR_SET_DUMPABLE (4) after.
AS_USER = """
import ctypes, os
import wisp.sandbox.main

os.setgroups([])
os.setresgid({user}, {user}, {user})
os.setresuid({user}, {user}, {user})
assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0
wisp.sandbox.main.main()
"""


class SandboxChild:
    """Owns the process, its channel and the answer segment. `user`: run it as that number instead of this process's."""

    def __init__(self, cwd: Path, *, user: int | None = None, answer_bytes: int = ANSWER_BYTES) -> None:
        self.answer = Segment.create("answer", answer_bytes)
        self.body = Segment.create("body", LAID_BYTES)
        ours, theirs = socket_pair()
        program = ["-m", "wisp.sandbox.main"] if user is None else ["-c", AS_USER.format(user=user)]
        with theirs:
            fds = {"answer_fd": self.answer.fd, "body_fd": self.body.fd}
            arguments = child_arguments(Limits(data_bytes=DATA_BYTES), theirs.fileno(), **fds, busy_poll=1)
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-B", *program, *arguments],
                pass_fds=(theirs.fileno(), *fds.values()),
                env={},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        ours.settimeout(PATIENCE_S)
        self.channel = Channel(ours)
        self.number = 0
        self.stderr = b""
        self._handles: dict[FunctionLink, int] = {}
        self._digests: dict[bytes, str] = {}
        self.ready: dict[str, Any] = json.loads(self.expect(Kind.READY).payload)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def modules(self) -> int:
        """How many it has been sent; each keeps one descriptor open."""
        return len(self._digests)

    def expect(self, kind: Kind) -> Frame:
        frame = self.channel.receive()
        assert frame is not None, (self.finish(), self.stderr)
        assert frame.kind == kind, (Kind(frame.kind), frame.payload[:200])
        return frame

    def load(self, code: bytes, digest: str) -> None:
        fd = create_frozen("code", [code])
        self.channel.send(Kind.MODULE, digest.encode(), (fd,))
        os.close(fd)

    def link(self, guest: str | bytes | Path, **grants: Any) -> FunctionLink:
        """Brings the module and the link if the child does not have them yet."""
        wasm = to_wasm(guest)
        if wasm not in self._digests:
            self._digests[wasm] = f"sha256:{len(self._digests)}"
            self.load(compiled(wasm), self._digests[wasm])
        function = link(module=self._digests[wasm], handle=0, **grants)
        if function not in self._handles:
            self._handles[function] = len(self._handles) + 1
            function = link(module=self._digests[wasm], handle=self._handles[function], **grants)
            self.channel.send(Kind.LINK, function.encode())
            return function
        return link(module=self._digests[wasm], handle=self._handles[function], **grants)

    def attach(self, socket_fd: int, segment_fd: int) -> None:
        self.channel.send(Kind.ATTACH, b"{}", (socket_fd, segment_fd))

    def send(
        self,
        function: FunctionLink,
        body: bytes = b"",
        *,
        head: bytes = b"",
        timeout_s: float = PATIENCE_S,
        kind: Kind = Kind.INVOKE,
        number: int | None = None,
        body_fd: int | None = None,
    ) -> int:
        """Starts an invocation; its number. A body too large for a frame goes by a frozen segment, and by its own where
        `kind` is LAID."""
        if number is None:
            self.number += 1
            number = self.number
        deadline_ns = time.monotonic_ns() + int(timeout_s * SECOND_NS)
        payload = INVOKE_HEAD.pack(number, function.handle, len(head), len(body), deadline_ns) + head
        if kind is Kind.LAID:
            self.body.view[: len(body)] = body
            self.channel.send(kind, payload)
        elif body_fd is None and len(head) + len(body) <= INLINE_BYTES:
            self.channel.send(kind, payload + body)
        else:
            fd = create_frozen("body", [body]) if body_fd is None else body_fd
            self.channel.send(kind, payload, (fd,))
            os.close(fd)
        return number

    def result(self, number: int) -> Ending:
        answered, ending = decode_result(self.expect(Kind.RESULT).payload, self.answer.view)
        assert answered == number
        return ending

    def run(
        self, guest: str | bytes | Path, body: bytes = b"", *, timeout_s: float = PATIENCE_S, **grants: Any
    ) -> Ending:
        return self.result(self.send(self.link(guest, **grants), body, timeout_s=timeout_s))

    def ended(self) -> int:
        """Waits until the process has ended by itself; its exit status."""
        assert self.channel.receive() is None
        return self.finish()

    def finish(self) -> int:
        """Ends it by the end of its channel, and keeps what it printed; its exit status."""
        self.channel.close()
        try:
            _, printed = self.process.communicate(timeout=PATIENCE_S)
        finally:
            self.process.kill()
        self.stderr += printed
        self.answer.close()
        self.body.close()
        return self.process.returncode


def unsealed_segment(content: bytes) -> int:
    fd = os.memfd_create("unsealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    return fd


def fixed_segment(content: bytes) -> int:
    """Cannot be resized, can be written."""
    fd = create_fixed("fixed", len(content))
    os.pwrite(fd, content, 0)
    return fd

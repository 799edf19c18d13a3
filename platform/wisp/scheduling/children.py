"""Child processes: started with nothing, watched, and ended without waiting for their consent.

A child gets one socket, an empty environment and an empty working directory; it confines itself before it reads its
first frame (`wire.confinement`). Children must be started from the thread that runs the event loop: their parent-death
signal follows that thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from wisp.errors import ChildLost, InvalidFrame
from wisp.scheduling.slices import make_less_urgent, set_short_slice
from wisp.wire.channel import MAX_FRAME_BYTES, Channel, Frame, socket_pair
from wisp.wire.confinement import Limits, child_arguments

log = logging.getLogger(__name__)

SEND_BUFFER_BYTES = 256 * 1024
ROOM = bytearray(MAX_FRAME_BYTES)
"""For the frame that is being received: there is one at a time."""
REAP_S = 5.0
"""How long a killed child may take to disappear before it is reported."""


class Child:
    """One process and the router's end of its socket. Frames arrive by `on_frame`, its end by `on_end`, once."""

    def __init__(
        self,
        module: str,
        *,
        limits: Limits,
        empty_directory: Path,
        on_frame: Callable[[Frame], None],
        on_end: Callable[[str], None],
        fds: dict[str, int] | None = None,
        options: dict[str, int] | None = None,
        niceness: int = 0,
    ) -> None:
        """`fds` are handed to the child under these option names, beside plain `options`. `niceness`: so much less
        urgent than the router from its first moment on, since starting costs more than much of what is asked of it."""
        self.module = module
        self._on_frame = on_frame
        self._on_end = on_end
        self._ended = False
        self._gone: asyncio.Task[int] | None = None
        ours, theirs = socket_pair()
        handed = dict(fds or {})
        try:
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            arguments = child_arguments(limits, theirs.fileno(), **handed, **(options or {}))
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-m", module, *arguments],
                pass_fds=(theirs.fileno(), *handed.values()),
                env={},
                cwd=empty_directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,  # the terminal's Ctrl-C is the router's to hear
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        set_short_slice(self._process.pid)
        if niceness:
            make_less_urgent(self._process.pid, os.getpriority(os.PRIO_PROCESS, 0) + niceness)
        self._channel = Channel(ours)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(ours.fileno(), self._receive_one)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._ended

    def send(self, kind: int, payload: bytes | memoryview = b"", fds: tuple[int, ...] = ()) -> None:
        """Raises `ChildLost`. A child that does not read is as good as dead: a full buffer ends it."""
        if self._ended:
            raise ChildLost(f"{self.module} is gone")
        try:
            self._channel.send(kind, payload, fds)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChildLost(f"{self.module} is gone") from error  # once what it has said is read, its end is
        except OSError as error:
            self._end(f"it takes no frames ({error})")
            raise ChildLost(f"{self.module} is gone") from error

    def receive(self) -> None:
        """Handles what has arrived, as the event loop does by itself, but now."""
        while self._receive_one():
            pass

    def _receive_one(self) -> bool:
        """Whether there may be more. The event loop calls again while there is: most children send one at a time."""
        if self._ended:
            return False
        try:
            frame = self._channel.receive_bare(ROOM)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            # It died with frames that it had not read; what it has said comes next, then its end. libuv watches a
            # socket no longer once it has told of an error there.
            self._loop.call_soon(self.receive)
            return True
        except (OSError, InvalidFrame) as error:
            self._end(str(error))
            return False
        if frame is None:
            self._end("it closed its socket")
            return False
        try:
            self._on_frame(frame)
        except (InvalidFrame, ValueError, KeyError, TypeError, struct.error) as error:
            self._end(f"it broke the protocol: {error}")
        return not self._ended

    def _end(self, reason: str) -> None:
        if self._ended:
            return
        self._ended = True
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._gone = self._loop.create_task(self._wait_until_gone())
        self._on_end(reason)

    def kill(self, reason: str) -> None:
        """SIGKILL; `on_end` is called before this returns."""
        self._end(reason)

    async def _wait_until_gone(self) -> int:
        async with asyncio.timeout(REAP_S):
            while (code := self._process.poll()) is None:  # noqa: ASYNC110 - no event tells of a process's end
                await asyncio.sleep(0.005)
        if code == -signal.SIGSYS:
            log.error(
                "%s, process %d, made a system call that no child needs, and was ended for it", self.module, self.pid
            )
        return code

    async def reaped(self) -> int:
        """Waits until the killed process is gone; its return code. Raises `ChildLost` if the kernel keeps it."""
        assert self._gone is not None
        try:
            return await asyncio.shield(self._gone)
        except TimeoutError as error:
            raise ChildLost(f"process {self.pid} does not end after SIGKILL") from error


def make_empty_directory(parent: Path) -> Path:
    """A directory that children work in and cannot write to."""
    path = parent / "empty"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    leftover = next(path.iterdir(), None)
    if leftover is not None:
        raise FileExistsError(f"{leftover} lies in a directory that must stay empty")
    path.chmod(0o500)
    return path

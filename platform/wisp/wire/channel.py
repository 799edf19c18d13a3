"""One end of a SEQPACKET socket pair between two processes: whole frames, with descriptors beside them.

A frame is a kind (u8) and a payload, 64 KiB at most; anything larger travels in a segment. A truncated frame, a frame
with more descriptors than announced, or end of file all end the channel: there is no resynchronising with a peer that
broke the protocol. End of file and an empty packet look alike on SEQPACKET, which is why a frame is never empty.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from typing import NamedTuple

from wisp.errors import InvalidFrame

MAX_FRAME_BYTES = 64 * 1024
MAX_DESCRIPTORS = 4
ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
JOINED_BYTES = 4096
"""A payload that is copied behind its kind sooner than both are told to the kernel apart."""
TRUNCATED = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
CLOSE_ON_EXEC, NO_SIGNAL = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_NOSIGNAL)


class Frame(NamedTuple):
    """`fds` belong to whoever receives the frame."""

    kind: int
    payload: bytes
    fds: tuple[int, ...] = ()

    def close_fds(self) -> None:
        for fd in self.fds:
            os.close(fd)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel:
    """Blocking in the children, non-blocking under the router's event loop; the socket's own setting decides."""

    __slots__ = ("_room", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._room: memoryview | None = None

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, kind: int, payload: bytes | bytearray | memoryview = b"", fds: tuple[int, ...] = ()) -> None:
        """Raises `OSError` when the peer is gone, `BlockingIOError` when its buffer is full (non-blocking only)."""
        size = len(payload)
        if size >= MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {size + 1} bytes, at most {MAX_FRAME_BYTES}")
        if size < JOINED_BYTES and not fds:
            self.sock.send(bytes((kind,)) + payload, NO_SIGNAL)
            return
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else ()
        self.sock.sendmsg((bytes((kind,)), payload), rights, NO_SIGNAL)

    def receive(self) -> Frame | None:
        """The next frame, or None at end of file. Raises `InvalidFrame` if truncated, `BlockingIOError` if none."""
        room = self._room
        if room is None:
            room = self._room = memoryview(bytearray(MAX_FRAME_BYTES))
        length, ancillary, flags, _ = self.sock.recvmsg_into((room,), ANCILLARY_BYTES, CLOSE_ON_EXEC)
        fds: tuple[int, ...] = ()
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
                fds += tuple(received)
        if flags & TRUNCATED:
            for fd in fds:
                os.close(fd)
            raise InvalidFrame("a truncated frame")
        if not length:
            for fd in fds:
                os.close(fd)
            return None
        return Frame(room[0], room[1:length].tobytes(), fds)

    def receive_bare(self, room: bytearray) -> Frame | None:
        """As `receive`, from a peer that has no descriptors to send: the kernel closes those that come. `room`: of a
        whole frame, overwritten each time."""
        length = self.sock.recv_into(room, 0, socket.MSG_TRUNC)  # how long it was, whatever there is room for
        if length > len(room):
            raise InvalidFrame("a truncated frame")
        return Frame(room[0], bytes(room[1:length])) if length else None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()

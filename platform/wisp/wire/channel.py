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
TRUNCATED = socket.MSG_TRUNC | socket.MSG_CTRUNC


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

    __slots__ = ("sock",)

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, kind: int, payload: bytes | bytearray | memoryview = b"", fds: tuple[int, ...] = ()) -> None:
        """Raises `OSError` when the peer is gone, `BlockingIOError` when its buffer is full (non-blocking only)."""
        if len(payload) >= MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {len(payload) + 1} bytes, at most {MAX_FRAME_BYTES}")
        parts = (bytes((kind,)), payload)
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            self.sock.sendmsg(parts, rights, socket.MSG_NOSIGNAL)
        else:
            self.sock.sendmsg(parts, (), socket.MSG_NOSIGNAL)

    def receive(self) -> Frame | None:
        """The next frame, or None at end of file. Raises `InvalidFrame` if truncated, `BlockingIOError` if none."""
        data, ancillary, flags, _ = self.sock.recvmsg(MAX_FRAME_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
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
        if not data:
            for fd in fds:
                os.close(fd)
            return None
        return Frame(data[0], data[1:], fds)

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

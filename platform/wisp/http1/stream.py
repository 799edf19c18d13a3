"""One connection's bytes: what has come, taken piece by piece in its address's turns; and what is written.

A piece is what one read brought. Some may lie here that nobody has asked for yet; beyond that nothing more is read. Who
has asked and is on its way is left more, while all callers' room for that lasts: a picture comes in one go, and to stop
reading in the midst of it and to begin again costs more than to take it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, cast

from wisp.connections import SMALL_BYTES, Callers, slowest_s

AHEAD_BYTES: Final = 64 * 1024
"""Of what has come before it was asked for; the read that reaches this is the last."""
BURST_BYTES: Final = 1024 * 1024
"""The most that may lie here for who is on its way."""
SLICE_BYTES: Final = 256 * 1024


class Stream(asyncio.Protocol):
    """Counted among the callers' connections from `connection_made`, which aborts one too many, to its end."""

    def __init__(self, callers: Callers) -> None:
        self.callers = callers
        self.address = ""
        self.ended = False
        """The caller has closed its side, or the connection is gone."""
        self.rest = b""
        """Of the piece that was taken last, what is not used yet."""
        self.transport: asyncio.Transport
        self.lost: asyncio.Future[None]
        """Done when the connection is gone."""
        self._pieces: deque[bytes] = deque()
        self.lying_bytes = 0
        """What has come and nobody has taken."""
        self._bursts = False
        """`BURST_BYTES` are taken from the callers' room."""
        self._along = False
        """A small piece behind the last one needs no turn of its own."""
        self._paused = False
        self._queued = False
        self._entered = False
        self._asking: asyncio.Future[None] | None = None
        self._leaving: set[asyncio.Future[None]] = set()
        self._writable = asyncio.Event()
        self._writable.set()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self.lost = self._loop.create_future()
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        self._entered = self.callers.connections.enter(self.address)
        if not self._entered:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        self.lying_bytes += len(data)
        if self._asking is not None and not (self._queued or self._asking.done()):
            if self.callers.turns.free():
                self._wake()
            else:
                self._queued = True
                self.callers.turns.queue(self.address, self._wake)
        elif self.lying_bytes >= AHEAD_BYTES and not self._paused and not self._may_burst():
            self._paused = True
            self.transport.pause_reading()

    def _may_burst(self) -> bool:
        if self._asking is None or self.lying_bytes >= BURST_BYTES:
            return False
        if not self._bursts and self.callers.burst_room_bytes >= BURST_BYTES:
            self.callers.burst_room_bytes -= BURST_BYTES
            self._bursts = True
        return self._bursts

    def _end_burst(self) -> None:
        if self._bursts:
            self.callers.burst_room_bytes += BURST_BYTES
            self._bursts = False

    def eof_received(self) -> bool:
        """Who has said everything may still be answered; TLS has no such half."""
        self._end()
        return self.transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self._pieces.clear()
        self._end_burst()
        self._end()
        self.resume_writing()
        if self._entered:
            self._entered = False
            self.callers.connections.leave(self.address)
        if not self.lost.done():
            self.lost.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _end(self) -> None:
        self.ended = True
        self._wake()
        for leaving in self._leaving:
            if not leaving.done():
                leaving.set_result(None)

    def _wake(self) -> bool:
        self._queued = False
        if self._asking is None or self._asking.done() or not (self._pieces or self.ended):
            return False
        self._asking.set_result(None)
        return True

    # What the connection asks for

    async def take(self) -> bytes:
        """The next piece, in a turn of its own but for a small one behind another; nothing at the end."""
        along, self._along = self._along, True
        if self._pieces:
            if along and len(self._pieces[0]) <= SMALL_BYTES:
                self._along = False
            else:
                await self.turn()
        elif not self.ended:
            if self._paused:
                self._resume()
            self._asking = self._loop.create_future()
            try:
                await self._asking
            finally:
                self._asking = None
        if not self._pieces:
            return b""
        piece = self._pieces.popleft()
        self.lying_bytes -= len(piece)
        if self.lying_bytes < AHEAD_BYTES:
            self._end_burst()
            if self._paused:
                self._resume()
        return piece

    def _resume(self) -> None:
        self._paused = False
        if not self.transport.is_closing():
            self.transport.resume_reading()

    async def turn(self) -> None:
        await self.callers.turns.take(self.address)

    async def left(self) -> None:
        """Returns when the caller has closed. What it sends meanwhile stays for afterwards, up to the bound."""
        if not self.ended:
            leaving = self._loop.create_future()
            self._leaving.add(leaving)
            try:
                await leaving
            finally:
                self._leaving.discard(leaving)

    async def write(self, parts: Sequence[bytes]) -> None:
        """Waits for the caller where much is waiting for it, and gives it up if it is too slow. To who has gone nothing
        is written."""
        transport = self.transport
        if transport.is_closing():
            return
        size = sum(map(len, parts))
        if size > SLICE_BYTES:
            await self._write_in_slices(parts, size)
            return
        if len(parts) == 1:
            transport.write(parts[0])
        elif size <= SMALL_BYTES:
            transport.write(b"".join(parts))
        else:
            transport.writelines(parts)
        if not self._writable.is_set():
            try:
                async with asyncio.timeout(slowest_s(transport.get_write_buffer_size())):
                    await self._writable.wait()
            except TimeoutError:
                transport.abort()

    async def _write_in_slices(self, parts: Sequence[bytes], size: int) -> None:
        """Between two of which everybody else is served: the kernel takes many megabytes in one go, if it is let."""
        transport = self.transport
        try:
            async with asyncio.timeout(slowest_s(size)):
                for part in parts:
                    view = memoryview(part)
                    while view and not transport.is_closing():
                        transport.write(view[:SLICE_BYTES])
                        view = view[SLICE_BYTES:]
                        if self._writable.is_set():
                            await asyncio.sleep(0)
                        else:
                            await self._writable.wait()
        except TimeoutError:
            transport.abort()

    async def discard(self, most_bytes: int, most_s: float) -> None:
        """Takes in, and throws away, what still comes."""
        left = most_bytes
        try:
            async with asyncio.timeout(most_s):
                while left > 0 and (piece := await self.take()):
                    left -= len(piece)
        except TimeoutError:
            pass

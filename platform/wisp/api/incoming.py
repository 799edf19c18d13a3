"""The receiving side of a request under `/t/`: its body under a deadline, and its caller's going away."""

from __future__ import annotations

import asyncio
import mmap
from typing import Final

from starlette.types import Receive

from wisp.api.bodies import ClientGone
from wisp.errors import RequestTimeout
from wisp.scheduling.bodies import RequestBody

LINGER_S: Final = 2.0
LINGER_BYTES: Final = 4 * 1024 * 1024
"""What is read, and thrown away, of a body that was refused: a connection reset would lose the refusal."""


class Incoming:
    """The receiving side of one request."""

    __slots__ = ("_receive", "ended")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def read_into(self, body: RequestBody, timeout_s: float) -> None:
        """Raises what the body raises, `RequestTimeout` and `ClientGone`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.ended:
                    chunk = await self._next()
                    if chunk:
                        body.append(chunk)
        except TimeoutError:
            raise RequestTimeout(f"the body did not arrive within {timeout_s:g} s") from None

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] != "http.request":
            self.ended = True
            raise ClientGone
        self.ended = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    async def gone(self) -> None:
        """Returns when the connection is closed."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def linger(self) -> None:
        """Takes in a little of a body that nobody wants, so that the caller can finish and read why."""
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_S):
                while not self.ended and left > 0:
                    left -= len(await self._next())
        except (TimeoutError, ClientGone):
            self.ended = True


def content(body: RequestBody) -> memoryview:
    """Mapped if it lies in a segment; the mapping goes with the last view of it."""
    segment = body.segment()
    if not segment:
        return memoryview(body.inline())
    return memoryview(mmap.mmap(segment[0], body.size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))

"""A short-lived child that is asked a few questions and then ended: compilation, admission of a model.

Whatever it does not answer within its wall time, or dies over, becomes a refusal of the upload that it was started for.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

from wisp.errors import ChildLost, InvalidFrame
from wisp.scheduling.children import Child
from wisp.scheduling.walls import WallWatch
from wisp.wire.channel import Frame
from wisp.wire.confinement import Limits
from wisp.wire.walls import ChildKind

MAX_PENDING = 4
NICENESS = 10
"""Compiling and judging yield to requests that are being answered: a tenth of a core that they want whole. With less,
an upload would outlast its wall time on a machine that is merely busy."""


class ChildSilent(ChildLost):
    """It died, was ended by its limits, or let its wall time pass."""


class Conversation:
    """Used with `async with`; the child is gone when the block ends."""

    def __init__(
        self,
        module: str,
        *,
        kind: ChildKind,
        ready: int,
        limits: Limits,
        wall_s: float,
        empty_directory: Path,
        walls: WallWatch,
    ) -> None:
        """`ready`: the kind of the child's first frame, which reports its walls."""
        self._kind = kind
        self._ready_kind = ready
        self._walls = walls
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wall_s = wall_s
        self._frames: asyncio.Queue[Frame | None] = asyncio.Queue(MAX_PENDING)
        self._reason = ""
        self._child = Child(
            module,
            limits=limits,
            empty_directory=empty_directory,
            on_frame=self._take,
            on_end=self._note_end,
            niceness=NICENESS,
        )
        self._until = asyncio.get_running_loop().time() + wall_s

    def _take(self, frame: Frame) -> None:
        if not self._ready.done():
            if frame.kind != self._ready_kind:
                raise InvalidFrame(f"frame kind {frame.kind} before it is ready")
            self._walls.note(self._kind, frame.payload)
            self._ready.set_result(None)
            return
        if self._frames.qsize() >= MAX_PENDING - 1:
            self._child.kill("it sends more than it was asked")
            return
        self._frames.put_nowait(frame)

    def _note_end(self, reason: str) -> None:
        self._reason = reason
        if not self._ready.done():
            self._ready.cancel()
        self._frames.put_nowait(None)

    async def ready(self) -> None:
        """Waits for the child's report of its walls. Raises `ChildSilent`."""
        try:
            async with asyncio.timeout_at(self._until):
                await asyncio.wait([self._ready])
        except TimeoutError as error:
            raise ChildSilent(f"it took longer than {self._wall_s:g} s to start") from error
        if self._ready.cancelled():
            raise ChildSilent(f"it does not start ({self._reason})")

    async def ask(self, kind: int, payload: bytes = b"", fds: tuple[int, ...] = ()) -> Frame:
        """Sends one frame and waits for the next one from the child. Raises `ChildSilent`."""
        try:
            self._child.send(kind, payload, fds)
            async with asyncio.timeout_at(self._until):
                frame = await self._frames.get()
        except TimeoutError as error:
            raise ChildSilent(f"it took longer than {self._wall_s:g} s") from error
        except ChildSilent:
            raise
        except ChildLost as error:
            raise ChildSilent(self._reason or "it ended") from error
        if frame is None:
            raise ChildSilent("it was ended by its limits on CPU time or memory, or crashed")
        return frame

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill("its work is done")
        await self._child.reaped()

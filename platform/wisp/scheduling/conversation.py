"""A short-lived child that is asked a few questions and then ended: compilation, admission of a model.

Whatever it does not answer within its wall time, or dies over, becomes a refusal of the upload that it was started for.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

from wisp.errors import ChildLost
from wisp.scheduling.children import Child
from wisp.wire.channel import Frame
from wisp.wire.confinement import Limits

MAX_PENDING = 4


class ChildSilent(ChildLost):
    """It died, was ended by its limits, or let its wall time pass."""


class Conversation:
    """Used with `async with`; the child is gone when the block ends."""

    def __init__(self, module: str, *, limits: Limits, wall_s: float, empty_directory: Path) -> None:
        self._wall_s = wall_s
        self._frames: asyncio.Queue[Frame | None] = asyncio.Queue(MAX_PENDING)
        self._reason = ""
        self._child = Child(
            module,
            limits=limits,
            empty_directory=empty_directory,
            on_frame=self._take,
            on_end=self._note_end,
        )
        self._until = asyncio.get_running_loop().time() + wall_s

    def _take(self, frame: Frame) -> None:
        if self._frames.qsize() >= MAX_PENDING - 1:
            self._child.kill("it sends more than it was asked")
            return
        self._frames.put_nowait(frame)

    def _note_end(self, reason: str) -> None:
        self._reason = reason
        self._frames.put_nowait(None)

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

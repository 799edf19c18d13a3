"""Admission of uploaded models, each in a limited child: a stranger's ONNX file is native-code input."""

from __future__ import annotations

import asyncio
from pathlib import Path

from wisp.errors import Fault, InvalidFrame, InvalidModel
from wisp.scheduling.conversation import ChildSilent, Conversation
from wisp.scheduling.walls import WallWatch
from wisp.wire.admissions import Kind, ModelFacts, Refusal, Terms, decode_verdict
from wisp.wire.confinement import Limits
from wisp.wire.walls import ChildKind

CPU_S = 20
WALL_S = 60.0
ADDRESS_SPACE_BYTES = 3 * 1024 * 1024 * 1024
"""onnxruntime alone maps more than one GiB; the arena's own cap bounds what a model may take of it."""


def refusal(reason: str) -> InvalidModel:
    return InvalidModel(f"the model was refused: {reason}", (Fault(field="model", message=reason),))


class Admissions:
    """At most `concurrent` at a time; the others wait."""

    def __init__(self, *, empty_directory: Path, concurrent: int = 1, walls: WallWatch | None = None) -> None:
        self._empty_directory = empty_directory
        self._walls = WallWatch() if walls is None else walls
        self._free = asyncio.Semaphore(concurrent)

    async def judge(self, model_fd: int, terms: Terms) -> ModelFacts:
        """What the model takes and gives. Raises `InvalidModel` with the reason."""
        async with self._free, self._converse() as child:
            try:
                frame = await child.ask(Kind.JUDGE, terms.encode(), (model_fd,))
            except ChildSilent as error:
                raise refusal(f"it could not be loaded within the limits: {error.message}") from error
        if frame.kind != Kind.VERDICT:
            raise InvalidFrame(f"an admission child answered with frame {frame.kind}")
        verdict = decode_verdict(frame.payload)
        if isinstance(verdict, Refusal):
            raise refusal(verdict.reason)
        return verdict

    def _converse(self) -> Conversation:
        return Conversation(
            "wisp.inference.admission",
            kind=ChildKind.ADMISSION,
            ready=Kind.READY,
            limits=Limits(address_space_bytes=ADDRESS_SPACE_BYTES, cpu_s=CPU_S, open_files=64),
            wall_s=WALL_S,
            empty_directory=self._empty_directory,
            walls=self._walls,
        )

    async def probe(self) -> None:
        """Starts a child and ends it, so that its walls are known. Raises `ChildLost` if it does not start."""
        async with self._converse() as child:
            await child.ready()

"""Admission of uploaded models, each in a limited child: a stranger's ONNX file is native-code input."""

from __future__ import annotations

import os
from pathlib import Path

from wisp.errors import Fault, InvalidFrame, InvalidModel
from wisp.scheduling.conversation import ChildSilent, Conversation
from wisp.scheduling.uploads import UploadTurns
from wisp.scheduling.walls import WallWatch
from wisp.wire.admissions import Kind, ModelFacts, Refusal, Terms, decode_verdict
from wisp.wire.confinement import Limits
from wisp.wire.walls import ChildKind

CPU_S = 20
WRITTEN_FACTOR = 4
"""Of a model's size, the most that preparing it may write: its weights twice, padded by the kernels."""
WALL_S = 60.0
ADDRESS_SPACE_BYTES = 3 * 1024 * 1024 * 1024
"""onnxruntime alone maps more than one GiB; the arena's own cap bounds what a model may take of it."""


def refusal(reason: str) -> InvalidModel:
    return InvalidModel(f"the model was refused: {reason}", (Fault(field="model", message=reason),))


class Admissions:
    """As many at a time as `turns` allows; the others wait."""

    def __init__(
        self, *, empty_directory: Path, turns: UploadTurns | None = None, walls: WallWatch | None = None
    ) -> None:
        self._empty_directory = empty_directory
        self._walls = WallWatch() if walls is None else walls
        self._turns = UploadTurns() if turns is None else turns

    async def judge(
        self, model_fd: int, terms: Terms, prepared: tuple[int, int] | None = None, *, on_behalf_of: str = ""
    ) -> ModelFacts:
        """What the model takes and gives, and how it did when it was tried out. `prepared`: two empty memory files, for
        the optimised model and its weights; the child is gone when this returns. `on_behalf_of`:
        a tenant, or the digest of a model that requests wait for. Raises `InvalidModel` with the reason."""
        file_bytes = 0 if prepared is None else WRITTEN_FACTOR * os.fstat(model_fd).st_size
        async with self._turns.take(on_behalf_of), self._converse(file_bytes) as child:
            try:
                frame = await child.ask(Kind.JUDGE, terms.encode(), (model_fd, *(prepared or ())))
            except ChildSilent as error:
                raise refusal(f"it could not be loaded within the limits: {error.message}") from error
        if frame.kind != Kind.VERDICT:
            raise InvalidFrame(f"an admission child answered with frame {frame.kind}")
        verdict = decode_verdict(frame.payload)
        if isinstance(verdict, Refusal):
            raise refusal(verdict.reason)
        return verdict

    def _converse(self, file_bytes: int = 0) -> Conversation:
        return Conversation(
            "wisp.inference.admission",
            kind=ChildKind.ADMISSION,
            ready=Kind.READY,
            limits=Limits(address_space_bytes=ADDRESS_SPACE_BYTES, cpu_s=CPU_S, file_bytes=file_bytes, open_files=64),
            wall_s=WALL_S,
            empty_directory=self._empty_directory,
            walls=self._walls,
        )

    async def probe(self) -> None:
        """Starts a child and ends it, so that its walls are known. Raises `ChildLost` if it does not start."""
        async with self._converse() as child:
            await child.ready()

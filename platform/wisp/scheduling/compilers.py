"""Compilation of uploaded modules, each in a limited child: first the facts, then, if they were admitted, the code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from wisp.errors import Fault, InvalidFrame, InvalidModule
from wisp.scheduling.conversation import ChildSilent, Conversation
from wisp.scheduling.uploads import UploadTurns
from wisp.scheduling.walls import WallWatch
from wisp.wire.channel import Frame
from wisp.wire.compilations import LENGTH, MAX_FACTS_BYTES, Kind
from wisp.wire.confinement import Limits
from wisp.wire.segments import Segment
from wisp.wire.walls import ChildKind

OUTPUT_BYTES = 256 * 1024 * 1024
"""Of address space, not memory: the most that compiled code may take."""
WALL_FACTOR = 3
"""Wall time per allowed second of CPU, on a machine that is busy with requests."""
WALL_EXTRA_S = 5.0
PROBE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileLimits:
    """The operator's: `cpu_s` whole seconds, `memory_bytes` of address space, `module_bytes` of source."""

    cpu_s: int
    memory_bytes: int
    module_bytes: int


class Compilation:
    """One module in one child."""

    def __init__(self, child: Conversation, output: Segment) -> None:
        self._child = child
        self._output = output

    async def facts(self, module_fd: int, limits: CompileLimits) -> bytes:
        """JSON from a process that is not trusted. Raises `InvalidModule`."""
        payload = LENGTH.pack(limits.module_bytes)
        frame = await self._ask(Kind.READ, payload, (module_fd, self._output.fd))
        return self._take(frame, Kind.FACTS, MAX_FACTS_BYTES)

    async def code(self) -> bytes:
        """Serialized native code. Raises `InvalidModule`."""
        return self._take(await self._ask(Kind.COMPILE), Kind.CODE, self._output.size_bytes)

    async def _ask(self, kind: int, payload: bytes = b"", fds: tuple[int, ...] = ()) -> Frame:
        try:
            return await self._child.ask(kind, payload, fds)
        except ChildSilent as error:
            message = f"the module could not be compiled within the operator's limits: {error.message}"
            raise InvalidModule(message, (Fault(field="module", message=message),)) from error

    def _take(self, frame: Frame, expected: Kind, most: int) -> bytes:
        if frame.kind == Kind.REFUSED:
            reason = "".join(c for c in frame.payload.decode("utf-8", "replace") if c.isprintable())
            raise InvalidModule(f"the module was refused: {reason}", (Fault(field="module", message=reason),))
        if frame.kind != expected or len(frame.payload) != LENGTH.size:
            raise InvalidFrame(f"a compile child answered with frame {frame.kind}")
        (length,) = LENGTH.unpack(frame.payload)
        if length > most:
            raise InvalidFrame(f"a compile child claims {length} bytes")
        return self._output.view[:length].tobytes()


class Compilers:
    """As many at a time as `turns` allows, so that uploads cannot take the machine; the others wait."""

    def __init__(
        self, *, empty_directory: Path, turns: UploadTurns | None = None, walls: WallWatch | None = None
    ) -> None:
        self._empty_directory = empty_directory
        self._walls = WallWatch() if walls is None else walls
        self._turns = UploadTurns() if turns is None else turns

    @asynccontextmanager
    async def start(self, limits: CompileLimits, on_behalf_of: str = "") -> AsyncIterator[Compilation]:
        """`on_behalf_of`: a tenant, or the digest of a module that requests wait for."""
        confinement = Limits(
            address_space_bytes=limits.memory_bytes, cpu_s=limits.cpu_s, file_bytes=OUTPUT_BYTES, open_files=32
        )
        wall_s = limits.cpu_s * WALL_FACTOR + WALL_EXTRA_S
        async with self._turns.take(on_behalf_of):
            with Segment.create("compiled", OUTPUT_BYTES) as output:
                async with self._converse(confinement, wall_s) as child:
                    yield Compilation(child, output)

    def _converse(self, limits: Limits, wall_s: float) -> Conversation:
        return Conversation(
            "wisp.sandbox.compiler",
            kind=ChildKind.COMPILER,
            ready=Kind.READY,
            limits=limits,
            wall_s=wall_s,
            empty_directory=self._empty_directory,
            walls=self._walls,
        )

    async def probe(self) -> None:
        """Starts a child and ends it, so that its walls are known. Raises `ChildLost` if it does not start."""
        async with self._converse(Limits(open_files=32), PROBE_S) as child:
            await child.ready()

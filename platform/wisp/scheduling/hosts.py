"""The inference host as the router keeps it: started, told what to load and whom to serve, replaced when it dies.

It is told of every invocation before the guest starts, and of its end; see `wire.inferences`. What a dead host had
loaded is loaded again by the next request that needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from wisp.errors import ChildLost, ModelLoading, WispError
from wisp.names import Digest
from wisp.scheduling.children import Child
from wisp.scheduling.residents import Lease, Resident, Residents
from wisp.scheduling.rooms import Room
from wisp.scheduling.walls import WallWatch
from wisp.wire.channel import Frame, socket_pair
from wisp.wire.confinement import Limits
from wisp.wire.inferences import CLOSE, HANDLE, MOST_THREADS, OPEN, SLOT, Binding, BoundModel, Kind
from wisp.wire.segments import create_fixed
from wisp.wire.walls import ChildKind

log = logging.getLogger(__name__)

TENSOR_BYTES = 64 * 1024 * 1024
"""Of one slot's segment, half for inputs and half for outputs. Pages cost nothing until touched."""
LOAD_WAIT_S = 5.0
"""How long a request waits for its model before it is told `model_loading`."""
READY_S = 30.0
MAX_WAITING = 64
"""Requests that wait for one model to be loaded; beyond it they are told so at once."""
MODEL_BYTES = 1 << 30
STEADY_S = 10.0
"""A host that lived as long is started again at once; one that keeps dying, after longer and longer waits."""
FIRST_DELAY_S, LAST_DELAY_S = 0.05, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    """What a host needs to open a model, as it stands in a LOAD frame: `fd`, a read-only descriptor of its bytes, which
    whoever asked closes; `prepared`, the name under which its optimised form appears in the host's room, or "";
    `batch`, how many rows may go into one run, or 0; `wide`: whether one run is worth several threads; `gpu`: on the
    GPU, or not at all."""

    fd: int
    batch: int = 0
    prepared: str = ""
    gpu: bool = False
    wide: bool = False

    def frame(self, digest: Digest) -> bytes:
        size_bytes = os.fstat(self.fd).st_size
        fields = {"digest": digest, "bytes": size_bytes, "batch": self.batch, "prepared": self.prepared}
        return json.dumps(fields | {"gpu": self.gpu, "wide": self.wide}).encode()


SHARED_PATIENCE_S: Final = 10.0
"""As `Bounds.patience_s`, of the hosts that all tenants share: everything that runs in one ends with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Of a host that runs what nobody vouches for. `data_bytes`: all its memory; `arena_bytes`: what all its running
    inferences use together; `patience_s`: how long an inference that nobody waits for may go on before the process is
    ended, because one kernel cannot be stopped."""

    data_bytes: int
    arena_bytes: int
    patience_s: float


OpenModel = Callable[[Digest, Room], Awaitable[OpenedModel]]
"""For the host whose room it is; the name shown there is hidden again once the host has opened the model."""


class InferenceHost:
    """One host process and its successors."""

    def __init__(
        self,
        *,
        empty_directory: Path,
        threads: int,
        cores: int = 1,
        batch_delay_s: float = 0.0,
        open_model: OpenModel,
        room: Room,
        memory_bytes: int = MODEL_BYTES,
        on_lost: Callable[[InferenceHost], None],
        walls: WallWatch | None = None,
        bounds: Bounds | None = None,
        gpu: bool = False,
    ) -> None:
        """`cores` that one run may have; `bounds`: for models that are not trusted. `gpu`: it looks for one, and goes
        without the walls that would forbid it."""
        self.providers: tuple[str, ...] = ()
        """Of onnxruntime, as the process reported them."""
        self._kind = ChildKind.GPU_INFERENCE if gpu else ChildKind.INFERENCE
        self._data_bytes = None if bounds is None else bounds.data_bytes
        self._ready_s = 0.0
        self._empty_directory = empty_directory
        self._walls = WallWatch() if walls is None else walls
        patience_s = SHARED_PATIENCE_S if bounds is None else bounds.patience_s
        self._options = {
            "threads": threads,
            "cores": min(cores, MOST_THREADS),
            "delay_ns": round(batch_delay_s * 1e9),
            "patience_ns": round(patience_s * 1e9),
        }
        if bounds is not None:
            self._options["arena_bytes"] = bounds.arena_bytes
        if gpu:
            self._options["gpu"] = 1
        self._open_model = open_model
        self._room = room
        self._shown: dict[Digest, str] = {}
        self._on_lost = on_lost
        self._child: Child | None = None
        self._ready = asyncio.Event()
        self._stopping = False
        self._loaded: set[Digest] = set()
        self._residents = Residents(memory_bytes)
        self._opening: dict[Digest, tuple[Resident, ...]] = {}
        self._freed = asyncio.Event()
        """Some memory for models may have come free."""
        self._loading: dict[Digest, asyncio.Future[str]] = {}
        self._waiting: Counter[Digest] = Counter()
        self._sending: set[asyncio.Task[None]] = set()
        self._bound: set[int] = set()
        self._delay_s = FIRST_DELAY_S
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and self._child.alive else None

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    async def start(self) -> None:
        """Raises `ChildLost` if it does not come up."""
        self.spawn()
        try:
            async with asyncio.timeout(READY_S):
                await self._ready.wait()
        except TimeoutError as error:
            raise ChildLost("the inference host does not start") from error

    def spawn(self) -> None:
        """`start` without the waiting: whoever needs a model waits for it."""
        if self._stopping:
            return
        self._child = Child(
            "wisp.inference.host",
            limits=Limits(open_files=1024, data_bytes=self._data_bytes),
            empty_directory=self._empty_directory,
            on_frame=self._take,
            on_end=self._note_end,
            fds={"models_fd": self._room.fd},
            options=self._options,
        )

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.READY:
            ready = self._walls.note(self._kind, frame.payload)
            self.providers = _words(ready.get("providers"))
            self._ready.set()
            self._ready_s = time.monotonic()
        elif frame.kind == Kind.LOADED:
            answer = json.loads(frame.payload)
            digest = Digest(answer["digest"])
            self._room.hide(self._shown.pop(digest, ""))
            self._residents.give_back(self._opening.pop(digest, ()))
            self._freed.set()
            if answer["ok"]:
                self._loaded.add(digest)
                if answer["bytes"]:
                    self._residents.put(digest, int(answer["bytes"]), int(answer["load_ms"]))
                self._unload(self._residents.evict_for(0, keep=(digest,)) or ())
            else:
                self._residents.drop(digest)
                log.error("model %s does not load: %s", digest, answer["error"])
            waiting = self._loading.pop(digest, None)
            if waiting is not None and not waiting.done():
                waiting.set_result("" if answer["ok"] else str(answer["error"]))

    def _note_end(self, reason: str) -> None:
        self._ready.clear()
        self._loaded.clear()
        self._residents.clear()
        self._opening.clear()
        for name in self._shown.values():
            self._room.hide(name)
        self._shown.clear()
        self._bound.clear()
        for waiting in self._loading.values():
            if not waiting.done():
                waiting.set_exception(ChildLost("the inference host ended while the model was loading"))
                waiting.exception()  # there may be nobody left to ask
        self._loading.clear()
        if self._stopping:
            return
        self._on_lost(self)
        self.restarts += 1
        if time.monotonic() - self._ready_s > STEADY_S:
            self._delay_s = FIRST_DELAY_S
        log.error("the inference host ended (%s); starting another in %.2f s", reason, self._delay_s)
        asyncio.get_running_loop().call_later(self._delay_s, self.spawn)
        self._delay_s = min(self._delay_s * 2, LAST_DELAY_S)

    @property
    def loaded(self) -> tuple[Digest, ...]:
        return tuple(self._loaded)

    def has(self, digests: tuple[Digest, ...]) -> bool:
        return self._loaded.issuperset(digests)

    def lease(self, digests: tuple[Digest, ...]) -> Lease:
        """Those of them that are loaded stay so. A host that dies meanwhile forgets its leases with its models."""
        return Lease(self._residents.lease(digests), self._freed)

    def drop(self, digest: Digest) -> None:
        """No version uses it here any more. One in use stays, until it has to make room."""
        if digest in self._loaded and not self._residents.is_leased(digest):
            self._residents.drop(digest)
            self._unload((digest,))

    def _unload(self, digests: tuple[Digest, ...]) -> None:
        self._loaded.difference_update(digests)
        with contextlib.suppress(ChildLost):  # its successor starts with nothing loaded
            for digest in digests:
                self._send(Kind.UNLOAD, digest.encode())

    async def ensure(self, digests: tuple[Digest, ...]) -> None:
        """Returns when these models are loaded; single-flight per model, and few may wait for one. Raises
        `ModelLoading`."""
        try:
            async with asyncio.timeout(LOAD_WAIT_S):
                await self._ready.wait()
                for digest in digests:
                    if digest not in self._loaded:
                        await self._wait_for(digest)
        except (TimeoutError, ChildLost) as error:
            raise ModelLoading("a model that this function uses is still being loaded; try again") from error

    async def _wait_for(self, digest: Digest) -> None:
        if self._waiting[digest] >= MAX_WAITING:
            raise ModelLoading("many requests wait for a model that is still being loaded; try again")
        self._waiting[digest] += 1
        try:
            await self._ready.wait()
            reason = await asyncio.shield(self._load(digest))
        finally:
            self._waiting[digest] -= 1
            if not self._waiting[digest]:
                del self._waiting[digest]
        if reason:
            raise ModelLoading("a model that this function uses does not load; its operator was told")

    def _load(self, digest: Digest) -> asyncio.Future[str]:
        """Resolves to the reason why it does not load, or to nothing. The load belongs to none of those who wait for
        it: one that leaves takes nothing from the others."""
        waiting = self._loading.get(digest)
        if waiting is None:
            loop = asyncio.get_running_loop()
            waiting = self._loading[digest] = loop.create_future()
            sending = loop.create_task(self._send_load(digest, waiting))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)
        return waiting

    async def _send_load(self, digest: Digest, waiting: asyncio.Future[str]) -> None:
        try:
            opened = await self._open_model(digest, self._room)
            self._shown[digest] = opened.prepared
            try:
                size_bytes = os.fstat(opened.fd).st_size
                await self._make_room(size_bytes)
                if self._loading.get(digest) is not waiting:
                    raise ChildLost("the inference host ended while the model was being opened")
                self._residents.put(digest, size_bytes)
                self._opening[digest] = self._residents.lease((digest,))
                self._send(Kind.LOAD, opened.frame(digest), (opened.fd,))
            finally:
                os.close(opened.fd)
        except WispError as error:
            self._give_up(digest, waiting, error)
        except OSError:
            log.exception("model %s cannot be read", digest)
            self._give_up(
                digest, waiting, ModelLoading("a model that this function uses cannot be read now; try again")
            )

    def _give_up(self, digest: Digest, waiting: asyncio.Future[str], error: WispError) -> None:
        if self._loading.get(digest) is waiting:
            del self._loading[digest]
            self._residents.give_back(self._opening.pop(digest, ()))
            self._residents.drop(digest)
        if digest not in self._loading:  # else it is its successor's load now
            self._room.hide(self._shown.pop(digest, ""))
        if not waiting.done():
            waiting.set_exception(error)
            waiting.exception()  # there may be nobody left to ask

    async def _make_room(self, size_bytes: int) -> None:
        """For a model that is going to be opened: as large as its file, until the host knows better. Waits while all
        others are in use. Raises `ModelLoading`."""
        try:
            async with asyncio.timeout(LOAD_WAIT_S):
                while (leaving := self._residents.evict_for(size_bytes)) is None:
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError as error:
            raise ModelLoading("the models in use fill this node's memory for models; try again") from error
        self._unload(leaving)

    def _send(self, kind: int, payload: bytes, fds: tuple[int, ...] = ()) -> None:
        if self._child is None:
            raise ChildLost("the inference host is not running")
        self._child.send(kind, payload, fds)

    def attach(self, slot: int, meter_fd: int) -> tuple[int, int]:
        """(socket, tensor segment) for the sandbox of that slot, new on both ends; the caller owns both descriptors.
        The host counts in the meter what the slot infers. Raises `ChildLost`."""
        ours, theirs = socket_pair()
        segment = create_fixed("tensors", TENSOR_BYTES)
        try:
            with ours:
                self._send(Kind.SLOT, SLOT.pack(slot), (ours.fileno(), segment, meter_fd))
        except BaseException:
            theirs.close()
            os.close(segment)
            raise
        return theirs.detach(), segment

    def open(self, slot: int, invocation: int, binding: Binding, deadline_ns: int) -> None:
        """Vouches for one invocation. Raises `ChildLost`."""
        if binding.handle not in self._bound:
            self._send(Kind.BIND, binding.encode())
            self._bound.add(binding.handle)
        self._send(Kind.OPEN, OPEN.pack(slot, binding.handle, invocation, deadline_ns))

    def grant(self, slot: int, invocation: int, model: BoundModel) -> None:
        """One more model for an invocation that was opened, behind those of its binding. Raises `ChildLost`."""
        fields = {"slot": slot, "invocation": invocation, "model": asdict(model)}
        self._send(Kind.GRANT, json.dumps(fields).encode())

    def hear(self) -> None:
        """Notices at once if the host died, so that the next invocation waits for its successor."""
        if self._child is not None:
            self._child.receive()

    def close(self, slot: int, invocation: int) -> None:
        """As `hear`, too."""
        self.hear()
        if self.pid is not None:
            self._send(Kind.CLOSE, CLOSE.pack(slot, invocation))

    def unbind(self, handle: int) -> None:
        if handle in self._bound:
            self._bound.discard(handle)
            with contextlib.suppress(ChildLost):  # its successor starts with nothing bound
                self._send(Kind.UNBIND, HANDLE.pack(handle))

    async def stop(self) -> None:
        self._stopping = True
        self._on_lost(self)
        if self._child is not None:
            self._child.kill("the platform stops")
            await self._child.reaped()
        self._room.close()


def _words(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()

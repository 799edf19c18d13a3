"""The inference host's main loop: one thread that talks to the router, and never infers.

The router is trusted. Slots, which are trusted in nothing, are heard by the workers (`inference.desk`).
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import threading
from typing import Any

from wisp.errors import InvalidFrame
from wisp.inference.desk import Desk
from wisp.inference.loader import Load, Loader
from wisp.inference.notes import note
from wisp.inference.providers import CPU
from wisp.inference.sessions import Sessions
from wisp.inference.slots import Slot
from wisp.inference.wide import Cores
from wisp.inference.workers import Workers
from wisp.wire import inferences as wire
from wisp.wire.channel import Channel, Frame
from wisp.wire.inferences import Binding, BoundModel, Kind
from wisp.wire.meters import Meter
from wisp.wire.segments import Segment
from wisp.wire.walls import Report, encode_report

STOP_GRACE_S = 2.0


class Host:
    """Serves `control` until its end of file. `_talking` guards the conversation with the router: a worker that meets
    an invocation it does not know reads on in its place."""

    def __init__(
        self,
        control: Channel,
        sessions: Sessions,
        *,
        threads: int,
        statm: int,
        providers: tuple[str, ...] = (CPU,),
        delay_ns: int = 0,
        patience_ns: int = 0,
        cores: int = 1,
        idle: Cores | None = None,
    ) -> None:
        self._providers = providers
        control.sock.setblocking(False)
        self._control = control
        self._outbox: list[tuple[Kind, bytes]] = []
        self._serving = True
        self._loads: dict[str, Load] = {}
        self._talking = threading.Lock()
        self._loader = Loader(sessions, statm, cores)
        self._alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector = selectors.EpollSelector()
        self._selector.register(control, selectors.EVENT_READ, self._drain_control)
        self._selector.register(self._loader, selectors.EVENT_READ, self._report_loads)
        self._selector.register(self._alarm, selectors.EVENT_READ, lambda: os.eventfd_read(self._alarm))
        self._desk = Desk(
            threads=threads,
            delay_ns=delay_ns,
            patience_ns=patience_ns,
            idle=idle,
            drain=self._drain_control,
            alarm=lambda: os.eventfd_write(self._alarm, 1),
            watch=self._watch,
        )
        self._workers = Workers(self._desk)

    def serve(self, walls: Report) -> bool:
        """Runs to the end; whether every thread ended with it."""
        with self._talking:
            self._tell(Kind.READY, {"walls": encode_report(walls), "providers": list(self._providers)})
        while self._serving and not self._desk.stuck:
            for key, _ in self._selector.select(self._desk.expire()):
                key.data()
        if self._desk.stuck:
            note("an inference runs on past its end and cannot be stopped; this process ends with it")
            return False
        self._desk.stop()
        loaded = self._loader.stop(STOP_GRACE_S)
        return self._workers.join(STOP_GRACE_S) and loaded

    def _watch(self, reads: bool) -> None:
        if reads:
            self._selector.register(self._desk, selectors.EVENT_READ, self._desk.read)
        else:
            self._selector.unregister(self._desk)

    # The router

    def _tell(self, kind: Kind, fields: dict[str, object]) -> None:
        self._outbox.append((kind, json.dumps(fields).encode()))
        self._flush()

    def _flush(self) -> None:
        """Sends what it can; the rest goes when the router reads again."""
        events = selectors.EVENT_READ
        try:
            while self._outbox:
                self._control.send(*self._outbox[0])
                del self._outbox[0]
        except BlockingIOError:
            events |= selectors.EVENT_WRITE
        except OSError:
            self._serving = False
        self._selector.modify(self._control, events, self._drain_control)

    def _drain_control(self) -> None:
        """Handles all that the router has sent so far, in its order."""
        with self._talking:
            if self._outbox:
                self._flush()
            while self._serving:
                try:
                    frame = self._control.receive()
                except BlockingIOError:
                    return
                except ConnectionError:
                    frame = None
                if frame is None:
                    self._serving = False
                    os.eventfd_write(self._alarm, 1)
                    return
                self._obey(frame)

    def _obey(self, frame: Frame) -> None:
        match Kind(frame.kind):
            case Kind.OPEN:
                self._desk.open(*wire.OPEN.unpack(frame.payload))
            case Kind.GRANT:
                fields = json.loads(frame.payload)
                self._desk.grant(fields["slot"], fields["invocation"], BoundModel(**fields["model"]))
            case Kind.CLOSE:
                self._desk.close(*wire.CLOSE.unpack(frame.payload))
            case Kind.BIND:
                self._desk.bind(Binding.decode(frame.payload))
            case Kind.UNBIND:
                self._desk.unbind(wire.HANDLE.unpack(frame.payload)[0])
            case Kind.SLOT:
                sock_fd, segment_fd, meter_fd = frame.fds
                (number,) = wire.SLOT.unpack(frame.payload)
                meter = Meter(Segment(meter_fd))
                self._desk.attach(Slot(number, socket.socket(fileno=sock_fd), Segment(segment_fd), meter))
            case Kind.LOAD:
                self._load(json.loads(frame.payload), frame)
            case Kind.UNLOAD:
                digest = frame.payload.decode()
                self._desk.drop_model(digest)
                self._loads.pop(digest, None)
            case other:
                raise InvalidFrame(f"the router sent {other.name}")

    def _load(self, fields: dict[str, Any], frame: Frame) -> None:
        (fd,) = frame.fds
        digest = fields["digest"]
        load = self._loads.get(digest)
        if load is None and not self._desk.has(digest):
            self._loads[digest] = Load(
                digest=digest,
                fd=fd,
                prepared=fields.get("prepared", ""),
                batch=fields.get("batch", 0),
                gpu=fields.get("gpu", False),
                wide=fields.get("wide", False),
            )
            self._loader.put(self._loads[digest])
            return
        frame.close_fds()
        if load is not None:
            load.frames += 1
        else:
            self._tell(
                Kind.LOADED, {"digest": digest, "ok": True, "error": "", "load_ms": 0, "bytes": 0, "shared": False}
            )

    def _report_loads(self) -> None:
        with self._talking:
            for load in self._loader.finished():
                if self._loads.get(load.digest) is load:
                    del self._loads[load.digest]
                    if load.model is not None:
                        self._desk.put_model(load.model)
                elif not load.error:
                    load.error = "unloaded while it was being opened"
                answer = {
                    "digest": load.digest, "ok": not load.error, "error": load.error, "load_ms": load.load_ms,
                    "bytes": load.size_bytes,
                    "shared": load.model is not None and load.model.shared,
                }  # fmt: skip
                for _ in range(load.frames):
                    self._tell(Kind.LOADED, answer)

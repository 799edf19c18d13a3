"""The thread that opens models: one at a time, since creating two sessions at once is not safe."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections import deque
from dataclasses import dataclass
from queue import SimpleQueue

from wisp.errors import InvalidModel
from wisp.inference.sessions import LoadedModel, Sessions


@dataclass(slots=True, kw_only=True, eq=False)
class Load:
    """One model being opened, for as many LOAD frames as asked for it meanwhile."""

    digest: str
    fd: int
    prepared: str = ""
    batch: int = 0
    gpu: bool = False
    wide: bool = False
    """Whether it is worth several threads where it runs alone."""
    frames: int = 1
    model: LoadedModel | None = None
    error: str = ""
    load_ms: int = 0
    size_bytes: int = 0
    """What this process grew by while it was opened, at least its file. An estimate: inferences run meanwhile."""


class Loader:
    """Opens models in order. `fileno` turns readable when `finished` has something."""

    def __init__(self, sessions: Sessions, statm: int, cores: int = 1) -> None:
        """`statm`: the process's own, open since before its walls. `cores` that one run may have."""
        self._cores = cores
        self._statm = statm
        self._sessions = sessions
        self._waiting: SimpleQueue[Load | None] = SimpleQueue()
        self._finished: deque[Load] = deque()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._serve, name="load", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        return self._event

    def put(self, load: Load) -> None:
        """Takes the load's descriptor over."""
        self._waiting.put(load)

    def finished(self) -> list[Load]:
        os.eventfd_read(self._event)
        return [self._finished.popleft() for _ in range(len(self._finished))]

    def stop(self, grace_s: float) -> bool:
        """Whether the thread ended in time; creating a session cannot be cancelled."""
        self._waiting.put(None)
        self._thread.join(grace_s)
        return not self._thread.is_alive()

    def _resident_bytes(self) -> int:
        """See proc(5), /proc/pid/statm: the second field, in pages."""
        return int(os.pread(self._statm, 128, 0).split()[1]) * resource.getpagesize()

    def _serve(self) -> None:
        while self._next():
            pass

    def _next(self) -> bool:
        """Its own frame, so that a waiting loader keeps no model alive."""
        load = self._waiting.get()
        if load is None:
            return False
        began, before_bytes = time.monotonic(), self._resident_bytes()
        load.size_bytes = os.fstat(load.fd).st_size
        try:
            load.model = self._sessions.open(
                load.digest,
                load.fd,
                prepared=load.prepared,
                batch=load.batch,
                gpu=load.gpu,
                threads=self._cores if load.wide else 1,
            )
        except (InvalidModel, OSError, MemoryError) as error:
            load.error = str(error) or type(error).__name__
        finally:
            os.close(load.fd)
        load.size_bytes = max(load.size_bytes, self._resident_bytes() - before_bytes)
        load.load_ms = round((time.monotonic() - began) * 1000)
        self._finished.append(load)
        os.eventfd_write(self._event, 1)
        return True

"""What one sandbox's process has been given: modules, and the functions linked from them.

It is decided here, so that the router always knows what it must send along. Frames are handled in order: what a request
lacks is sent right before it.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from typing import Final

from wisp.errors import ChildLost
from wisp.scheduling.bundlecache import BundleSegment
from wisp.scheduling.children import Child
from wisp.scheduling.jobs import Job
from wisp.wire.channel import MAX_FRAME_BYTES
from wisp.wire.invocations import HANDLE, FunctionLink, Kind
from wisp.wire.segments import create_frozen

MAX_MODULES: Final = 64
"""Modules that one sandbox keeps linked."""


class Loaded:
    """Of one slot; `clear` where another process fills it."""

    def __init__(self) -> None:
        self._modules: OrderedDict[str, dict[int, BundleSegment | None]] = OrderedDict()
        """Linked handles by module, each with the content of the host's directories that it was linked with."""

    def __contains__(self, module: str) -> bool:
        return module in self._modules

    def clear(self) -> None:
        self._modules.clear()

    def bring(self, child: Child, job: Job) -> None:
        """Sends whatever of the job the process does not have yet. Raises `ChildLost`."""
        link = job.link
        handles = self._modules.get(link.module)
        if handles is None:
            while len(self._modules) >= MAX_MODULES:
                digest, former = self._modules.popitem(last=False)
                child.send(Kind.UNLOAD, digest.encode())
                for handle in former:
                    child.send(Kind.UNLINK, HANDLE.pack(handle))
            child.send(Kind.MODULE, link.module.encode(), (job.code.fd,))
            handles = self._modules[link.module] = {}
        self._modules.move_to_end(link.module)
        if link.handle not in handles or handles[link.handle] is not job.hosts:
            _link(child, link, tuple(shown.fd for shown in (job.bundle, job.hosts) if shown is not None))
            handles[link.handle] = job.hosts

    def forget(self, child: Child, link: FunctionLink) -> None:
        """A function's version or grants were replaced."""
        handles = self._modules.get(link.module)
        if handles is None or link.handle not in handles:
            return
        with contextlib.suppress(ChildLost):  # its successor starts with nothing loaded
            handles.pop(link.handle, None)
            child.send(Kind.UNLINK, HANDLE.pack(link.handle))
            if not handles:
                del self._modules[link.module]
                child.send(Kind.UNLOAD, link.module.encode())


def _link(child: Child, link: FunctionLink, fds: tuple[int, ...]) -> None:
    payload = link.encode()
    if len(payload) < MAX_FRAME_BYTES:
        child.send(Kind.LINK, payload, fds)
        return
    own = create_frozen("link", [payload])
    try:
        child.send(Kind.LINK, b"", (own, *fds))
    finally:
        os.close(own)

"""The compiled modules and functions that this sandbox has linked. The router decides what stays: it holds the bound.

A module arrives as a frozen segment that the router has verified; it is mapped, not copied, so all sandboxes of a node
share its pages.
"""

from __future__ import annotations

import os

from wisp.errors import InvalidFrame
from wisp.sandbox.engine import Engine, Linker, delete_module, delete_prepared
from wisp.sandbox.filesystem import FileTree
from wisp.sandbox.habits import Habit
from wisp.sandbox.mapping import MappedBundle
from wisp.wire.invocations import FunctionLink
from wisp.wire.segments import FROZEN, require_seals


class LinkedModules:
    """Owns the engine's modules. A module that could not be loaded is remembered with the reason."""

    def __init__(self, engine: Engine, linker: Linker) -> None:
        self._engine = engine
        self._linker = linker
        self._modules: dict[str, tuple[int, int]] = {}
        self._failed: dict[str, str] = {}
        self._links: dict[int, FunctionLink] = {}
        self._trees: dict[int, FileTree] = {}
        self._habits: dict[int, Habit] = {}

    def add(self, digest: str, fd: int) -> None:
        """Takes the descriptor over. Maps and links the module; a failure is told by `prepared`."""
        try:
            require_seals(fd, FROZEN)
            module = self._engine.map_module(f"/proc/self/fd/{fd}")
            try:
                prepared = self._linker.prepare(module)
            except BaseException:
                delete_module(module)
                raise
        finally:
            os.close(fd)
        self.drop(digest)
        self._modules[digest] = (module, prepared)

    def note_failure(self, digest: str, reason: str) -> None:
        self._failed[digest] = reason

    def drop(self, digest: str) -> None:
        self._failed.pop(digest, None)
        pointers = self._modules.pop(digest, None)
        if pointers is not None:
            delete_prepared(pointers[1])
            delete_module(pointers[0])

    def link(self, link: FunctionLink, bundle: MappedBundle | None = None, hosts: MappedBundle | None = None) -> None:
        """Takes bundle and hosts over; `unlink` unmaps them."""
        self.unlink(link.handle)
        self._trees[link.handle] = FileTree(link.files, bundle, hosts)
        self._links[link.handle] = link
        self._habits[link.handle] = Habit()

    def unlink(self, handle: int) -> None:
        self._links.pop(handle, None)
        self._habits.pop(handle, None)
        tree = self._trees.pop(handle, None)
        if tree is not None:
            tree.close()

    def files(self, handle: int) -> FileTree:
        """Of a function that is linked."""
        return self._trees[handle]

    def habit(self, handle: int) -> Habit:
        """Of a function that is linked."""
        return self._habits[handle]

    def function(self, handle: int) -> tuple[FunctionLink, int]:
        """(its link, its prepared module). Raises `InvalidFrame` for what the router has not sent or could not be
        loaded."""
        link = self._links.get(handle)
        if link is None:
            raise InvalidFrame(f"function {handle} is not linked")
        pointers = self._modules.get(link.module)
        if pointers is None:
            raise InvalidFrame(self._failed.get(link.module, f"module {link.module} is not loaded"))
        return link, pointers[1]

    def close(self) -> None:
        for handle in list(self._links):
            self.unlink(handle)
        for digest in list(self._modules):
            self.drop(digest)

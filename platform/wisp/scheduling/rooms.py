"""What one inference process can reach of the prepared models: a directory of its own, which its walls leave readable.

It holds links to the files of what that process is opening, and nothing else: a process that was taken over by one
tenant's model finds no other tenant's weights. Once a model is open its pages are mapped, and the links go.
"""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

from wisp.scheduling.modelcache import FILES

_numbers = itertools.count(1)


class Room:
    """One process' directory; `fd` is handed to it. `close` removes it."""

    def __init__(self, parent: Path) -> None:
        self.path = parent / str(next(_numbers))
        self.path.mkdir(mode=0o755)
        self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def show(self, entry: Path) -> str:
        """The name under which both files of this entry appear; "" where the file system cannot link them."""
        place = self.path / entry.name
        try:
            place.mkdir(mode=0o755, exist_ok=True)
            for file in FILES:
                if not (place / file).exists():
                    os.link(entry / file, place / file)
        except OSError:  # no links on this file system, or the entry has just gone
            self.hide(entry.name)
            return ""
        return entry.name

    def hide(self, name: str) -> None:
        if name:
            shutil.rmtree(self.path / name, ignore_errors=True)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            shutil.rmtree(self.path, ignore_errors=True)


class Rooms:
    """Those of one node. What a former process of the platform left is removed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700, parents=True)

    def make(self) -> Room:
        return Room(self.directory)

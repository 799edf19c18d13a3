"""A directory of the operator's documents, read again and again: `ceiling.yaml` and every `class-*.yaml`."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wisp.errors import Fault
from wisp.policy.ceilings import CEILING, CLASS_PREFIX, MAX_DOCUMENTS
from wisp.policy.scanner import MAX_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Texts by document. `faults`: those that could not be read; one that is longer than a document may be is cut one
    byte above that, which is enough for it to be refused."""

    texts: Mapping[str, bytes]
    faults: Mapping[str, tuple[Fault, ...]]


def read_folder(directory: Path) -> Reading:
    """Blocking. A directory that is gone has no documents."""
    paths = [directory / f"{CEILING}.yaml", *sorted(directory.glob(f"{CLASS_PREFIX}*.yaml"))[:MAX_DOCUMENTS]]
    texts: dict[str, bytes] = {}
    faults: dict[str, tuple[Fault, ...]] = {}
    for path in paths:
        try:
            texts[path.stem] = _read(path)
        except FileNotFoundError:
            continue  # gone since it was listed, as an atomic replacement may look for a moment
        except OSError as error:
            faults[path.stem] = (Fault(field="document", message=f"the file cannot be read: {error.strerror}"),)
    return Reading(texts=texts, faults=faults)


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would keep its reader waiting
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "it is no regular file")
        return file.read(MAX_BYTES + 1)

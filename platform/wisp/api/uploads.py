"""Uploads on their way to disk: a private directory for each, gone whatever happens.

Bytes are written (and forms parsed) in a thread, a piece at a time, so that a slow disk stops no other request.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from starlette.types import Receive

from wisp.api.bodies import chunks, refuse_longer, too_large
from wisp.api.multipart import Caps, FunctionForm, Upload

PIECE_BYTES: Final = 256 * 1024
TOTAL_S: Final = 600.0
"""For the largest model over a slow line; between two pieces `idle_s` counts."""


@asynccontextmanager
async def staged(staging: Path) -> AsyncIterator[Path]:
    """A new directory, 0700."""
    directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="upload-", dir=staging))
    try:
        yield directory
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True))


@asynccontextmanager
async def received_function(
    receive: Receive, staging: Path, *, boundary: bytes, length: int | None, caps: Caps, idle_s: float
) -> AsyncIterator[Upload]:
    """Raises `InvalidRequest`, `RequestTooLarge`, `RequestTimeout`, `ClientGone`."""
    refuse_longer(length, caps.total_bytes, "the form")
    async with staged(staging) as directory:
        form = FunctionForm(boundary, directory, caps)
        try:
            async for piece in _pieces(receive, limit_bytes=caps.total_bytes, what="the form", idle_s=idle_s):
                await asyncio.to_thread(form.write, piece)
            upload = form.finish()
        finally:
            form.close()
        yield upload


@asynccontextmanager
async def received_file(
    receive: Receive, staging: Path, *, length: int | None, limit_bytes: int, what: str, idle_s: float
) -> AsyncIterator[Path]:
    """The whole body as a file. Raises as `received_function` does."""
    refuse_longer(length, limit_bytes, what)
    async with staged(staging) as directory:
        path = directory / "body"
        with await asyncio.to_thread(path.open, "xb") as file:
            async for piece in _pieces(receive, limit_bytes=limit_bytes, what=what, idle_s=idle_s):
                await asyncio.to_thread(file.write, piece)
        yield path


async def _pieces(receive: Receive, *, limit_bytes: int, what: str, idle_s: float) -> AsyncIterator[bytes]:
    """The body in pieces of about `PIECE_BYTES`, counted as it comes."""
    total = 0
    pending = bytearray()
    async for chunk in chunks(receive, total_s=TOTAL_S, idle_s=idle_s):
        total += len(chunk)
        if total > limit_bytes:
            raise too_large(what, limit_bytes, total)
        pending += chunk
        if len(pending) >= PIECE_BYTES:
            yield bytes(pending)
            pending.clear()
    if pending:
        yield bytes(pending)

"""A request's receiving side leaves nothing behind that only a collection would find."""

from __future__ import annotations

import asyncio
import gc
import weakref

from starlette.types import Message

from wisp.api.incoming import Incoming
from wisp.api.watches import Watch, Watches


async def test_a_request_that_was_watched_is_gone_without_a_collection() -> None:
    waiting = asyncio.Event()

    async def stay() -> Message:
        waiting.set()
        forever: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await forever

    request, kept = Incoming(stay), weakref.ref(stay)
    gc.disable()
    try:
        with Watch(Watches(), request):
            async with asyncio.timeout(30):
                await waiting.wait()
        del request, stay
        for _ in range(3):  # the watching task ends
            await asyncio.sleep(0)
        assert kept() is None
    finally:
        gc.enable()

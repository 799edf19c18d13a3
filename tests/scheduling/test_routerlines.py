"""The router's own lines to an inference host: what becomes of a request when its line breaks."""

from __future__ import annotations

import asyncio
import time

import pytest

from wisp.errors import ChildLost
from wisp.names import parse_tenant
from wisp.node import Node
from wisp.scheduling import routerlines
from wisp.scheduling.routerlines import RouterLine
from wisp.wire.inferences import Binding, BoundModel

BINDING = Binding(
    handle=(1 << 32) - 1,
    tenant="acme",
    models=(BoundModel(digest="nothing", max_inferences=1, max_time_ns=2**62),),
)


async def test_a_line_that_breaks_in_the_moment_of_the_deadline_is_a_lost_host(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routerlines, "GRACE_S", 0.0)
    line = RouterLine(routerlines.FIRST_SLOT + 1000)
    deadline_ns = time.monotonic_ns() + 100_000_000
    asked = asyncio.create_task(line.infer(node.host, parse_tenant("acme"), BINDING, 1, (), deadline_ns))
    await asyncio.sleep(0)  # it has asked
    asyncio.get_running_loop().call_soon(line._fail, EOFError("end of file"))
    while time.monotonic_ns() <= deadline_ns:  # so that the loop finds both at once
        time.sleep(0.01)
    with pytest.raises(ChildLost):
        await asked

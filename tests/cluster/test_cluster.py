"""The least of `make cluster-test`: two nodes behind a balancer, one replaced and one killed under load.

Whether it was quick is not asked: a balancer that takes a slow machine's nodes for dead may say so with 503.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster.balancer import balancing, binary
from cluster.callers import Callers, Writers, missing
from cluster.fleet import fleet
from platforms import HANDLER_POLICY, TENANTS
from redisprocess import redis_process
from served import Reply
from updates import Platform

BY_THE_BALANCER = {"503 by the balancer"}


def deploy(port: int) -> str:
    here = Platform(port)
    here.make_tenant("acme")
    module = (TENANTS / "acme" / "hello" / "module.wasm").read_bytes()
    policy = HANDLER_POLICY + b"limits: {timeout: 10s}\nenvironment: {GREETING: hello}\n"
    parts = [("module", ("m", module)), ("policy", ("p", policy))]
    assert here.call("PUT", "/v1/tenants/acme/functions/hello", key=here.key, files=parts).status_code == 201
    assert here.upload("which", 1).status_code == 201
    return here.key


@pytest.mark.skipif(binary() is None, reason="there is no haproxy")
async def test_nodes_are_replaced_and_killed_under_load_and_nobody_gets_a_wrong_answer(tmp_path: Path) -> None:
    with redis_process() as server:
        flags = ("--redis", server.url, "--blobs", f"file://{tmp_path / 'blobs'}")
        with (
            fleet(tmp_path, ("a", "b"), *flags) as (first, second),
            balancing(tmp_path, {"a": first.port, "b": second.port}) as port,
        ):
            key = await asyncio.to_thread(deploy, first.port)
            callers = Callers(port, key, clients=2, pause_s=0.05)
            writers = Writers(port, writers=1, pause_s=0.1)
            async with callers, writers:
                await asyncio.to_thread(first.drain)
                await asyncio.to_thread(first.start)
                await asyncio.to_thread(second.kill)
                async with asyncio.timeout(60):
                    before, tally = len(writers.everything), callers.fresh()
                    while len(writers.everything) < before + 3 or tally.right < 10:
                        await asyncio.sleep(0.05)
            assert (tally.wrong, tally.lost) == (0, 0), tally.reasons
            assert set(tally.reasons) <= BY_THE_BALANCER, tally.reasons
            assert await missing(port, [*writers.everything, "never"]) == ["never"]


@pytest.mark.parametrize(
    ("body", "version", "right"),
    [
        (b"module=1 NUMBER=1\0 file=1", "1", True),
        (b"module=1 NUMBER=1\0 file=2", "1", False),
        (b"module=1 NUMBER=1\0 file=1", "2", False),
        (b"module=3 NUMBER=3\0 file=3", "3", False),
    ],
    ids=["one version", "mixed", "another in the receipt", "not allowed now"],
)
def test_an_answer_of_the_wrong_version_is_seen(body: bytes, version: str, right: bool) -> None:
    callers = Callers(1, "", clients=1, pause_s=0)
    reply = Reply(status=200, headers={"wisp-version": version}, body=body)
    callers.judge(reply, "/t/acme/which", "w1", {1, 2})
    assert (callers.tally.right, callers.tally.wrong) == (int(right), int(not right))


def test_anothers_answer_is_seen() -> None:
    callers = Callers(1, "", clients=1, pause_s=0)
    callers.judge(Reply(status=200, headers={}, body=b"hello, w2\n"), "/t/acme/hello?name=w1", "w1", {1})
    callers.judge(None, "/t/acme/hello?name=w1", "w1", {1})
    callers.judge(Reply(status=503, headers={}, body=b""), "/t/acme/hello?name=w1", "w1", {1})
    assert (callers.tally.wrong, callers.tally.lost, callers.tally.failed) == (1, 1, 1)

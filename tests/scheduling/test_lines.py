"""A sandbox's line to the inference host: what the host is told of invocations that follow one another."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from platforms import HANDLER_POLICY, REPOSITORY, TINY_MODELS, Tenancy
from wisp.scheduling.hosts import InferenceHost
from wisp.wire.inferences import Binding
from wisp.wire.outcome import Outcome

INFER = (REPOSITORY / "tests" / "guests" / "infer" / "module.wasm").read_bytes()
POLICY = HANDLER_POLICY + b"models:\n- {name: identity_f32, model: identity-f32}\n"
QUERY = b"graph=identity_f32&type=f32&dims=1"


async def test_the_host_is_told_of_an_end_once_and_only_where_nothing_follows_it(
    acme: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await acme.push_model("identity-f32", TINY_MODELS / "identity_f32.onnx")
    await acme.deploy("infer", INFER, POLICY)
    told: dict[int, list[tuple[str, int]]] = {}
    opening, closing = InferenceHost.open, InferenceHost.close

    def opened(host: InferenceHost, slot: int, number: int, binding: Binding, deadline_ns: int) -> None:
        told.setdefault(slot, []).append(("open", number))
        opening(host, slot, number, binding, deadline_ns)

    def closed(host: InferenceHost, slot: int, number: int) -> None:
        told.setdefault(slot, []).append(("close", number))
        closing(host, slot, number)

    monkeypatch.setattr(InferenceHost, "open", opened)
    monkeypatch.setattr(InferenceHost, "close", closed)
    async with asyncio.timeout(30):
        replies = await asyncio.gather(*(acme.call("infer", bytes(4), query=QUERY) for _ in range(24)))
    assert {(reply.outcome, reply.body) for reply in replies} == {(Outcome.OK, bytes(4))}
    everything = [each for of_slot in told.values() for each in of_slot]
    assert sum(what == "open" for what, _ in everything) == len(replies)
    assert sum(what == "close" for what, _ in everything) < len(replies)
    for of_slot in told.values():
        assert of_slot[-1] == ("close", of_slot[-2][1])
        for (_, number), (what, following) in pairwise(of_slot):
            assert (what == "close") == (following == number)

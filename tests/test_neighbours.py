"""Every hostile guest on a whole node, beside an honest neighbour who is answered in the meantime."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from platforms import TINY_MODELS, Tenancy
from sandbox.guests import to_wasm
from sandbox.test_hostile import HOSTILE, head
from wisp.errors import InvalidModule
from wisp.node import Node
from wisp.wire.outcome import Outcome

PARTS = 4
"""Nodes that share the guests: one failure shows which few of them were about."""
CALLS = 3
MOST_FUEL = 8_000_000_000
"""What a tenant of the larger class may have: a bulk instruction, charged by the byte, uses that up in 90 ms."""


def policy_of(said: dict[str, str]) -> bytes:
    """The grants that a guest's head asks for, as a tenant would write them (JSON is YAML)."""
    limits: dict[str, object] = {"memory": "64Mi", "logs": "4Ki", "timeout": f"{said.get('timeout-ms', '2000')}ms"}
    limits["fuel"] = min(int(said.get("fuel", MOST_FUEL)), MOST_FUEL)
    if "memory-bytes" in said:
        limits["memory"] = int(said["memory-bytes"])
    if "response-bytes" in said:
        limits["response_body"] = int(said["response-bytes"])
    document: dict[str, object] = {"wisp": 1, "abi": "handler", "limits": limits}
    document["models"] = [{"name": name, "model": name.replace("_", "-")} for name in said.get("models", "").split()]
    document["environment"] = dict(pair.split("=", 1) for pair in said.get("environment", "").split())
    document["on_violation"] = said.get("on-violation", "trap")
    if "scratch" in said:
        scratch = {"mount": "/tmp", "from": "scratch", "quota": int(said["scratch"])}
        document["files"] = [scratch, {"mount": "/log", "from": "log"}]
    return json.dumps(document).encode()


async def endure(path: Path, acme: Tenancy, globex: Tenancy, pushed: set[str]) -> str | None:
    """What was wrong, if anything."""
    said = head(path)
    for name in set(said.get("models", "").split()) - pushed:
        await acme.push_model(name.replace("_", "-"), TINY_MODELS / f"{name}.onnx")
        pushed.add(name)
    try:
        await acme.deploy("hostile", to_wasm(path), policy_of(said))
    except InvalidModule:
        return None  # refused before it could run
    attack = asyncio.create_task(acme.call("hostile", b"body"))
    for _ in range(CALLS):
        neighbour = await globex.call("hello")
        if neighbour.outcome is not Outcome.OK or b"Globex" not in neighbour.body:
            return f"{path.name}: its neighbour got {neighbour}"
    outcome = (await attack).outcome
    expected = {said["expect"]}
    if int(said.get("fuel", 0)) > MOST_FUEL:
        expected.add(Outcome.FUEL_EXHAUSTED)  # whichever of its limits is the first to stop it
    return None if outcome in expected else f"{path.name}: {outcome}, not {said['expect']}"


@pytest.mark.parametrize("part", range(PARTS))
async def test_an_honest_neighbour_is_answered_beside_every_hostile_guest(
    node: Node, acme: Tenancy, globex: Tenancy, part: int
) -> None:
    await globex.deploy_folder("hello")
    pushed: set[str] = set()
    faults = [await endure(path, acme, globex, pushed) for path in HOSTILE[part::PARTS]]
    assert [fault for fault in faults if fault is not None] == []
    assert node.sandboxes.kills <= 2  # a guest inside one long host call may have to go with its process
    assert node.host.restarts == 0

"""What is done to three nodes under load, one phase after the other, and what was seen meanwhile."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from cluster.balancer import SEEN_S
from cluster.callers import HEADERS, Callers, Tally, Writers, Written, ask, missing
from cluster.fleet import Node
from cluster.redisservers import Servers, slot_of
from platforms import REPOSITORY
from served import Connection, Reply
from updates import said

POLL_S = 0.002
CONVERGED_S = 60.0
SETTLE_S = 1.5
"""A node that has missed an event has healed by then."""
SIGMAS = 5
RATE = 40
BURST = 60


@dataclass(slots=True, kw_only=True)
class Phase:
    """`notes`: figures beyond the counts, by name, each with its unit. `faults`: what must not be."""

    name: str
    lasted_s: float = 0
    tally: Tally = field(default_factory=Tally)
    written: Written = field(default_factory=Written)
    gone: list[str] = field(default_factory=list)
    notes: dict[str, tuple[float, str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    redis: Counter[str] = field(default_factory=Counter)


def class_document(**replaced: str) -> bytes:
    """class-standard as shipped, but for what is named: `request_body`, or `quota` (the first three of it)."""
    text = (REPOSITORY / "policies" / "class-standard.yaml").read_text()
    if "request_body" in replaced:
        text = re.sub(r"request_body: \w+", f"request_body: {replaced['request_body']}", text)
    if "quota" in replaced:
        text = re.sub(r"requests_per_second: \d+, burst: \d+, max_inflight: \d+", replaced["quota"], text)
    return text.encode()


WIDE = "requests_per_second: 100000, burst: 100000, max_inflight: 1000"


@dataclass(slots=True, kw_only=True)
class Trial:
    """`keys`: by tenant. `tell`: says what is being done."""

    nodes: list[Node]
    servers: Servers
    balancer: int
    callers: Callers
    writers: Writers
    keys: dict[str, str]
    tell: Callable[[str], None]
    steady_s: float
    step_s: float
    edits: int
    quota_s: float
    version: int = 1
    phases: list[Phase] = field(default_factory=list)

    @asynccontextmanager
    async def phase(self, name: str) -> AsyncIterator[Phase]:
        """Counts what is answered within it; afterwards every write that was acknowledged in it must be there."""
        self.tell(name)
        before = await asyncio.to_thread(self.servers.calls)
        phase = Phase(name=name, tally=self.callers.fresh(), written=self.writers.fresh())
        self.phases.append(phase)
        began = time.monotonic()
        yield phase
        phase.lasted_s = time.monotonic() - began
        phase.notes["lasted"] = (phase.lasted_s, "s")
        self.callers.fresh()
        self.writers.fresh()
        after = await asyncio.to_thread(self.servers.calls)
        phase.redis = Counter({name: max(0, number - before[name]) for name, number in after.items()})
        phase.gone = await missing(self.balancer, list(phase.written.acknowledged))
        if phase.tally.wrong:
            phase.faults.append(f"{phase.tally.wrong} wrong answers")
        if phase.gone:
            phase.faults.append(f"{len(phase.gone)} acknowledged writes are gone")

    async def operate(self, method: str, path: str, **more: object) -> httpx.Response:
        async with httpx.AsyncClient(timeout=60, headers=HEADERS) as client:
            url = f"http://127.0.0.1:{self.balancer}{path}"
            answer = await client.request(method, url, **more)  # type: ignore[arg-type]
        answer.raise_for_status()
        return answer

    async def until_each(self, path: str, key: str, obeys: Callable[[Reply], bool], body: bytes = b"") -> list[float]:
        """The moment, on each node, at which the request began whose answer was the first that obeys."""

        async def watch(node: Node) -> float:
            connection = Connection(node.port)
            async with asyncio.timeout(CONVERGED_S):
                while True:
                    began = time.monotonic()
                    reply = await ask(connection, path, key, method="POST", body=body)
                    if reply is not None and obeys(reply):
                        await connection.close()
                        return began
                    await asyncio.sleep(POLL_S)

        return list(await asyncio.gather(*(watch(node) for node in self.nodes)))

    async def steady(self) -> None:
        async with self.phase("steady") as phase:
            await asyncio.sleep(self.steady_s)
        for name, word in (("evalsha", "scripts"), ("get", "generations read"), ("publish", "events")):
            phase.notes[f"Redis: {word}"] = (phase.redis[name] / phase.lasted_s, "1/s")

    async def rolling_upgrade(self) -> None:
        async with self.phase("rolling upgrade") as phase:
            for node in self.nodes:
                self.tell(f"  {node.name} is drained and replaced")
                phase.notes[f"{node.name} drained"] = (await asyncio.to_thread(node.drain), "s")
                phase.notes[f"{node.name} ready again"] = (await asyncio.to_thread(node.start), "s")
                await asyncio.sleep(SEEN_S)

    async def node_killed(self) -> None:
        async with self.phase("node killed") as phase:
            node = self.nodes[1]
            await asyncio.to_thread(node.kill)
            await asyncio.sleep(2 * SEEN_S)
            phase.notes[f"{node.name} ready again"] = (await asyncio.to_thread(node.start), "s")
            await asyncio.sleep(SEEN_S)

    async def redis_failover(self) -> None:
        async with self.phase("Redis failover") as phase:
            primary = (await asyncio.to_thread(self.servers.primaries))[0]
            slots = await asyncio.to_thread(self.servers.slots_of, primary)
            await asyncio.sleep(1)
            killed = time.monotonic()
            await asyncio.to_thread(self.servers.kill, primary)

            def regained() -> float | None:
                moments = [
                    moment
                    for tenant, moment in phase.written.acknowledged.items()
                    if moment > killed and any(first <= slot_of(tenant) <= last for first, last in slots)
                ]
                return min(moments, default=None)

            async with asyncio.timeout(CONVERGED_S):
                while (moment := regained()) is None:
                    await asyncio.sleep(0.02)
            phase.notes["the lost primary's slots take writes"] = (moment - killed, "s")
            await self._all_reachable(phase, killed)
            await asyncio.sleep(SETTLE_S)
            await asyncio.to_thread(self.servers.start_again, primary)
            await asyncio.to_thread(self.servers.wait_until_whole)

    async def _all_reachable(self, phase: Phase, since: float) -> None:
        for node in self.nodes:
            async with asyncio.timeout(CONVERGED_S):
                while not _reachable(await asyncio.to_thread(node.readiness)):
                    await asyncio.sleep(0.05)
        phase.notes["every node reaches the registry"] = (time.monotonic() - since, "s")

    async def canary(self, to: int) -> None:
        """0 → 1 → 10 → 50 → 100 %: what the callers got, beside what was asked for."""
        stable = self.version
        async with self.phase("canary") as phase:
            for percent in (0, 1, 10, 50, 100):
                shares = [(stable, 100 - percent), (to, percent)]
                split = [{"version": version, "percent": share} for version, share in shares if share]
                self.callers.allowed = {stable, to}
                self.tell(f"  {percent} %")
                if percent:
                    await self.operate("PUT", "/v1/tenants/acme/functions/which/traffic", json={"split": split})
                await asyncio.sleep(SETTLE_S)
                self.callers.allowed = {version for version, share in shares if share}
                await asyncio.sleep(0.5)  # those that began before
                phase.tally.versions.clear()
                await asyncio.sleep(self.step_s)
                seen, new = phase.tally.versions.total(), phase.tally.versions[to]
                observed = 100 * new / seen if seen else math.nan
                phase.notes[f"share at {percent} % ({seen} answers)"] = (observed, "%")
                deviation = 100 * math.sqrt(percent / 100 * (1 - percent / 100) / max(seen, 1))
                if not abs(observed - percent) <= SIGMAS * deviation:
                    phase.faults.append(f"{observed:.1f} % of the answers where {percent} % were asked for")
        self.version = to

    async def policy_edit(self) -> None:
        """A limit is lowered and raised again; what begins after the answer must obey on every node."""
        key, path, body = self.keys["edited"], "/t/edited/hello", b"x" * 3000
        async with self.phase("policy edit") as phase:
            answered, converged = [], [list[float]() for _ in self.nodes]
            for edit in range(self.edits):
                limit, status = ("1Ki", 413) if edit % 2 == 0 else ("64Ki", 200)
                document = class_document(request_body=limit, quota=WIDE)
                obeyed = asyncio.create_task(
                    self.until_each(path, key, lambda reply, wanted=status: reply.status == wanted, body)  # type: ignore[misc]
                )
                await asyncio.sleep(0.2)
                began = time.monotonic()
                answer = await self.operate("PUT", "/v1/policies/class-edited", content=document)
                done = time.monotonic()
                answered.append(done - began)
                for node, moments, moment in zip(self.nodes, converged, await obeyed, strict=True):
                    moments.append(max(0.0, moment - began))
                    if moment > done + 0.5 and not answer.json()["pending"]:
                        phase.faults.append(f"{node.name} obeyed {moment - done:.1f} s after the answer")
            phase.notes["answered, longest"] = (max(answered), "s")
            self._note_nodes(phase, "obeys, longest", converged)

    async def activation(self, numbers: Sequence[int]) -> None:
        path, key = "/t/acme/which", self.keys["acme"]
        async with self.phase("activation") as phase:
            answered, converged = [], [list[float]() for _ in self.nodes]
            for number in numbers:
                self.callers.allowed = {self.version, number}
                switched = asyncio.create_task(
                    self.until_each(path, key, lambda reply, wanted=number: said(reply) == wanted)  # type: ignore[misc]
                )
                await asyncio.sleep(0.2)
                began = time.monotonic()
                await self.operate("POST", "/v1/tenants/acme/functions/which/activate", json={"version": number})
                answered.append(time.monotonic() - began)
                for moments, moment in zip(converged, await switched, strict=True):
                    moments.append(max(0.0, moment - began))
                self.version = number
                self.callers.allowed = {number}
            phase.notes["answered, longest"] = (max(answered), "s")
            self._note_nodes(phase, "answers with it, longest", converged)

    def _note_nodes(self, phase: Phase, what: str, converged: Sequence[Sequence[float]]) -> None:
        for node, moments in zip(self.nodes, converged, strict=True):
            phase.notes[f"{node.name} {what} of {len(moments)}"] = (max(moments), "s")

    async def quota(self, name: str, offered: Sequence[float]) -> None:
        """A tenant's rate across the nodes, each offered so many requests a second. The writers wait meanwhile, so that
        Redis' scripts are leases."""
        path, key = "/t/metered/hello", self.keys["metered"]
        self.writers.hold()
        await asyncio.sleep(1)
        accepted: Counter[int] = Counter()
        async with self.phase(name) as phase:
            began = time.monotonic()
            until = began + self.quota_s

            async def press(place: int, rate: float, connections: int = 3) -> None:
                connection = Connection(self.nodes[place].port)
                while (due := time.monotonic() + connections / rate) < until:
                    reply = await ask(connection, path, key)
                    if reply is not None and reply.status == 200:
                        accepted[place] += 1
                    elif reply is None or reply.status != 429:
                        phase.faults.append("neither accepted nor refused by the quota")
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                await connection.close()

            await asyncio.gather(*(press(at, rate) for at, rate in enumerate(offered) for _ in range(3)))
            lasted = time.monotonic() - began
        self.writers.go_on()
        most = BURST + RATE * lasted
        phase.notes["accepted"] = (accepted.total(), "requests")
        phase.notes["burst and rate allow"] = (most, "requests")
        phase.notes["scripts, leases for the most part"] = (phase.redis["evalsha"] / lasted, "1/s")
        for at, node in enumerate(self.nodes):
            phase.notes[f"{node.name} accepted"] = (accepted[at], "requests")
        if accepted.total() > most:
            phase.faults.append(f"{accepted.total()} accepted where {most:.0f} are the most")

    async def everything_is_there(self) -> None:
        """Once more at the end, all that was ever acknowledged."""
        self.tell(f"{len(self.writers.everything)} acknowledged writes are read again")
        gone = await missing(self.balancer, list(self.writers.everything))
        if gone:
            self.phases[-1].faults.append(f"at the end {len(gone)} acknowledged writes are gone")


def _reachable(readiness: dict[str, object]) -> bool:
    registry = readiness.get("registry")
    return isinstance(registry, dict) and registry.get("reachable") is True

"""A real Redis Cluster on the loopback device: three servers with slots, and replicas if asked."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wisp.registry.cluster import Cluster
from wisp.registry.events import Event, Subscribed
from wisp.registry.keys import EVENTS
from wisp.registry.registry import Registry

READY_S = 60.0
NODE_TIMEOUT_MS = 15_000
"""After this long a silent server is taken for failed: tests pause servers for less."""
_WRITTEN = re.compile(r"master_repl_offset:(\d+)")
_HAD = re.compile(r"slave\d+:.*state=online,offset=(\d+)")
"""In `INFO replication`: the bytes of a server's writes, and how many of them each replica that follows it has."""


@dataclass(slots=True, kw_only=True)
class Member:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@dataclass(slots=True, kw_only=True)
class RedisCluster:
    """`members`: those with slots first, in the order of their slots."""

    client: Path
    members: list[Member] = field(default_factory=list)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(member.address for member in self.members)

    def pause(self) -> None:
        for member in self.members:
            member.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        for member in self.members:
            member.process.send_signal(signal.SIGCONT)

    def ask(self, member: Member, *words: str) -> str:
        command = [str(self.client), "-h", "127.0.0.1", "-p", str(member.port), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=READY_S).stdout

    def manage(self, *words: str) -> None:
        command = [str(self.client), "--cluster", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=READY_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def wait_until_replicated(self) -> None:
        """The replica has all that the first server has acknowledged; `WAIT` tells of its own connection's writes."""
        first, words = self.members[0], ("INFO", "replication")
        (written,) = _WRITTEN.findall(self.ask(first, *words))
        deadline = time.monotonic() + READY_S
        while not any(int(had) >= int(written) for had in _HAD.findall(self.ask(first, *words))):
            assert time.monotonic() < deadline, f"no replica has {written} bytes of {first.address}"
            time.sleep(0.05)

    def take_over(self, port: str) -> None:
        """Makes the replica on this port a primary, whatever the others think of it."""
        replica = next(member for member in self.members if member.port == int(port))
        self.ask(replica, "CLUSTER", "FAILOVER", "TAKEOVER")
        self.wait_until(replica, "INFO", "replication", shows="role:master")
        self.wait_until(replica, "CLUSTER", "INFO", shows="cluster_state:ok")

    def move_slots(self, count: str) -> None:
        """From the first server to the second, keys and all, while others use them."""
        source, target = [self.ask(member, "CLUSTER", "MYID").strip() for member in self.members[:2]]
        words = ("--cluster-from", source, "--cluster-to", target, "--cluster-slots", count, "--cluster-yes")
        self.manage("reshard", self.members[0].address, *words)

    def forgive(self) -> None:
        """Those that live answer though slots are lost."""
        for member in self.members:
            if member.process.poll() is None:
                self.ask(member, "CONFIG", "SET", "cluster-require-full-coverage", "no")

    def wait_until(self, member: Member, *words: str, shows: str) -> None:
        deadline = time.monotonic() + READY_S
        while shows not in self.ask(member, *words):
            assert time.monotonic() < deadline, f"{member.address} does not show {shows}"
            time.sleep(0.05)


def free_port() -> int:
    """One whose cluster bus port (10,000 more) is there, too."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            return port


def start_member(
    binary: Path, directory: Path, *, again: int | None = None, more: Mapping[str, str] | None = None
) -> Member:
    """`again`: the port of one that has ended, which goes on with what it knew. `more`: settings beside these."""
    for _ in range(5):  # somebody else may take the port first
        port = free_port() if again is None else again
        folder = directory / str(port)
        folder.mkdir(exist_ok=again is not None)
        settings = {
            "port": str(port),
            "bind": "127.0.0.1",
            "dir": str(folder),
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(NODE_TIMEOUT_MS),
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": "0",
            "save": "",
            "appendonly": "no",
            **(more or {}),
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        process = subprocess.Popen([str(binary), *words], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_S
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, "redis-server did not come up"
                time.sleep(0.02)
            else:
                return Member(port=port, process=process)
    raise AssertionError("redis-server found no port")


@contextmanager
def running_cluster(binary: Path, *, replicas_of_first: int = 0) -> Iterator[RedisCluster]:
    client = binary.with_name("redis-cli")
    with tempfile.TemporaryDirectory(prefix="wisp-") as name:
        cluster = RedisCluster(client=client)
        try:
            for _ in range(3):
                cluster.members.append(start_member(binary, Path(name)))
            cluster.manage(
                "create", *(member.address for member in cluster.members), "--cluster-replicas", "0", "--cluster-yes"
            )
            for member in cluster.members:
                cluster.wait_until(member, "CLUSTER", "INFO", shows="cluster_state:ok")
            first = cluster.members[0]
            for _ in range(replicas_of_first):
                replica = start_member(binary, Path(name))
                cluster.members.append(replica)
                leader = cluster.ask(first, "CLUSTER", "MYID").strip()
                cluster.manage(
                    "add-node", replica.address, first.address, "--cluster-slave", "--cluster-master-id", leader
                )
                cluster.wait_until(replica, "INFO", "replication", shows="master_link_status:up")
                for member in cluster.members:
                    cluster.wait_until(member, "CLUSTER", "INFO", shows="cluster_known_nodes:4")
            yield cluster
        finally:
            for member in cluster.members:
                if member.process.poll() is None:
                    os.kill(member.process.pid, signal.SIGKILL)
                member.process.wait()


async def settled(registry: Registry, events: AsyncIterator[Subscribed | Event]) -> None:
    """Nothing that was published before is still to come: each server's words arrive in their order. Said twice, since
    what lay unread at a server, of a caller that has gone, may be taken up behind the first in the same round; in words
    of its own each time, since those of an earlier call may be on their way to this listener's server still."""
    server = registry.connection.server
    if not isinstance(server, Cluster):
        return
    primaries = server.client.get_primaries()
    for _ in range(2):
        left = set()
        for node in primaries:
            left.add(word := secrets.token_hex(8))
            data = json.dumps({"tenant": "", "kind": "settled", "name": word, "generation": 0})
            await node.execute_command("PUBLISH", EVENTS, data)
        while left:
            event = await asyncio.wait_for(anext(events), READY_S)
            if isinstance(event, Event) and event.kind == "settled":
                left.discard(event.name)


async def on_every_server(registry: Registry, *words: str) -> None:
    """What has no key is said to each."""
    server = registry.connection.server
    if isinstance(server, Cluster):
        await server.client.execute_command(*words, target_nodes=server.client.get_nodes())
    else:
        await registry.connection.command(*words)

"""A Redis Cluster as one would run it: three primaries, a replica of each, kept on disk; any of them may be killed."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis.crc import key_slot

from registry.clusters import READY_S, Member, RedisCluster, start_member

SETTINGS = {"cluster-node-timeout": "5000", "appendonly": "yes", "appendfsync": "everysec"}
SERVERS = 6


@dataclass(slots=True, kw_only=True)
class Servers(RedisCluster):
    binary: Path
    directory: Path

    def primaries(self) -> list[Member]:
        return [member for member in self._living() if self.ask(member, "ROLE").startswith("master")]

    def slots_of(self, member: Member) -> list[tuple[int, int]]:
        """First and last slot of each range that it serves."""
        nodes = self.ask(member, "CLUSTER", "NODES").splitlines()
        own = next(line.split()[8:] for line in nodes if "myself" in line.split()[2])
        ranges = [word.split("-") for word in own if not word.startswith("[")]
        return [(int(words[0]), int(words[-1])) for words in ranges]

    def kill(self, member: Member) -> None:
        member.process.kill()
        member.process.wait(READY_S)

    def start_again(self, member: Member) -> None:
        member.process = start_member(self.binary, self.directory, again=member.port, more=SETTINGS).process

    def wait_until_whole(self) -> None:
        """Every server lives, every slot is served, every replica follows its primary."""
        deadline = time.monotonic() + READY_S
        while not all(self._whole(member) for member in self.members):
            assert time.monotonic() < deadline, "the cluster does not become whole"
            time.sleep(0.1)

    def _whole(self, member: Member) -> bool:
        try:
            replication, state = self.ask(member, "INFO", "replication"), self.ask(member, "CLUSTER", "INFO")
        except subprocess.CalledProcessError:
            return False
        follows = "role:master" in replication or "master_link_status:up" in replication
        return follows and "cluster_state:ok" in state and f"cluster_known_nodes:{SERVERS}" in state

    def calls(self) -> Counter[str]:
        """How often each command was carried out since they started, by all primaries together."""
        found: Counter[str] = Counter()
        for member in self.primaries():
            for line in self.ask(member, "INFO", "commandstats").splitlines():
                name, _, rest = line.partition(":calls=")
                if rest:
                    found[name.removeprefix("cmdstat_")] += int(rest.partition(",")[0])
        return found

    def _living(self) -> list[Member]:
        return [member for member in self.members if member.process.poll() is None]


def slot_of(tenant: str) -> int:
    return key_slot(f"wisp:{{{tenant}}}:tenant".encode())


@contextmanager
def running_servers(binary: Path, directory: Path) -> Iterator[Servers]:
    directory.mkdir()
    servers = Servers(client=binary.with_name("redis-cli"), binary=binary, directory=directory)
    try:
        for _ in range(SERVERS):
            servers.members.append(start_member(binary, directory, more=SETTINGS))
        addresses = [member.address for member in servers.members]
        servers.manage("create", *addresses, "--cluster-replicas", "1", "--cluster-yes")
        servers.wait_until_whole()
        yield servers
    finally:
        for member in servers.members:
            member.process.kill()
            member.process.wait(READY_S)

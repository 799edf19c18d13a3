"""Real redis-servers, private and empty: each test runs on the one from the PATH, on the one in the wheel,
and on a cluster of three."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry.clusters import RedisCluster, running_cluster
from registry.samples import ACME, FREE
from wisp.registry.binary import BINARY_NAME, candidates
from wisp.registry.registry import Registry

READY_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    url: str
    pid: int

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


def binary(which: str) -> Path:
    """`path` or `wheel`; absent here it skips, in CI it fails."""
    on_path = shutil.which(BINARY_NAME)
    for path in candidates():
        if (which == "path") == (str(path) == on_path):
            return path
    message = f"no redis-server on the {which}"
    if "CI" in os.environ:
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session", params=["path", "wheel"])
def redis_binary(request: pytest.FixtureRequest) -> Path:
    return binary(request.param)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name, which pytest's own may not."""
    directory = tempfile.mkdtemp(prefix="wisp-")
    yield Path(directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="session", params=["path", "wheel", "cluster"])
def redis_server(request: pytest.FixtureRequest) -> Iterator[Server | RedisCluster]:
    if request.param == "cluster":
        with running_cluster(cluster_binary()) as cluster:
            yield cluster
    else:
        with running_server(binary(request.param)) as server:
            yield server


@pytest.fixture
def single_server(redis_server: Server | RedisCluster) -> Server:
    """For what a cluster has not."""
    if not isinstance(redis_server, Server):
        pytest.skip("of one server")
    return redis_server


def cluster_binary() -> Path:
    """One with its redis-cli beside it, which joins the servers."""
    for path in candidates():
        if path.with_name("redis-cli").exists():
            return path
    message = "no redis-server with its redis-cli"
    if "CI" in os.environ:
        pytest.fail(message)
    pytest.skip(message)


@contextmanager
def running_server(redis_binary: Path) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="wisp-") as directory:
        socket = Path(directory) / "redis.sock"
        command = [str(redis_binary), "--port", "0", "--unixsocket", str(socket), "--dir", directory, "--save", ""]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                deadline = time.monotonic() + READY_S
                while not socket.exists():
                    assert process.poll() is None, "redis-server ended at its start"
                    assert time.monotonic() < deadline, "redis-server did not come up"
                    time.sleep(0.02)
                yield Server(url=f"unix://{socket}", pid=process.pid)
            finally:
                process.kill()


@pytest.fixture
async def registry(redis_server: Server | RedisCluster) -> AsyncIterator[Registry]:
    """Empty and prepared."""
    registry = Registry(redis_server.url)
    await registry.connection.wait_until_reachable(READY_S)
    await registry.connection.command("FLUSHALL")
    await registry.prepare()
    yield registry
    await registry.aclose()


@pytest.fixture
async def acme(registry: Registry) -> Registry:
    """The registry with one tenant in it."""
    await registry.tenants.create(ACME, FREE)
    return registry

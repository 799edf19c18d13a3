"""Nodes of one platform, each `wisp serve` on a data directory of its own: started, drained and replaced, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from cluster.balancer import free_port
from serving import Serving, serving

READY_S = 90.0
DRAIN_DELAY_S = 2
BUCKET = "wisp-blobs"
AWS = {
    "AWS_ALLOW_HTTP": "true",
    "AWS_ACCESS_KEY_ID": "an-id",
    "AWS_SECRET_ACCESS_KEY": "a-secret",
    "AWS_REGION": "us-east-1",
}


@dataclass(slots=True, kw_only=True)
class Node:
    """`start` may be called again after `drain` or `kill`: the same data directory, the same port."""

    name: str
    directory: Path
    flags: Sequence[str]
    environment: Mapping[str, str]
    port: int = field(default_factory=free_port)
    stack: ExitStack = field(default_factory=ExitStack)
    serving: Serving | None = None

    def start(self) -> float:
        """Seconds until it was ready."""
        began = time.monotonic()
        flags = ("--bind", f"127.0.0.1:{self.port}", "--drain-delay", f"{DRAIN_DELAY_S}s", *self.flags)
        self.serving = self.stack.enter_context(serving(self.directory, *flags, **self.environment))
        while self.readiness().get("ready") is not True:
            assert self.process.poll() is None, self.serving.log.read_text()
            assert time.monotonic() < began + READY_S, f"{self.name} is not ready: {self.serving.log.read_text()}"
            time.sleep(0.05)
        return time.monotonic() - began

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self.serving is not None
        return self.serving.process

    def drain(self) -> float:
        """Seconds from SIGTERM to its end."""
        began = time.monotonic()
        self.process.terminate()
        code = self.process.wait(READY_S)
        assert self.serving is not None
        assert code == 0, f"{self.name} ended with {code}: {self.serving.log.read_text()}"
        self.stack.close()
        return time.monotonic() - began

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(READY_S)
        self.stack.close()

    def readiness(self) -> dict[str, object]:
        try:
            answer: dict[str, object] = httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=10).json()
        except httpx.TransportError:
            return {}
        return answer


@contextmanager
def fleet(directory: Path, names: Sequence[str], *flags: str, **environment: str) -> Iterator[list[Node]]:
    with ExitStack() as stack:
        nodes = []
        for name in names:
            (directory / name).mkdir()
            node = Node(name=name, directory=directory / name, flags=flags, environment=environment)
            stack.callback(node.stack.close)
            node.start()
            nodes.append(node)
        yield nodes


@contextmanager
def object_store() -> Iterator[dict[str, str]]:
    """An S3 server with one bucket; the variables by which it is found."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    signed = "AWS4-HMAC-SHA256 Credential=an-id/20260101/us-east-1/s3/aws4_request, Signature=0"
    try:
        deadline = time.monotonic() + READY_S
        while True:
            assert process.poll() is None, "the S3 server has ended"
            assert time.monotonic() < deadline, "the S3 server did not come up"
            try:
                httpx.put(f"{url}/{BUCKET}", headers={"Authorization": signed}, timeout=10).raise_for_status()
            except httpx.TransportError:
                time.sleep(0.1)
            else:
                break
        yield AWS | {"AWS_ENDPOINT_URL": url}
    finally:
        process.kill()
        process.wait(READY_S)

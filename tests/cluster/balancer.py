"""haproxy in front of the nodes, set up as one would: asks `/readyz`, gives what a node did not take to another."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

CHECK_S = 0.5
SEEN_S = 3 * CHECK_S
"""After this the balancer has noticed what became of a node."""
READY_S = 30.0
PORTS = range(20_000, 30_000)
"""Below those that the kernel gives to clients, so that a node finds its own again."""

CONFIGURATION = """
global
  nbthread 1
  maxconn 2000
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  timeout check 2s
  timeout http-keep-alive 60s
  retries 3
  option redispatch 1
  retry-on conn-failure empty-response 503
frontend all
  bind 127.0.0.1:{port}
  default_backend nodes
backend nodes
  balance roundrobin
  option httpchk GET /readyz
  http-check expect status 200
  # What a node may have carried out is repeated only where that changes nothing.
  http-request disable-l7-retry unless METH_GET
  default-server check inter {check_ms}ms fall 2 rise 1
{servers}
"""


def free_port() -> int:
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def binary() -> str | None:
    """Debian's package puts it where only root's PATH leads."""
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def balancing(directory: Path, nodes: Mapping[str, int]) -> Iterator[int]:
    """The port on which it listens, for nodes by name and port."""
    program = binary()
    assert program is not None, "there is no haproxy: apt-get install haproxy"
    port, file, log = free_port(), directory / "haproxy.cfg", directory / "haproxy.log"
    servers = "\n".join(f"  server {name} 127.0.0.1:{at}" for name, at in nodes.items())
    file.write_text(CONFIGURATION.format(port=port, check_ms=int(CHECK_S * 1000), servers=servers))
    with log.open("wb") as output:
        process = subprocess.Popen([program, "-db", "-f", str(file)], stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + READY_S
        while not _listens(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "haproxy did not come up"
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait(READY_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

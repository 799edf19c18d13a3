"""What tests of quotas need: a real Redis whose clock they hold in their hands, and a tenant's quota."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from wisp.names import parse_class, parse_tenant
from wisp.policy.schema import Quota
from wisp.registry.binary import candidates
from wisp.registry.connection import Script
from wisp.registry.quotascripts import LEASE
from wisp.registry.registry import Registry

ACME = parse_tenant("acme")
FREE = parse_class("free")
READY_S = 20.0
FAKE_CLOCK = "fake-time"
MIDDAY_S = 20_000 * 86_400 + 43_200

QUOTA = Quota(
    requests_per_second=10,
    burst=20,
    max_inflight=8,
    fuel_per_day=300_000,
    nn_seconds_per_day=100,
    storage=2**30,
    functions=10,
    models=10,
)
HELD_CLOCK = Script(LEASE.text.replace("redis.call('TIME')", f"redis.call('LRANGE', '{FAKE_CLOCK}', 0, 1)"))
"""The script as it is, but for where it reads the time."""
assert HELD_CLOCK.text != LEASE.text


@contextlib.contextmanager
def redis_running() -> Iterator[str]:
    """The URL of a private, empty server."""
    with tempfile.TemporaryDirectory(prefix="wisp-") as directory:
        socket = Path(directory) / "redis.sock"
        command = [
            str(next(iter(candidates()))),
            "--port",
            "0",
            "--unixsocket",
            str(socket),
            "--dir",
            directory,
            "--save",
            "",
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                deadline = time.monotonic() + READY_S
                while not socket.exists():
                    assert process.poll() is None, "redis-server ended at its start"
                    assert time.monotonic() < deadline, "redis-server did not come up"
                    time.sleep(0.02)
                yield f"unix://{socket}"
            finally:
                process.kill()


async def set_clock(registry: Registry, seconds: float) -> None:
    whole = int(seconds)
    await registry.connection.command("DEL", FAKE_CLOCK)
    await registry.connection.command("RPUSH", FAKE_CLOCK, whole, int((seconds - whole) * 1e6))


async def leases_asked(registry: Registry) -> int:
    """How many scripts the server has run since its statistics were reset."""
    info = await registry.connection.command("INFO", "commandstats")
    return sum(int(info.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "eval"))

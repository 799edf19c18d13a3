"""What the load itself costs on these cores: a server that answers every request alike, in the platform's place.

bench_neighbours.py --control measures the same victim beside it, and those attackers that need no platform. What the
victim then waits for is the load's processes and the kernel's own work for their sockets.

python tests/bench/control.py PORT
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import uvicorn

BODY: Final = b'{"label": 7}'
START_S: Final = 30.0


async def app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body", False):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


class Control:
    """Such a server, as bench_neighbours sees a platform."""

    def __init__(self, port: int, tenants: tuple[str, ...]) -> None:
        self.port = port
        self.keys = dict.fromkeys(tenants, "none")

    def calm(self) -> None:
        """Nothing of an attack stays."""


@contextmanager
def control(port: int, tenants: tuple[str, ...]) -> Iterator[Control]:
    server = subprocess.Popen([sys.executable, __file__, str(port)])
    try:
        until = time.monotonic() + START_S
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/").raise_for_status()
                break
            except httpx.TransportError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        yield Control(port, tenants)
    finally:
        server.kill()
        server.wait(START_S)


def main() -> None:
    uvicorn.run(
        app, port=int(sys.argv[1]), http="httptools", ws="none", lifespan="off", loop="uvloop", log_config=None,
        access_log=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()

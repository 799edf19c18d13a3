"""`wisp serve` as a process of its own, spoken to over sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from platforms import OPERATOR_KEY

READY_S = 30.0
END_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """`log`: everything that it printed."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        return self.process.wait(END_S)


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "wisp.cli", "serve", *flags]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WISP_")}
    return kept | {"WISP_OPERATOR_KEY": OPERATOR_KEY} | more


@contextmanager
def serving(directory: Path, *flags: str, **more: str) -> Iterator[Serving]:
    """On a free port, until the block ends; then it is killed if it still runs."""
    log = directory / "wisp.log"
    flags = ("--bind", "127.0.0.1:0", "--data-dir", str(directory / "data"), "--workers", "1", *flags)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(*flags), env=environment(**more), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield Serving(process=process, port=_port(process, log), log=log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(END_S)


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if "listening on http" in line:
                return int(line.rpartition(":")[2].rstrip('"}'))
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(f"wisp did not start: {log.read_text()}")

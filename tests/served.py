"""A platform under load: its processes as the kernel sees them, and a client cheap enough to load it."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from platforms import TENANTS
from serving import environment

START_S = 60.0
STOP_S = 45.0


def processes_of(parent: int) -> dict[int, str]:
    """Children of a process, and theirs: process id to command line."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                ppid = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if ppid == parent:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found |= processes_of(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def descriptors(pid: int) -> Counter[str]:
    """What it has open, by kind: `socket`, `memfd:tensors`; a file by its suffix or name, a number by its folder."""
    found: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:  # closed meanwhile
            continue
        kind = target.removesuffix(" (deleted)").partition(":[")[0]
        path = Path(kind)
        found[path.suffix or (path.parent.name if path.name.isdigit() else path.name)] += 1
    return found


class Served:
    """A running platform; its output is followed, so that it never blocks."""

    def __init__(self, data_dir: Path, *flags: str) -> None:
        self.data_dir = data_dir
        command = [sys.executable, "-m", "wisp.cli", "serve", "--bind", "127.0.0.1:0", "--data-dir", str(data_dir)]
        self.process = subprocess.Popen(
            [*command, "--workers", "2", "--tenants", "tenants", *flags],
            cwd=TENANTS.parent,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._fresh: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()
        self.port = int(self.wait_for(r"listening on http://127\.0\.0\.1:(\d+)")[1])

    def _follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            self._fresh.put(line)

    def wait_for(self, pattern: str, seconds: float = START_S) -> re.Match[str]:
        until = time.monotonic() + seconds
        while True:
            try:
                line = self._fresh.get(timeout=max(until - time.monotonic(), 0.01))
            except queue.Empty:
                raise AssertionError(f"no line like {pattern!r} came:\n{''.join(self.lines)}") from None
            found = re.search(pattern, line)
            if found:
                return found

    @property
    def pid(self) -> int:
        return self.process.pid

    def children(self) -> dict[int, str]:
        return processes_of(self.pid)

    def child(self, module: str) -> list[int]:
        return [pid for pid, line in self.children().items() if module in line]

    def connections(self) -> int:
        """Those that callers have, and those that the router has not closed after them."""
        rows = [row.split() for row in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]]
        return sum(row[1].endswith(f":{self.port:04X}") and row[3] in ("01", "08") for row in rows)

    def key(self, tenant: str) -> str:
        return (self.data_dir / "dev-keys" / tenant).read_text().strip()

    def stop(self) -> int:
        """SIGTERM; the exit code. No process may be left."""
        children = self.children()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_S)
        left = [line for pid, line in children.items() if Path(f"/proc/{pid}").exists()]
        assert not left, left
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(STOP_S)
        self._reader.join(STOP_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def served_platform(data_dir: Path, *flags: str) -> Iterator[Served]:
    served = Served(data_dir, *flags)
    try:
        yield served
    finally:
        served.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def outcome(self) -> str:
        return self.headers.get("wisp-outcome", "")

    @property
    def error(self) -> str:
        return self.headers.get("wisp-error", "").partition(";")[0]

    def json(self) -> dict[str, object]:
        parsed: dict[str, object] = json.loads(self.body)
        return parsed


class Connection:
    """One keep-alive HTTP/1.1 connection, reopened when the server closes it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def request(
        self, method: str, path: str, *, key: str | None = None, body: bytes = b"", kind: str = ""
    ) -> Reply:
        lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
        lines += [f"authorization: Bearer {key}"] if key is not None else []
        lines += [f"content-type: {kind}"] if kind else []
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        assert self.reader is not None
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        content = await self.reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close":
            await self.close()
        return Reply(status=int(head[0].split()[1]), headers=headers, body=content)

    async def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            await self.writer.wait_closed()
            self.writer = self.reader = None


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    connection = Connection(port)
    try:
        yield connection
    finally:
        await connection.close()

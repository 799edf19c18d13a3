"""wisp's own redis-server: private, on a Unix socket, durable, restarted when it dies, gone when wisp is.

A process kill loses nothing that was acknowledged (append-only file, synced with every write).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from typing import Final
from urllib.parse import quote

from wisp.errors import InvalidSettings, RegistryUnavailable
from wisp.registry.binary import Binary, find_binary
from wisp.registry.connection import Connection

log = logging.getLogger(__name__)

READY_S: Final = 60.0
"""Reading a large append-only file takes a while: the server answers only after it."""
LOCK_S: Final = 10.0
STOP_S: Final = 10.0
PING_S: Final = 1.0
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0
LOG_LOOK_S: Final = 60.0
LOG_BYTES: Final = 1 << 20
TAIL_BYTES: Final = 4096
SOCKET_PATH_BYTES: Final = 107
"""sun_path of unix(7), less its end."""


class EmbeddedRedis:
    """`start`, then `run` beside the rest of the platform, then `stop`; from one event loop, in the main thread.

    (The server's life is tied to the thread that started it: prctl(2) PR_SET_PDEATHSIG.)
    """

    def __init__(self, data_dir: Path, *, binary: Binary | None = None, ready_s: float = READY_S) -> None:
        self.directory = (data_dir / "redis").absolute()
        self.socket = self.directory / "redis.sock"
        self.log_file = self.directory / "redis.log"
        self.binary = binary
        self.ready_s = ready_s
        self.process: Process | None = None
        self.stopping = False
        if len(os.fsencode(self.socket)) > SOCKET_PATH_BYTES:
            raise InvalidSettings(
                f"{self.socket} is longer than a Unix socket's path may be ({SOCKET_PATH_BYTES} bytes): "
                "choose a shorter --data-dir"
            )

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    async def start(self) -> str:
        """Returns the URL once the server answers.

        Raises `InvalidSettings` without a usable server or directory, `RegistryUnavailable` with the end of the
        server's log when it does not come up.
        """
        if self.binary is None:
            self.binary = await find_binary()
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)  # the socket itself is world-connectable in some versions
        except OSError as error:
            raise InvalidSettings(f"{self.directory} cannot be used: {error.strerror}") from error
        self.binary.check_data(self.directory)
        await self._spawn(self.binary)
        return self.url

    async def run(self) -> None:
        """Restarts the server whenever it ends, ever more slowly while it does not come up; until `stop`."""
        pause_s = FIRST_PAUSE_S
        while not self.stopping:
            code = await self._watch()
            if self.stopping:
                return
            log.error("redis-server ended with status %s, starting it again in %.1f s: %s", code, pause_s, self.tail())
            await asyncio.sleep(pause_s)
            if self.stopping:
                return
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            try:
                await self.start()
            except (RegistryUnavailable, InvalidSettings) as error:
                log.error("redis-server did not come up: %s", error)  # noqa: TRY400  (the message says it all)
            else:
                pause_s = FIRST_PAUSE_S

    async def stop(self) -> None:
        """Ends the server: asked first (it syncs its file), killed after `STOP_S`."""
        self.stopping = True
        process = self.process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            log.warning("redis-server did not end within %.0f s: killed", STOP_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def tail(self) -> str:
        """The end of the server's log, one line."""
        try:
            with self.log_file.open("rb") as source:
                source.seek(max(0, self.log_file.stat().st_size - TAIL_BYTES))
                lines = source.read(TAIL_BYTES).decode(errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return " | ".join(line.strip() for line in lines[-8:] if line.strip())

    async def _spawn(self, binary: Binary) -> None:
        self._bound_log()
        with self.log_file.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", "wisp.registry.launch"),
                *(str(os.getpid()), str(self.directory / "lock"), str(LOCK_S)),
                *(str(binary.path), *self._configuration()),
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                env={},
            )
        try:
            await self._wait_until_ready(self.process)
        except TimeoutError as error:
            self.process.kill()
            await self.process.wait()
            raise RegistryUnavailable(f"redis-server was not ready within {self.ready_s:g} s: {self.tail()}") from error

    async def _wait_until_ready(self, process: Process) -> None:
        connection = Connection(self.url, timeout_s=PING_S, connections=1)
        try:
            async with asyncio.timeout(self.ready_s):
                while True:
                    if process.returncode is not None:
                        raise RegistryUnavailable(f"redis-server ended at its start: {self.tail()}")
                    try:
                        return await connection.ping()
                    except RegistryUnavailable:
                        await asyncio.sleep(0.02)
        finally:
            await connection.aclose()

    async def _watch(self) -> int:
        """Waits for the server's end, and keeps its log bounded meanwhile."""
        if self.process is None:
            raise RuntimeError("run before start")
        while True:
            try:
                async with asyncio.timeout(LOG_LOOK_S):
                    return await self.process.wait()
            except TimeoutError:
                self._bound_log()

    def _bound_log(self) -> None:
        """Empties a log that has grown large: the server appends line by line, wherever the end is."""
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_BYTES:
            os.truncate(self.log_file, 0)

    def _configuration(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "600",
            "dir": str(self.directory),
            "pidfile": str(self.directory / "redis.pid"),
            "daemonize": "no",
            "logfile": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [word for name, value in settings.items() for word in (f"--{name}", value)]

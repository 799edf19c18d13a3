from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from registry.conftest import binary
from wisp.errors import InvalidSettings, RegistryUnavailable
from wisp.registry.binary import Binary, find_binary, inspect
from wisp.registry.connection import Connection
from wisp.registry.embedded import LOG_BYTES, EmbeddedRedis


@asynccontextmanager
async def serving(embedded: EmbeddedRedis) -> AsyncIterator[Connection]:
    """Started, supervised, and stopped in the end."""
    connection = Connection(await embedded.start())
    supervisor = asyncio.ensure_future(embedded.run())
    try:
        yield connection
    finally:
        await embedded.stop()
        supervisor.cancel()
        with suppress(asyncio.CancelledError):
            await supervisor
        await connection.aclose()


@pytest.fixture
async def embedded(redis_binary: Path, short_dir: Path) -> EmbeddedRedis:
    return EmbeddedRedis(short_dir / "data", binary=await inspect(redis_binary))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until_dead(pid: int) -> None:
    async with asyncio.timeout(20):
        while alive(pid):
            await asyncio.sleep(0.02)


async def test_the_server_is_private_and_durable(embedded: EmbeddedRedis) -> None:
    async with serving(embedded) as connection:
        assert stat.S_IMODE(embedded.directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(embedded.socket.stat().st_mode) == 0o600
        wanted = {
            "port": "0",
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        for name, value in wanted.items():
            assert await connection.command("CONFIG", "GET", name) == [name.encode(), value.encode()]
        assert embedded.process is not None
        assert int((embedded.directory / "redis.pid").read_text()) == embedded.process.pid


async def test_a_killed_server_comes_back_with_all_that_it_acknowledged(embedded: EmbeddedRedis) -> None:
    async with serving(embedded) as connection:
        acknowledged = 0

        async def write(stop: asyncio.Event) -> None:
            nonlocal acknowledged
            while not stop.is_set():
                await connection.command("SET", f"key-{acknowledged}", "x")
                acknowledged += 1

        for _ in range(2):
            stop = asyncio.Event()
            writer = asyncio.ensure_future(write(stop))
            enough = acknowledged + 200
            async with asyncio.timeout(20):
                while acknowledged < enough:
                    await asyncio.sleep(0.01)
            assert embedded.process is not None
            os.kill(embedded.process.pid, signal.SIGKILL)
            with pytest.raises(RegistryUnavailable):
                await writer
            await connection.wait_until_reachable(20)
            found = await connection.command("EXISTS", *(f"key-{index}" for index in range(acknowledged)))
            assert found == acknowledged


async def test_a_stopped_server_is_gone_and_its_data_is_not(embedded: EmbeddedRedis) -> None:
    async with serving(embedded) as connection:
        await connection.command("SET", "kept", "1")
        assert embedded.process is not None
        pid = embedded.process.pid
    assert not alive(pid)
    again = EmbeddedRedis(embedded.directory.parent, binary=embedded.binary)
    async with serving(again) as connection:
        assert await connection.get("kept") == b"1"


async def test_a_server_that_does_not_listen_is_killed(
    embedded: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wisp.registry.embedded.STOP_S", 0.2)
    await embedded.start()
    assert embedded.process is not None
    os.kill(embedded.process.pid, signal.SIGSTOP)
    await embedded.stop()
    assert embedded.process.returncode == -signal.SIGKILL
    await embedded.stop()


PARENT = """
import asyncio, sys
from pathlib import Path
from wisp.registry.binary import inspect
from wisp.registry.embedded import EmbeddedRedis

async def main():
    embedded = EmbeddedRedis(Path(sys.argv[1]), binary=await inspect(Path(sys.argv[2])))
    await embedded.start()
    print(embedded.process.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_the_server_ends_with_its_platform_and_the_next_one_waits_for_it(
    embedded: EmbeddedRedis, redis_binary: Path
) -> None:
    command = [sys.executable, "-c", PARENT, str(embedded.directory.parent), str(redis_binary)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(await asyncio.to_thread(parent.stdout.readline))
        assert alive(pid)
        parent.kill()
    async with serving(embedded) as connection:  # it takes over the directory at once
        await connection.ping()
        await until_dead(pid)


async def test_two_servers_never_share_a_directory(embedded: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wisp.registry.embedded.LOCK_S", 0.2)
    async with serving(embedded) as connection:
        second = EmbeddedRedis(embedded.directory.parent, binary=embedded.binary)
        second.socket = second.directory / "second.sock"
        with pytest.raises(RegistryUnavailable, match="another redis-server still uses"):
            await second.start()
        await second.stop()
        await connection.ping()


async def test_data_that_cannot_be_read_is_told_with_the_servers_own_words(embedded: EmbeddedRedis) -> None:
    async with serving(embedded) as connection:
        await connection.command("SET", "kept", "1")
    (data,) = [
        path
        for path in embedded.directory.rglob("appendonly.aof*")
        if path.is_file() and path.suffix != ".manifest" and ".base" not in path.name
    ]
    data.write_bytes(b"REDIS9999" + data.read_bytes())
    again = EmbeddedRedis(embedded.directory.parent, binary=embedded.binary)
    with pytest.raises(RegistryUnavailable, match=r"ended at its start: .*[Rr]ead"):
        await again.start()


async def test_an_older_server_does_not_overlook_a_newer_ones_data(short_dir: Path) -> None:
    newer, older = await inspect(binary("path")), await inspect(binary("wheel"))
    if not newer.version >= (7, 0) > older.version:
        pytest.skip("this needs one server before 7.0 and one from there on")
    async with serving(EmbeddedRedis(short_dir, binary=newer)) as connection:
        await connection.command("SET", "kept", "1")
    with pytest.raises(InvalidSettings, match="redis-server 7 or later"):
        await EmbeddedRedis(short_dir, binary=older).start()


async def test_a_newer_server_takes_over_an_older_ones_data(short_dir: Path) -> None:
    newer, older = await inspect(binary("path")), await inspect(binary("wheel"))
    if newer.version <= older.version:
        pytest.skip("the two servers are equally old")
    for index, each in enumerate((older, newer)):
        async with serving(EmbeddedRedis(short_dir, binary=each)) as connection:
            assert await connection.command("INCR", "started") == index + 1


async def test_a_grown_log_is_cut(embedded: EmbeddedRedis) -> None:
    embedded.directory.mkdir(parents=True)
    embedded.log_file.write_bytes(b"x" * (LOG_BYTES + 1))
    async with serving(embedded):
        assert embedded.log_file.stat().st_size < LOG_BYTES
        assert "x" * 100 not in embedded.tail()


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="shorter --data-dir"):
        EmbeddedRedis(tmp_path / ("x" * 120))


async def test_without_any_server_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wisp.registry.binary.candidates", lambda: iter(()))
    with pytest.raises(InvalidSettings, match="'redis-server'"):
        await find_binary()


async def test_a_server_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = script(tmp_path / "old", "Redis server v=5.0.14 sha=0")
    monkeypatch.setattr("wisp.registry.binary.candidates", lambda: iter((old,)))
    with pytest.raises(InvalidSettings, match="is older"):
        await find_binary()
    new = script(tmp_path / "new", "Redis server v=8.2.1 sha=0")
    monkeypatch.setattr("wisp.registry.binary.candidates", lambda: iter((old, new)))
    assert await find_binary() == Binary(path=new, version=(8, 2))


async def test_what_is_no_redis_server_is_refused(tmp_path: Path) -> None:
    for path in (script(tmp_path / "a", "hello"), tmp_path / "none", tmp_path):
        with pytest.raises(InvalidSettings):
            await inspect(path)


def script(path: Path, says: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o700)
    return path

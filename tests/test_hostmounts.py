"""Host mounts: fresh enough, shared, and never more than the ceiling names, up to a guest on a whole node."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from platforms import OPERATOR_KEY, REPOSITORY, Tenancy
from wisp import hostmounts
from wisp.errors import ExceedsCeiling, InvalidPolicy, Unavailable
from wisp.hostmounts import HostStore
from wisp.node import Node
from wisp.scheduling.hostfiles import HostMount
from wisp.settings import Settings

PROBE = REPOSITORY / "tests/guests/probe/module.wasm"


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_change_is_seen_at_the_next_look_and_none_makes_no_new_segment(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    clock = Clock()
    store = HostStore(clock)
    mounts = (HostMount(root=str(tmp_path), below=(), allow=("*",)),)
    first = await store.segment(mounts)
    (tmp_path / "a").write_bytes(b"other")
    assert await store.segment(mounts) is first
    clock.now_s += 1.0
    second = await store.segment(mounts)
    assert second is not first
    clock.now_s += 1.0
    again, beside = await asyncio.gather(store.segment(mounts), store.segment(mounts))
    assert again is beside is second
    (tmp_path / "new").write_bytes(b"")
    os.replace(tmp_path / "new", tmp_path / "a")
    clock.now_s += 1.0
    assert await store.segment(mounts) is not second


async def test_a_directory_that_goes_away_is_an_error_until_it_is_back(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    clock = Clock()
    store = HostStore(clock)
    mounts = (HostMount(root=str(directory), below=(), allow=("*",)),)
    with pytest.raises(Unavailable, match="cannot be opened"):
        await store.segment(mounts)
    directory.mkdir()
    with pytest.raises(Unavailable):
        await store.segment(mounts)  # not walked again by every request
    clock.now_s += 1.0
    assert await store.segment(mounts) is not None
    assert await store.segment(()) is None


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """Its ceiling names one directory of the host."""
    shown, policies = tmp_path / "shown", tmp_path / "policies"
    (shown / "words").mkdir(parents=True)
    (shown / "words" / "en.txt").write_bytes(b"one")
    (shown / "key.pem").write_bytes(b"key")
    (tmp_path / "beside").mkdir()
    shutil.copytree(REPOSITORY / "policies", policies)
    ceiling = policies / "ceiling.yaml"
    ceiling.write_text(ceiling.read_text().replace("host: []", f"host: ['{shown}']"))
    settings = Settings.load(
        {"data_dir": str(tmp_path / "data"), "workers": "1", "policies": str(policies)},
        environ={"WISP_OPERATOR_KEY": OPERATOR_KEY},
    )
    async with Node(settings) as started:
        yield started


def policy(path: Path) -> bytes:
    mount = f"{{mount: /host, from: host, path: '{path}', allow: ['**/*.txt']}}"
    return f"wisp: 1\nabi: command\non_violation: errno\nfiles: [{mount}]\n".encode()


async def test_a_guest_reads_the_operators_directory_and_sees_it_change(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostmounts, "REFRESH_S", 0.0)
    acme = await Tenancy.create(node, "acme", "standard")
    module, shown = PROBE.read_bytes(), tmp_path / "shown"
    await acme.deploy("probe", module, policy(shown))

    async def get(path: str) -> tuple[int | None, bytes]:
        reply = await acme.call("probe", path=path.encode())
        return reply.status, reply.body

    assert await get("/read/host/words/en.txt") == (200, b"one")
    assert await get("/list/host") == (200, b"words\n")
    assert (await get("/read/host/key.pem"))[0] != 200
    assert (await get("/write/host/words/en.txt"))[1] == b"ReadOnlyFilesystem\n"
    (shown / "words" / "en.txt").write_bytes(b"changed")
    (shown / "words" / "escape.txt").symlink_to(tmp_path / "policies" / "ceiling.yaml")
    assert await get("/read/host/words/en.txt") == (200, b"changed")
    assert await get("/list/host/words") == (200, b"en.txt\n")
    (shown / "words" / "en.txt").unlink()
    assert (await get("/read/host/words/en.txt"))[0] == 404


@pytest.mark.parametrize("path", ["beside", "shown/../beside", "shown-too", "."])
async def test_only_what_the_ceiling_names_can_be_mounted(node: Node, tmp_path: Path, path: str) -> None:
    acme = await Tenancy.create(node, "acme", "standard")
    with pytest.raises((ExceedsCeiling, InvalidPolicy)):
        await acme.deploy("probe", PROBE.read_bytes(), policy(tmp_path / path if path != "." else tmp_path))


async def test_a_directory_that_is_missing_is_told_at_the_upload(node: Node, tmp_path: Path) -> None:
    acme = await Tenancy.create(node, "acme", "standard")
    with pytest.raises(Unavailable, match="No such file"):
        await acme.deploy("probe", PROBE.read_bytes(), policy(tmp_path / "shown" / "none"))

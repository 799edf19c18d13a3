"""A model that was prepared once: a host opens it from its room, maps its weights, and answers as the upload does."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

from inference.peers import Router, judge
from inference.test_probe import gemm
from wisp.names import Digest
from wisp.scheduling.modelcache import ModelCache
from wisp.scheduling.rooms import Room, Rooms
from wisp.wire.admissions import ModelFacts, ModelProbe, Terms
from wisp.wire.confinement import Limits

SIZE = 600
MODEL = gemm(SIZE).SerializeToString()
DIGEST = Digest("sha256:" + "a" * 64)
WRITES = Limits(address_space_bytes=1536 << 20, cpu_s=5, file_bytes=4 * len(MODEL))


async def prepared(tmp_path: Path) -> tuple[ModelCache, Rooms]:
    """The cache after admission; the directory's parents are only their owner's."""
    cwd = tmp_path / "empty"
    cwd.mkdir(mode=0o500)
    files = tuple(os.memfd_create(name) for name in ("model", "weights"))
    try:
        verdict = judge(MODEL, cwd, Terms(max_bytes=1 << 30), WRITES, prepared=files).verdict
        assert isinstance(verdict, ModelFacts), verdict
        assert verdict.weights_bytes >= SIZE * SIZE * 4
        cache = ModelCache(tmp_path / "models", b"k" * 32)
        await cache.put(DIGEST, verdict, *files)
    finally:
        for fd in files:
            os.close(fd)
    return cache, Rooms(tmp_path / "models" / "rooms")


def load(router: Router, room: Room, name: str, data: bytes = MODEL) -> dict[str, object]:
    router.send_load("m", data, prepared=name)
    answer = router.loaded()
    room.hide(name)
    assert answer["ok"], answer
    return answer


async def test_a_host_maps_what_was_prepared(tmp_path: Path) -> None:
    cache, rooms = await prepared(tmp_path)
    entry = await cache.find(DIGEST)
    assert entry is not None
    assert entry.path is not None
    room = rooms.make()
    x = np.linspace(-1, 1, 2 * SIZE, dtype=np.float32).reshape(2, SIZE)
    answers = []
    try:
        for name in (room.show(entry.path), ""):
            router = Router(tmp_path / "empty", models_fd=room.fd)
            try:
                answer = load(router, room, name)
                assert answer["shared"] is bool(name)
                maps = Path(f"/proc/{router.process.pid}/maps").read_text()
                assert ("weights.bin" in maps) is bool(name)
                sandbox = router.slot(1)
                router.bind(1, "m")
                router.open(sandbox, 7)
                answers.append(sandbox.compute(7, x).outputs[0])
            finally:
                router.finish()
    finally:
        room.close()
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_allclose(answers[0], x + 0.5 * x.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-3)


async def test_what_cannot_be_opened_prepared_is_opened_as_uploaded(tmp_path: Path) -> None:
    cache, rooms = await prepared(tmp_path)
    entry = await cache.find(DIGEST)
    assert entry is not None
    assert entry.path is not None
    room = rooms.make()
    try:
        name = room.show(entry.path)
        (room.path / name / "weights.bin").unlink()
        (room.path / name / "weights.bin").write_bytes(b"short")
        router = Router(tmp_path / "empty", models_fd=room.fd)
        try:
            assert load(router, room, name)["shared"] is False
            router.unload("m")
            assert load(router, room, "nowhere")["shared"] is False
        finally:
            router.finish()
    finally:
        room.close()


async def test_a_room_shows_only_what_its_host_opens(tmp_path: Path) -> None:
    cache, rooms = await prepared(tmp_path)
    entry = await cache.find(DIGEST)
    assert entry is not None
    assert entry.path is not None
    first, second = rooms.make(), rooms.make()
    name = first.show(entry.path)
    assert [path.name for path in first.path.iterdir()] == [name]
    assert list(second.path.iterdir()) == []
    assert (first.path / name / "weights.bin").samefile(entry.path / "weights.bin")
    first.hide(name)
    assert list(first.path.iterdir()) == []
    assert (entry.path / "weights.bin").is_file()
    first.close()
    second.close()
    assert list(rooms.directory.iterdir()) == []


async def test_an_entry_that_was_written_to_is_made_again(tmp_path: Path) -> None:
    cache, _ = await prepared(tmp_path)
    entry = await cache.find(DIGEST)
    assert entry is not None
    assert entry.path is not None
    weights = entry.path / "weights.bin"
    weights.chmod(0o600)
    with weights.open("r+b") as file:
        file.write(b"\xff")
    assert await cache.find(DIGEST) is None
    assert not entry.path.exists()


@pytest.mark.parametrize("change", ["key", "fingerprint", "digest", "body"])
async def test_an_entry_counts_only_under_its_own_mac(tmp_path: Path, change: str) -> None:
    cache, _ = await prepared(tmp_path)
    entry = await cache.find(DIGEST)
    assert entry is not None
    assert entry.path is not None
    if change == "body":
        body = entry.path / "entry.json"
        body.chmod(0o600)
        body.write_text(body.read_text().replace("latency_us", "latency_uS"))
        assert await cache.find(DIGEST) is None
        return
    key = b"K" * 32 if change == "key" else b"k" * 32
    other = ModelCache(tmp_path / "models", key, of="another" if change == "fingerprint" else None)
    assert await other.find(Digest("sha256:" + "b" * 64) if change == "digest" else DIGEST) is None


async def test_the_cache_keeps_to_its_bytes(tmp_path: Path) -> None:
    """What was used longest ago goes first."""
    verdict = judge(MODEL, tmp_path, Terms(max_bytes=1 << 30)).verdict
    assert isinstance(verdict, ModelFacts)
    size = os.memfd_create("size")
    os.write(size, b"x" * 100_000)
    cache = ModelCache(tmp_path / "models", b"k" * 32, max_bytes=520_000)
    facts = ModelFacts(
        inputs=verdict.inputs, outputs=verdict.outputs, memory_bytes=1, probe=verdict.probe, weights_bytes=100_000
    )
    digests = [Digest("sha256:" + digit * 64) for digit in "abc"]
    for digest in digests[:2]:
        await cache.put(digest, facts, size, size)
    os.utime(cache.directory / cache._name(digests[0]), ns=(1, 1))
    assert await cache.find(digests[0]) is not None  # used: now the younger
    os.utime(cache.directory / cache._name(digests[1]), ns=(1, 1))
    await cache.put(digests[2], facts, size, size)
    os.close(size)
    assert [await cache.find(digest) is not None for digest in digests] == [True, False, True]


async def test_many_uploads_of_one_model_at_once_are_all_taken(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "models", b"k" * 32, max_bytes=25_000)
    probe = ModelProbe(latency_us=1, batch_latency_us=0, peak_bytes=1, batch=0, note="")
    facts = ModelFacts(inputs=(), outputs=(), memory_bytes=1, probe=probe, weights_bytes=10_000)
    content = os.memfd_create("content")
    os.write(content, b"x" * 10_000)
    digests = [DIGEST, Digest("sha256:" + "b" * 64)]
    try:
        for _ in range(10):
            put = [cache.put(digests[number % 2], facts, content, content) for number in range(10)]
            found = [cache.find(digests[number % 2]) for number in range(4)]
            await asyncio.gather(*put, *found)
    finally:
        os.close(content)
    assert await cache.find(DIGEST) is not None or await cache.find(digests[1]) is not None


def test_past_the_walls_a_host_opens_nothing_else(tmp_path: Path) -> None:
    """A path that leads out of the room is refused by the kernel, whoever asks."""
    rooms = Rooms(tmp_path / "rooms")
    room, other = rooms.make(), rooms.make()
    (other.path / "secret").mkdir()
    (tmp_path / "empty").mkdir(mode=0o500)
    try:
        for file in ("model.onnx", "weights.bin"):
            (other.path / "secret" / file).write_bytes(MODEL)
        router = Router(tmp_path / "empty", models_fd=room.fd)
        try:
            router.send_load("m", MODEL, prepared=f"../{other.path.name}/secret")
            assert router.loaded()["shared"] is False
        finally:
            router.finish()
    finally:
        room.close()
        other.close()

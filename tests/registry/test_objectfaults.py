"""An S3 server that stops, is killed in the middle of an upload, and comes back."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from registry.clusters import free_port
from registry.samples import digest
from wisp.errors import BlobMissing, BlobUnavailable
from wisp.registry.objectblobs import PIECE_BYTES, ObjectBlobs

READY_S = 60.0
BUCKET = "wisp-blobs"


class S3Process:
    def __init__(self) -> None:
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        authorization = "AWS4-HMAC-SHA256 Credential=an-id/20260101/us-east-1/s3/aws4_request, Signature=0"
        deadline = time.monotonic() + READY_S
        while True:
            assert time.monotonic() < deadline, "the S3 server did not come up"
            assert self.process.poll() is None
            try:
                answer = httpx.put(f"{self.url}/{BUCKET}", headers={"Authorization": authorization}, timeout=5)
            except httpx.TransportError:
                time.sleep(0.1)
            else:
                answer.raise_for_status()
                return

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Process]:
    started = S3Process()
    for name, value in {
        "AWS_ENDPOINT_URL": started.url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield started
    started.kill()


async def test_a_server_that_stops_does_not_hold_anybody_up_for_ever(server: S3Process) -> None:
    blobs = ObjectBlobs(f"s3://{BUCKET}", request_s=10, answer_s=10)
    await blobs.put(digest("a"), io.BytesIO(b"a"), 1)
    hasty = ObjectBlobs(f"s3://{BUCKET}", request_s=0.5, answer_s=0.5)
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(BlobUnavailable):
            await hasty.exists(digest("a"))
        with pytest.raises(BlobUnavailable) as caught:
            await hasty.fetch(digest("a"), io.BytesIO())
        assert not isinstance(caught.value, BlobMissing)  # silence is no absence: nobody is told to upload it again
        with pytest.raises(BlobUnavailable):
            await hasty.put(digest("b"), io.BytesIO(b"b"), 1)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    assert await blobs.exists(digest("a"))


async def test_a_server_that_is_killed_during_an_upload_has_all_of_it_or_nothing(server: S3Process) -> None:
    class Killing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= PIECE_BYTES:
                server.kill()
            return super().read(size)

    name, data = digest("large"), os.urandom(3 * PIECE_BYTES)
    blobs = ObjectBlobs(f"s3://{BUCKET}", request_s=10, answer_s=10)
    with pytest.raises(BlobUnavailable, match="could not be stored"):
        await blobs.put(name, Killing(data), len(data))
    with pytest.raises(BlobUnavailable):
        await blobs.exists(name)
    server.start()
    assert not await blobs.exists(name)
    await blobs.put(name, io.BytesIO(data), len(data))
    target = io.BytesIO()
    await blobs.fetch(name, target)
    assert target.getvalue() == data

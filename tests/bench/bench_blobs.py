"""Milliseconds to put and to get a blob of 100 kB and of 10 MB, by store. `python tests/bench/bench_blobs.py [--quick]`

The stores run on this machine: Redis as one server and as a cluster of three, S3 as moto's server, so the figures are
what wisp and the loopback device cost, not what a network does. A get is the first on a node; `copy` is the second.
"""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
from moto.server import ThreadedMotoServer

sys.path.insert(0, str(Path(__file__).parents[1]))

from registry.clusters import running_cluster
from registry.conftest import running_server
from wisp.registry.binary import candidates
from wisp.registry.blobstore import open_blobs
from wisp.registry.registry import Registry

SIZES = (100_000, 10_000_000)


async def measure(name: str, url: str, redis: str, turns: int, folder: Path) -> None:
    registry = Registry(redis)
    await registry.prepare()
    ours, theirs = [open_blobs(url, connection=registry.connection, cache=folder / name / side) for side in "ab"]
    for size in SIZES:
        took: dict[str, list[float]] = {"put": [], "get": [], "copy": []}
        for _ in range(turns):
            upload = folder / "upload"
            upload.write_bytes(os.urandom(size))
            began = time.perf_counter()
            digest = await ours.put_file(upload)
            took["put"].append(time.perf_counter() - began)
            for what in ("get", "copy"):
                began = time.perf_counter()
                os.close(await theirs.open(digest))
                took[what].append(time.perf_counter() - began)
        shown = "  ".join(f"{what} {statistics.median(times) * 1000:7.1f}" for what, times in took.items())
        print(f"{name:8} {size:>10,} bytes, median ms of {turns}:  {shown}")
    await registry.aclose()


def main() -> None:
    turns = 3 if "--quick" in sys.argv else 30
    binary = next(candidates())
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wisp-")))
        server = stack.enter_context(running_server(binary))
        cluster = stack.enter_context(running_cluster(binary))
        moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
        stack.callback(moto.stop)
        host, port = moto.get_host_and_port()
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }
        authorization = (
            "AWS4-HMAC-SHA256 Credential=id/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        )
        httpx.put(
            f"http://{host}:{port}/bench", headers={"Authorization": authorization}, timeout=30
        ).raise_for_status()
        for name, url, redis in (
            ("file", f"file://{folder}/blobs", server.url),
            ("redis", "redis:", server.url),
            ("cluster", "redis:", cluster.url),
            ("s3", "s3://bench/blobs", server.url),
        ):
            asyncio.run(measure(name, url, redis, turns, folder))


if __name__ == "__main__":
    main()

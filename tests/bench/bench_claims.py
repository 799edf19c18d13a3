"""The figures of a small platform: how large a function is, how soon it answers first, and what it takes while it runs.

    sizes           of the prebuilt guests
    first request   of a function that nobody has called: right after its upload, on a platform that was just started
                    with its compiled code on disk, and with that code gone (compiled again); beside it any other one
    memory          a request's peak of linear memory, from its receipt; what a sandbox grows by a module linked in it
    preprocessing   the same Rust in a guest and natively (bench_preprocess.py; needs Rust)

Medians of several starts over HTTP on one connection, with one sandbox, to which the trial of an upload has already
brought the code. With ../shared/data the function classify is called with a photo and a real model; without it only
hello and digits are. What the same costs in containers is not measured here.
Run: .venv/bin/python tests/bench/bench_claims.py
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import httpx

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from bench import bench_preprocess  # noqa: E402
from platforms import OPERATOR_KEY  # noqa: E402
from served import Served, rss_bytes, served_platform  # noqa: E402

DATA = REPOSITORY.parent / "shared" / "data"
STARTS, UPLOADS, CALLS = 7, 7, 200
COPIES = 20
"""Modules that differ in a custom section alone, to see what one more costs."""
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A function that is called with `body`; `models` by the names that its policy gives."""

    tenant: str
    function: str
    body: bytes = b""
    models: tuple[tuple[str, Path], ...] = ()
    files: tuple[tuple[str, Path], ...] = ()

    @property
    def folder(self) -> Path:
        return REPOSITORY / "tenants" / self.tenant / self.function

    @property
    def module(self) -> bytes:
        return (self.folder / "module.wasm").read_bytes()


def examples() -> list[Example]:
    digits = REPOSITORY / "tenants/acme/digits"
    found = [
        Example(tenant="acme", function="hello"),
        Example(
            tenant="acme",
            function="digits",
            body=(digits / "samples" / "7-a.png").read_bytes(),
            models=(("digits", digits / "digits.onnx"),),
        ),
    ]
    if DATA.is_dir():
        found.append(
            Example(
                tenant="globex",
                function="classify",
                body=(DATA / "photos" / "banana.jpg").read_bytes(),
                models=(("mobilenet", DATA / "mobilenetv2" / "model.onnx"),),
                files=(("labels.txt", DATA / "mobilenetv2" / "imagenet_labels.txt"),),
            )
        )
    return found


class Tenants:
    """Two tenants of a platform, through its API."""

    def __init__(self, served: Served, keys: dict[str, str]) -> None:
        self.served = served
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=60)
        self.keys = keys
        self.http.get("/healthz")  # the connection is open before anything is timed

    def create(self) -> None:
        for tenant in ("acme", "globex"):
            body = {"tenant": tenant, "class": "standard"}
            answer = self.http.post("/v1/tenants", json=body, headers={"Authorization": f"Bearer {OPERATOR_KEY}"})
            self.keys[tenant] = answer.raise_for_status().json()["key"]["secret"]

    def key(self, tenant: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[tenant]}"}

    def push_models(self, example: Example) -> None:
        for name, file in example.models:
            url = f"/v1/tenants/{example.tenant}/models/{name}"
            self.http.put(url, content=file.read_bytes(), headers=self.key(example.tenant)).raise_for_status()

    def deploy(self, example: Example, name: str, mark: bytes = b"") -> None:
        """Under `name`; `mark` makes the module another one."""
        parts = [
            ("module", ("module.wasm", example.module + custom_section(mark))),
            ("policy", ("policy.yaml", (example.folder / "policy.yaml").read_bytes())),
            *(("file", (path, file.read_bytes())) for path, file in example.files),
        ]
        url = f"/v1/tenants/{example.tenant}/functions/{name}"
        self.http.put(url, files=parts, headers=self.key(example.tenant)).raise_for_status()

    def call(self, example: Example, name: str) -> httpx.Response:
        answer = self.http.post(f"/t/{example.tenant}/{name}", content=example.body, headers=self.key(example.tenant))
        return answer.raise_for_status()


def custom_section(content: bytes) -> bytes:
    """A section that no engine looks at (WebAssembly, Binary Format, section 5.5.3), with a one-byte name."""
    assert len(content) < 100
    return b"\0" + bytes([len(content) + 2]) + b"\1m" + content


@contextmanager
def started(data_dir: Path, keys: dict[str, str]) -> Iterator[Tenants]:
    with served_platform(data_dir, "--workers", "1", "--spare", "0") as served:
        tenants = Tenants(served, keys)
        try:
            yield tenants
        finally:
            tenants.http.close()
        served.stop()


def milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def spread(times: list[float]) -> str:
    return f"{statistics.median(times):7.1f} ms ({min(times):.1f} to {max(times):.1f})"


def print_sizes() -> None:
    lock = json.loads((REPOSITORY / "tenants" / "guests.lock").read_text())["guests"]
    print("\nsize of the prebuilt guests")
    for name, facts in sorted(lock.items(), key=lambda item: int(item[1]["bytes"])):
        print(f"  {name:26} {facts['bytes'] / 1000:8.1f} kB")


def print_first_requests(example: Example, directory: Path) -> None:
    keys: dict[str, str] = {}
    upload: list[float] = []
    after_upload: list[float] = []
    with started(directory, keys) as tenants:
        tenants.create()
        tenants.push_models(example)
        for number in range(UPLOADS):
            name = f"f{number}"
            upload.append(milliseconds(partial(tenants.deploy, example, name, b"%d" % number)))
            after_upload.append(milliseconds(partial(tenants.call, example, name)))
        warm = [milliseconds(partial(tenants.call, example, "f0")) for _ in range(CALLS)]
    from_disk = [first_of_a_start(example, directory, keys) for _ in range(STARTS)]
    compiled_again = []
    for _ in range(STARTS):
        shutil.rmtree(directory / "code")
        compiled_again.append(first_of_a_start(example, directory, keys))
    starting = [start for start, _ in from_disk + compiled_again]
    print(f"\n{example.tenant}/{example.function}: {len(example.module) / 1000:.0f} kB of wasm")
    print(f"  upload: checked, compiled, tried and recorded       {spread(upload)}")
    print(f"  its very first request, right after the upload      {spread(after_upload)}")
    print(f"  first request of a fresh platform, code on disk     {spread([first for _, first in from_disk])}")
    print(f"  first request of a fresh platform, compiled again   {spread([first for _, first in compiled_again])}")
    print(f"  a request like any other, client included           {spread(warm)}")
    print(f"  the platform itself, from exec until it listens     {spread(starting)}")


def first_of_a_start(example: Example, directory: Path, keys: dict[str, str]) -> tuple[float, float]:
    """Milliseconds until a platform listens, and of the first request that it answers."""
    start = time.perf_counter()
    with started(directory, keys) as tenants:
        listening = (time.perf_counter() - start) * 1e3
        return listening, milliseconds(partial(tenants.call, example, "f0"))


def print_memory(example: Example, directory: Path) -> None:
    with started(directory, {}) as tenants:
        tenants.create()
        tenants.push_models(example)
        tenants.deploy(example, "first")
        for _ in range(CALLS):
            answer = tenants.call(example, "first")
        (sandbox,) = tenants.served.child("sandbox.main")
        before = rss_bytes(sandbox)
        for number in range(COPIES):
            tenants.deploy(example, f"copy{number}", b"copy %d" % number)
            tenants.call(example, f"copy{number}")
        grown = (rss_bytes(sandbox) - before) / COPIES
        assert tenants.served.child("sandbox.main") == [sandbox]
    peak = int(answer.headers["wisp-memory-peak"])
    print(
        f"  {example.tenant}/{example.function}: {peak / MIB:.2f} MiB of linear memory in a request; a sandbox of",
        end=" ",
    )
    print(f"{before / MIB:.0f} MiB resident grows by {grown / 1024:.0f} KiB a module")


def main() -> None:
    packages = " ".join(f"{name} {version(name)}" for name in ("wasmtime", "onnxruntime", "hypercorn"))
    print(f"machine: {platform.machine()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}")
    print(f"versions: Python {platform.python_version()}, {packages}")
    print_sizes()
    found = examples()
    with tempfile.TemporaryDirectory() as directory:
        for example in found:
            print_first_requests(example, Path(directory, example.function))
        print("\nmemory")
        for example in found:
            print_memory(example, Path(directory, f"{example.function}-memory"))
    print("\npreprocessing of one 640x480 picture")
    if shutil.which("cargo") is None:
        print("  skipped: cargo is not on the PATH")
    else:
        bench_preprocess.main()
    print("\nfor comparison, as the design that this project began from has them for a function in a container, not")
    print("measured here: images of hundreds of MB, and seconds until the first answer of a cold start")


if __name__ == "__main__":
    main()

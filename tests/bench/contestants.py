"""Who is measured against whom over HTTP: wisp, the bare server under it, and the peers of `peers/`, all up at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.load import Load, Request, measure
from bench.peers.pictures import is_label
from bench.stage import free_port, platform
from wisp.cores import usable_cores

REPOSITORY = Path(__file__).resolve().parents[2]
PEERS = Path(__file__).parent / "peers"
SERVERS = ("hypercorn", "uvicorn")
FASTAPI = ("default", "tuned", "processes")
MLSERVER = os.environ.pop("WISP_MLSERVER", "")
"""Gone from the environment, since wisp refuses to start with a variable that it does not know."""
START_S = 60.0
END_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One example function: its model, one picture, and the label that every answer must say."""

    tenant: str
    function: str
    model_name: str
    model: Path
    labels: Path | None
    picture: Path
    kind: str
    label: object

    def right(self, body: bytes) -> bool:
        return is_label(body, self.label)

    @property
    def folder(self) -> Path:
        return REPOSITORY / "tenants" / self.tenant / self.function

    @property
    def environment(self) -> dict[str, str]:
        labels = {} if self.labels is None else {f"{self.function.upper()}_LABELS": str(self.labels)}
        return {f"{self.function.upper()}_MODEL": str(self.model)} | labels

    def request(self, port: int, *, path: str = "", key: str = "") -> Request:
        return Request(
            port=port,
            path=path or f"/{self.function}",
            body=self.picture.read_bytes(),
            right=self.right,
            key=key,
            kind=self.kind,
        )


def workloads(data: Path) -> list[Workload]:
    """classify only where there is data: its model is not the project's."""
    digits = REPOSITORY / "tenants" / "acme" / "digits"
    found = [
        Workload(
            tenant="acme", function="digits", model_name="digits", model=digits / "digits.onnx", labels=None,
            picture=digits / "samples" / "7-a.png", kind="image/png", label=7,
        )
    ]  # fmt: skip
    if data.is_dir():
        mobilenet = data / "mobilenetv2"
        found.append(
            Workload(
                tenant="globex", function="classify", model_name="mobilenet", model=mobilenet / "model.onnx",
                labels=mobilenet / "imagenet_labels.txt", picture=data / "photos" / "cat.bmp", kind="image/bmp",
                label="Egyptian cat",
            )
        )  # fmt: skip
    return found


@contextmanager
def running(
    command: Sequence[str], log: Path, *, cwd: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A peer until the block ends; `log`: where what it prints goes."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    except RuntimeError:
        print(f"{' '.join(command)} printed:\n{log.read_text(errors='replace')[-2000:]}", file=sys.stderr)
        raise
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END_S)


def wait_until_right(request: Request, process: subprocess.Popen[bytes] | None = None) -> None:
    """Raises `RuntimeError` with what went wrong last."""
    until = time.monotonic() + START_S
    while True:
        try:
            if measure(request, 1, 0.0).rate > 0:
                return
            reason = "it refuses every request"
        except (OSError, RuntimeError) as error:
            reason = str(error)
        if time.monotonic() > until or (process is not None and process.poll() is not None):
            raise RuntimeError(f"{request.path} on port {request.port} does not start: {reason}")
        time.sleep(0.2)


@contextmanager
def contestants(work: Sequence[Workload], directory: Path) -> Iterator[dict[str, dict[str, Request]]]:
    """By function, then by name: `wisp.<server>`, `bare.<server>`, `fastapi.<setting>` and, where WISP_MLSERVER names
    a Python that has it, `mlserver`."""
    environment = {name: value for one in work for name, value in one.environment.items()}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    found: dict[str, dict[str, Request]] = {one.function: {} for one in work}
    with ExitStack() as stack:

        def start(name: str, command: Sequence[str], port: int, *, cwd: Path = REPOSITORY, **more: str) -> None:
            process = stack.enter_context(
                running(command, directory / f"{name}.log", cwd=cwd, environment=environment | more)
            )
            for one in work:
                request = one.request(port)
                if name.startswith("bare"):
                    request = Request(
                        port=port, path="/", body=request.body, right=lambda body: b"Globex" in body, kind=one.kind
                    )
                wait_until_right(request, process)
                found[one.function][name] = request

        for server in SERVERS:
            port, keys = stack.enter_context(_wisp(work, directory / server, server))
            for one in work:
                request = one.request(port, path=f"/t/{one.tenant}/{one.function}", key=keys[one.tenant])
                wait_until_right(request)
                found[one.function][f"wisp.{server}"] = request
            port = free_port()
            start(f"bare.{server}", [sys.executable, "tests/bench/bare.py", server, str(port)], port)
        for setting in FASTAPI:
            port = free_port()
            command = [sys.executable, str(PEERS / "fastapi_onnxruntime.py"), setting, str(port)]
            start(f"fastapi.{setting}", command, port)
        if MLSERVER:
            port, grpc = free_port(), free_port()
            ports = {"MLSERVER_HTTP_PORT": str(port), "MLSERVER_GRPC_PORT": str(grpc)}
            start(
                "mlserver",
                [MLSERVER, "-c", "from mlserver.cli import main; main()", "start", "."],
                port,
                cwd=PEERS / "mlserver",
                **ports,
            )
        else:
            print("mlserver: left out; WISP_MLSERVER=<a Python with mlserver 1.7, onnxruntime and pillow> names it")
        yield found


@contextmanager
def _wisp(work: Sequence[Workload], directory: Path, server: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Its port, and each tenant's key."""
    keys: dict[str, str] = {}
    with platform(directory, "--server", server, "--workers", str(usable_cores())) as (served, tenants):
        for one in work:
            key = tenants.create(one.tenant)
            keys[one.tenant] = key["Authorization"].removeprefix("Bearer ")
            base = f"/v1/tenants/{one.tenant}"
            put: Callable[..., object] = lambda url, key=key, **sent: (  # noqa: E731
                tenants.http.put(url, headers=key, **sent).raise_for_status()
            )
            put(f"{base}/models/{one.model_name}", content=one.model.read_bytes())
            files = [
                ("module", ("module.wasm", (one.folder / "module.wasm").read_bytes())),
                ("policy", ("policy.yaml", (one.folder / "policy.yaml").read_bytes())),
            ]
            files += [("file", ("labels.txt", one.labels.read_bytes()))] if one.labels is not None else []
            put(f"{base}/functions/{one.function}", files=files)
        yield served.port, keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """One way to use onnxruntime in a process: what stands for so many `callers` is tried with `threads`. `prepare`:
    from the picture's bytes to its label, not the model alone."""

    callers: int
    threads: int
    sessions: int
    intra: int
    spinning: bool
    prepare: bool

    def __str__(self) -> str:
        spins = ", spinning" if self.spinning else ""
        what = "picture to label" if self.prepare else "model alone"
        return f"{what}: {self.threads} threads on {self.sessions} sessions of {self.intra}{spins}"


class BareSession:
    """onnxruntime alone, in a process of its own that measures when it is told."""

    def __init__(self, work: Workload) -> None:
        labels = "-" if work.labels is None else str(work.labels)
        script = str(PEERS / "bare_onnxruntime.py")
        self._process = subprocess.Popen(
            [sys.executable, script, work.function, str(work.model), labels, str(work.picture)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, way: Alone, seconds: float) -> Load:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**asdict(way), "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the bare onnxruntime process ended")
        return Load(**json.loads(answer))

    def close(self) -> None:
        self._process.communicate(timeout=END_S)

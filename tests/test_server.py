"""The server around a node: one protocol, bounded heads, a graceful end, and one clear line for what is wrong."""

from __future__ import annotations

import gc
import json
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from platforms import HANDLER_POLICY, OPERATOR_KEY
from serving import Serving, command, environment, serving
from wat import LOOP, answering, handler
from wisp.cli.demo import processes_of_session
from wisp.server import FULL_COLLECTION_AFTER, spare_from_collection

OPERATOR = {"authorization": f"Bearer {OPERATOR_KEY}"}
SLOW_POLICY = HANDLER_POLICY + b"limits: {fuel: 10G, timeout: 8s}\n"


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="wisp-") as directory:
        yield Path(directory)


@pytest.fixture(params=["hypercorn", "uvicorn"])
def kind(request: pytest.FixtureRequest) -> str:
    """Both HTTP servers keep the same promises."""
    return str(request.param)


def said(server: Serving, request: bytes) -> bytes:
    """What comes back on a connection of its own, until the server closes it."""
    with server.connect() as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


def deploy(server: Serving, function: str, module: bytes, policy: bytes = HANDLER_POLICY) -> dict[str, str]:
    """Makes the tenant if need be; the headers to call it with."""
    with httpx.Client(base_url=server.url, headers=OPERATOR, timeout=60) as client:
        client.post("/v1/tenants", json={"tenant": "acme", "class": "standard"})
        key = client.post("/v1/tenants/acme/keys", json={"role": "invoke"}).json()["secret"]
        form = {"module": ("m", module), "policy": ("p", policy)}
        answer = client.put(f"/v1/tenants/acme/functions/{function}", files=form)
        assert answer.status_code == 201, answer.text
    return {"authorization": f"Bearer {key}"}


def test_http_1_only_and_bounded_heads(short_dir: Path, kind: str) -> None:
    with serving(short_dir, "--server", kind) as server:
        preface = said(server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        assert preface.split()[1] in (b"505", b"400")
        upgrade = said(
            server,
            b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
        )
        assert upgrade.startswith(b"HTTP/1.1 200 ")
        assert b"101" not in upgrade.split(b"\r\n")[0]
        websocket = said(
            server,
            b"GET /t/acme/hi HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Connection: close\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        )
        assert websocket.split()[1] in (b"403", b"401")
        large = said(server, b"GET /healthz HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 200_000 + b"\r\n\r\n")
        assert large.split(b"\r\n")[0].split()[1] in (b"400", b"431")
        smuggled = said(
            server,
            b"POST /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        )
        assert smuggled.startswith(b"HTTP/1.1 400 ")
        assert b"server:" not in said(server, b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").lower()
        server.terminate()
        assert server.wait() == 0
        assert processes_of_session(server.process.pid) == []
        assert "Traceback" not in server.log.read_text()


def test_a_request_in_flight_ends_well_while_the_server_drains(short_dir: Path, kind: str) -> None:
    with serving(short_dir, "--server", kind, "--drain-delay", "2s") as server:
        headers = deploy(server, "hi", answering(b"hello"))
        with httpx.Client(base_url=server.url, headers=headers, timeout=20) as client:
            assert client.get("/t/acme/hi").text == "hello"
            server.terminate()
            while (ready := client.get("/readyz")).status_code == 200:
                time.sleep(0.02)
            assert ready.json()["draining"] is True
            assert client.get("/t/acme/hi").text == "hello"
        assert server.wait() == 0
        assert "Traceback" not in server.log.read_text()


def test_what_outlasts_the_drain_is_ended(short_dir: Path, kind: str) -> None:
    with serving(short_dir, "--server", kind, "--drain-timeout", "500ms") as server:
        headers = deploy(server, "slow", handler(LOOP), SLOW_POLICY)
        ended: list[object] = []

        def call() -> None:
            try:
                ended.append(httpx.get(f"{server.url}/t/acme/slow", headers=headers, timeout=20).status_code)
            except httpx.TransportError as error:
                ended.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        with httpx.Client(base_url=server.url, headers=OPERATOR) as client:
            while "wisp_sandboxes_busy 1.0" not in client.get("/metrics").text:
                time.sleep(0.02)
        server.terminate()
        assert server.wait() == 0
        caller.join(20)
        assert len(ended) == 1
        assert ended[0] != 200
        assert processes_of_session(server.process.pid) == []


def test_a_caller_that_hangs_up_frees_the_sandbox(short_dir: Path, kind: str) -> None:
    with serving(short_dir, "--server", kind) as server:
        headers = deploy(server, "slow", handler(LOOP), SLOW_POLICY)
        deploy(server, "hi", answering(b"hello"))
        with httpx.Client(base_url=server.url, headers=OPERATOR) as client:
            with server.connect() as connection:
                request = f"GET /t/acme/slow HTTP/1.1\r\nHost: h\r\nAuthorization: {headers['authorization']}\r\n\r\n"
                connection.sendall(request.encode())
                while "wisp_sandboxes_busy 1.0" not in client.get("/metrics").text:
                    time.sleep(0.02)
            while "wisp_sandboxes_idle 2.0" not in client.get("/metrics").text:
                time.sleep(0.02)
        assert httpx.get(f"{server.url}/t/acme/hi", headers=headers).text == "hello"


def test_a_connection_on_which_no_head_comes_is_closed(short_dir: Path, kind: str) -> None:
    with serving(short_dir, "--server", kind) as server, server.connect() as silent, server.connect() as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
        for connection in (silent, slow):
            connection.settimeout(60)
            while connection.recv(65536):  # a word about it is welcome
                pass


def test_a_large_body_that_is_refused_is_refused_in_words(short_dir: Path, kind: str) -> None:
    with serving(short_dir, "--server", kind) as server:
        headers = deploy(server, "small", answering(b"hi"), HANDLER_POLICY + b"limits: {request_body: 1Ki}\n")
        answer = httpx.post(f"{server.url}/t/acme/small", headers=headers, content=b"x" * 3_000_000)
        assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("flags", "more", "line"),
    [
        (["--workers", "none"], {}, "--workers"),
        ([], {"WISP_BUDGET": "1"}, "WISP_BUDGET"),
        ([], {"WISP_OPERATOR_KEY": "short"}, "WISP_OPERATOR_KEY"),
        (["--blobs", "ftp://bucket"], {}, "--blobs"),
        (["--bind", "256.0.0.1:1"], {}, "--bind"),
    ],
)
def test_what_is_wrong_is_one_line_and_2(tmp_path: Path, flags: list[str], more: dict[str, str], line: str) -> None:
    ended = subprocess.run(
        command("--data-dir", str(tmp_path), "--bind", "127.0.0.1:0", *flags),
        env=environment(**more),
        capture_output=True,
        timeout=60,
        check=False,
    )
    said = [text for text in ended.stderr.decode().splitlines() if text.startswith("wisp: ")]
    assert ended.returncode == 2, ended.stderr
    assert len(said) == 1
    assert line in said[0]
    assert b"Traceback" not in ended.stderr


def test_a_taken_port_is_one_line_and_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = subprocess.run(
            command("--data-dir", str(tmp_path / "data"), "--bind", bind),
            env=environment(),
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 2
    assert f"--bind {bind}".encode() in ended.stderr


def test_dev_makes_a_key_deploys_the_folder_and_a_restart_changes_nothing(short_dir: Path) -> None:
    folder = short_dir / "tenants" / "acme" / "hi"
    folder.mkdir(parents=True)
    (folder.parent / "tenant.yaml").write_text("class: free\n")
    (folder / "policy.yaml").write_bytes(HANDLER_POLICY)
    (folder / "module.wasm").write_bytes(answering(b"hello"))
    lines = []
    for _ in range(2):
        with serving(short_dir, "--dev", "--tenants", str(short_dir / "tenants"), WISP_LOG_FORMAT="json") as server:
            deadline = time.monotonic() + 30
            while "curl -i" not in (text := server.log.read_text()):
                assert time.monotonic() < deadline, text
                time.sleep(0.05)
            (line,) = [line for line in text.splitlines() if "curl -i" in line]
            logged = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
            assert any(record["message"].startswith("listening") for record in logged)
            assert "operator_key=***" in text
            secret = line.partition("Bearer ")[2].partition("'")[0]
            answer = httpx.get(f"{server.url}/t/acme/hi", headers={"authorization": f"Bearer {secret}"})
            assert answer.text == "hello"
            lines.append(line.partition(" http:")[0])
            server.terminate()
            assert server.wait() == 0
    assert lines[0] == lines[1]
    assert stat.S_IMODE((short_dir / "data" / "dev-keys" / "acme").stat().st_mode) == 0o600


WITHOUT_LANDLOCK = """
import os, struct, sys
from wisp.wire import kernel

steps = ((0x20, 0, 0, 0), (0x15, 0, 1, kernel.LANDLOCK_CREATE_RULESET), (0x06, 0, 0, 0x50026), (0x06, 0, 0, 0x7FFF0000))
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
kernel.install_filter(b"".join(struct.pack("<HBBI", *step) for step in steps))
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_wall_that_the_machine_does_not_allow_is_told_and_can_be_required(short_dir: Path) -> None:
    """A kernel that has no Landlock, as a filter over the whole platform makes it seem."""
    serve = command("--data-dir", str(short_dir), "--bind", "127.0.0.1:0", "--require-walls")
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_LANDLOCK, *serve],
        env=environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    said = [text for text in ended.stderr.decode().splitlines() if text.startswith("wisp: ")]
    assert ended.returncode == 2, ended.stderr
    assert len(said) == 1
    assert "--require-walls: the " in said[0]
    assert "children have no landlock wall: landlock_create_ruleset: Function not implemented" in said[0]
    for kind in ("sandbox", "compiler", "admission", "inference"):
        assert f"walls round {kind} children: " in ended.stderr.decode()
    assert b"NOT UP: landlock" in ended.stderr


def test_the_walls_are_shown_where_they_are_asked_for(short_dir: Path) -> None:
    with serving(short_dir, "--metrics-public") as server:
        assert "walls" not in httpx.get(f"{server.url}/readyz").json()
        walls = httpx.get(f"{server.url}/readyz?verbose").json()["walls"]
        assert walls.keys() == {"sandbox", "compiler", "admission", "inference"}
        metrics = httpx.get(f"{server.url}/metrics").text
        for kind, states in walls.items():
            assert states.keys() == {"privileges", "memory", "namespaces", "landlock", "seccomp"}
            for wall, state in states.items():
                assert f'wisp_wall_up{{child="{kind}",wall="{wall}"}} {float(state["up"])}' in metrics


def test_what_is_there_before_the_first_request_is_looked_at_by_no_collection() -> None:
    early: list[object] = [[]]
    usual = gc.get_threshold()
    try:
        spare_from_collection()
        assert gc.get_threshold() == (*usual[:2], FULL_COLLECTION_AFTER)
        late: list[object] = [[]]
        assert gc.get_freeze_count() > 0
        collected = {id(each) for each in gc.get_objects()}
        assert id(late) in collected
        assert id(early) not in collected
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)

"""`wisp demo`: the whole platform for a minute, in a private directory, on a free port; its answers as a table.

Exits with 0 only if every answer was as expected, the platform ended with 0, and none of its processes is left. A
labelled picture may be misread, since models do: but not more than one in ten.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table

from wisp.cli import devkeys
from wisp.cli.deploy import NOT_DEPLOYED
from wisp.cli.samples import Question, compact, has_samples, questions
from wisp.cli.tenantfiles import TenantFolder, read_folder
from wisp.errors import WispError
from wisp.names import FunctionName, TenantName
from wisp.settings import PREFIX

READY_S = 90.0
STOP_S = 40.0
POLL_S = 0.1
LOG_TAIL = 30
MISREAD_AT_MOST = 0.1
WIDTH = 180
"""Where the output goes into a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One question to one function."""

    tenant: TenantName
    function: FunctionName
    question: Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    visit: Visit
    answer: httpx.Response
    milliseconds: float

    @property
    def right(self) -> bool:
        return self.visit.question.sample.expect.matches(self.answer)

    @property
    def misread(self) -> bool:
        """Answered as it should be, with another label than the picture's: the model's mistake, not the platform's."""
        return self.visit.question.labelled and self.answer.status_code == 200 and not self.right

    @property
    def verdict(self) -> str:
        if self.right:
            return "[green]right[/green]"
        return "[yellow]misread[/yellow]" if self.misread else "[red]wrong[/red]"


def as_expected(seen: list[Seen]) -> bool:
    labelled = [one for one in seen if one.visit.question.labelled]
    misread = sum(one.misread for one in labelled)
    return all(one.right or one.misread for one in seen) and misread <= MISREAD_AT_MOST * len(labelled)


class Failed(Exception):
    """The demonstration could not be given; the message says why."""


def demo(
    tenants: Annotated[Path, typer.Option(metavar="DIR", help="the folder of tenants to deploy")] = Path("tenants"),
) -> None:
    """Start a platform of its own, deploy the sample tenants, ask them, and stop it again."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    try:
        visits = plan(read_folder(tenants))
        with tempfile.TemporaryDirectory(prefix="wisp-") as directory:
            seen = _give(console, Path(directory), tenants.absolute(), visits)
    except (Failed, WispError) as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error
    raise typer.Exit(0 if as_expected(seen) else 1)


def plan(folders: tuple[TenantFolder, ...]) -> list[Visit]:
    """Everything that the functions' samples ask. Raises `Failed` if that is nothing."""
    visits = [
        Visit(tenant=tenant.name, function=function.name, question=question)
        for tenant in folders
        for function in tenant.functions
        if has_samples(function.module.parent) and not function.optional
        for question in questions(function.module.parent)
    ]
    if not visits:
        raise Failed("there is nothing to show: no function has samples")
    return visits


def _give(console: Console, directory: Path, tenants: Path, visits: list[Visit]) -> list[Seen]:
    url = f"http://127.0.0.1:{_free_port()}"
    key = secrets.token_urlsafe(32)
    log = directory / "wisp.log"
    with _platform(directory, tenants, url, key, log) as process:
        try:
            with console.status("starting wisp and deploying the tenants ..."):
                _await_ready(process, log, url, key, visits)
            with httpx.Client(base_url=url, timeout=30.0, trust_env=False) as client:
                seen = [_ask(client, directory / "data", visit) for visit in visits]
        except Failed as error:
            tail = log.read_text(errors="replace").splitlines()[-LOG_TAIL:]
            raise Failed("\n".join([str(error), *tail])) from error
        _show(console, seen)
        with console.status("stopping wisp ..."):
            _stop(process)
    console.print("wisp stopped with 0 and left no process behind.")
    return seen


@contextmanager
def _platform(directory: Path, tenants: Path, url: str, key: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """In a session of its own, so that whatever it leaves can be found, and ended."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    command = [sys.executable, "-m", "wisp.cli", "serve", "--dev", "--bind", url.removeprefix("http://")]
    command += ["--data-dir", str(directory / "data"), "--tenants", str(tenants)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment | {"WISP_OPERATOR_KEY": key},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(STOP_S)
        for left in processes_of_session(process.pid):
            os.kill(left, signal.SIGKILL)


def _await_ready(process: subprocess.Popen[bytes], log: Path, url: str, key: str, visits: list[Visit]) -> None:
    """Until every function that is to be asked has an active version."""
    wanted = {(visit.tenant, visit.function) for visit in visits}
    end = time.monotonic() + READY_S
    with httpx.Client(base_url=url, timeout=5.0, trust_env=False, headers={"authorization": f"Bearer {key}"}) as client:
        while time.monotonic() < end:
            if process.poll() is not None:
                raise Failed(f"wisp ended with {process.returncode}:")
            _refuse_undeployed(log.read_text(errors="replace"), wanted)
            try:
                wanted -= {one for one in wanted if _is_active(client, *one)}
                if not wanted and client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(POLL_S)
    missing = ", ".join(f"{tenant}/{function}" for tenant, function in sorted(wanted)) or "/readyz"
    raise Failed(f"not ready within {READY_S:g} s: {missing}")


def _refuse_undeployed(printed: str, wanted: set[tuple[TenantName, FunctionName]]) -> None:
    """Raises `Failed` if the platform has said that it could not deploy one of these, or anything at all."""
    for line in printed.splitlines():
        if line.startswith(NOT_DEPLOYED):
            name = line.removeprefix(f"{NOT_DEPLOYED}: ").partition(":")[0]
            if "/" not in name or name in {f"{tenant}/{function}" for tenant, function in wanted}:
                raise Failed(line)


def _is_active(client: httpx.Client, tenant: str, function: str) -> bool:
    answer = client.get(f"/v1/tenants/{tenant}/functions/{function}")
    return answer.status_code == 200 and answer.json()["active"] is not None


def _ask(client: httpx.Client, data_dir: Path, visit: Visit) -> Seen:
    sample = visit.question.sample
    headers = {"authorization": f"Bearer {devkeys.recall(data_dir, visit.tenant)}"} | sample.headers
    url = f"/t/{visit.tenant}/{visit.function}{sample.path}"
    content = visit.question.content
    started = time.perf_counter()
    try:
        answer = client.request(sample.method, url, content=content, headers=headers)
    except httpx.HTTPError as error:
        raise Failed(f"{visit.tenant}/{visit.function}: {error!r}") from error
    return Seen(visit=visit, answer=answer, milliseconds=(time.perf_counter() - started) * 1000)


def _show(console: Console, seen: list[Seen]) -> None:
    table = Table(title="wisp demo", caption="times in ms: all of it, in the guest, and of that in inference")
    for heading in ("function", "asked", "expected", "answer"):
        table.add_column(heading, no_wrap=True, max_width=26)
    for heading, width in (("fuel", 10), ("memory", 8), ("all", 6), ("guest", 6), ("nn", 6), ("", 7)):
        table.add_column(heading, no_wrap=True, justify="right", min_width=width)
    for one in seen:
        receipt = one.answer.headers
        times = durations(receipt.get("server-timing", ""))
        ran = receipt.get("wisp-outcome") == "ok"
        table.add_row(
            f"{one.visit.tenant}/{one.visit.function}",
            one.visit.question.title,
            str(one.visit.question.sample.expect),
            compact(one.answer.text) if ran else f"{one.answer.status_code} {receipt.get('wisp-error', '')}",
            f"{int(receipt.get('wisp-fuel-used', '0')):,}",
            f"{int(receipt.get('wisp-memory-peak', '0')) >> 10:,} Ki",
            f"{one.milliseconds:.1f}",
            times.get("guest", "-"),
            times.get("nn", "-"),
            one.verdict,
        )
    console.print(table)
    right, misread = sum(one.right for one in seen), sum(one.misread for one in seen)
    fuel = sum(int(one.answer.headers.get("wisp-fuel-used", "0")) for one in seen)
    wrong = len(seen) - right - misread
    console.print(f"{len(seen)} answers: {right} right, {misread} misread by the model, {wrong} wrong; {fuel:,} fuel")


def durations(server_timing: str) -> dict[str, str]:
    """`queue;dur=0.1, guest;dur=2` -> {"queue": "0.1", "guest": "2"}."""
    parts = (part.strip().partition(";dur=") for part in server_timing.split(",") if part.strip())
    return {name: value for name, _, value in parts}


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(STOP_S)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"wisp did not end within {STOP_S:g} s of SIGTERM") from error
    if status != 0:
        raise Failed(f"wisp ended with {status} after SIGTERM")
    left = processes_of_session(process.pid)
    if left:
        raise Failed(f"wisp ended and left processes behind: {left}")


def processes_of_session(session: int) -> list[int]:
    """Every live process whose session is this one, from /proc (proc(5): field 6 of stat, after the name)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        if int(fields[3]) == session and fields[0] not in ("Z", "X"):
            found.append(int(stat.parent.name))
    return sorted(found)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

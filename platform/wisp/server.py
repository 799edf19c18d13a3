"""The HTTP server around one node: on uvloop, HTTP/1.1 only, bounded in every direction, ended with grace.

Time limits, and where each is: a request's head within `HEAD_S` of the connection or the last answer (the connection),
a body within the settings' (the API), a guest within its grants (the dispatcher), an answer's bytes taken by the caller
within `STALLED_S` (the connection and the socket).
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Final

import uvloop
from hypercorn.config import Config

from wisp import hypercornserver
from wisp.api.app import create_app
from wisp.connections import STALLED_S, Callers, room_for_connections
from wisp.errors import InvalidSettings, WispError
from wisp.http1.connection import Bounds, Service
from wisp.node import Node
from wisp.scheduling.slices import ask_for_short_slices
from wisp.settings import Settings
from wisp.settingvalues import MIN_OPERATOR_KEY
from wisp.telemetry import Gauges, Metrics, configure_logging

log = logging.getLogger(__name__)

HEAD_S: Final = 20.0
HEAD_BYTES: Final = 24 * 1024
"""A request's line and headers; with the smallest body it must fit the dispatcher's frame."""
REQUESTS_A_CONNECTION: Final = 100_000
BACKLOG: Final = 1024
FULL_COLLECTION_AFTER: Final = 100
"""Collections of the middle generation."""
OPERATOR_KEY_FILE: Final = "operator.key"

Companion = Callable[[Settings, str], Coroutine[None, None, None]]
"""Runs beside the server once it listens, given the settings and the base URL."""


def serve(settings: Settings, companion: Companion | None = None) -> None:
    """Returns after a graceful end. Raises `InvalidSettings` before the port answers."""
    configure_logging(settings.log_format)
    settings = with_operator_key(settings)
    if not ask_for_short_slices():
        log.info("this kernel gives no shorter slices")
    uvloop.run(_serve(settings, companion))


def with_operator_key(settings: Settings) -> Settings:
    """The settings with a key: with `dev` and none, the one in `DIR/operator.key`, made if it is not there."""
    if settings.operator_key is not None:
        return settings
    path = settings.data_dir / OPERATOR_KEY_FILE
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            key = path.read_text().strip()
        else:
            key = secrets.token_urlsafe(32)
            write_private(path, key + "\n")
            print(f"operator key (kept in {path}): {key}", flush=True)  # noqa: T201  # once, and never into a log
    except OSError as error:
        raise InvalidSettings(f"{path}: {error.strerror}") from error
    if len(key) < MIN_OPERATOR_KEY:
        raise InvalidSettings(f"{path}: holds no operator key; remove it to have one made")
    return replace(settings, operator_key=key)


def write_private(path: Path, text: str) -> None:
    """A new file that only its owner can read, whatever the umask."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def listen(bind: str, *, share: bool = False) -> socket.socket:
    """Bound, not yet listening: a port that is taken is refused before any child starts. `share`: one that others who
    share it have is not taken. Raises `InvalidSettings`."""
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if share:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # tcp(7): also ends a connection whose peer takes nothing of what it asked for.
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED_S * 1000))
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        raise InvalidSettings(f"--bind {bind}: {error.strerror}") from error
    return bound


def base_url(settings: Settings, bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


async def _serve(settings: Settings, companion: Companion | None) -> None:
    stop, starting = asyncio.Event(), True
    loop, main = asyncio.get_running_loop(), asyncio.current_task()

    def end() -> None:
        stop.set()
        if starting and main is not None:
            main.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    with listen(settings.bind, share=settings.share_port) as bound, suppress(asyncio.CancelledError):
        config = hypercornserver.make_config(settings, backlog=BACKLOG)
        if settings.server == "uvicorn":
            uvicorn_server()
        log.info("starting: %s", " ".join(f"{name}={value}" for name, value in settings.masked().items()))
        async with Node(settings) as node:
            starting = False
            await _answer_requests(node, config, bound, stop, companion)
    log.info("stopped")


async def _answer_requests(
    node: Node, config: Config, bound: socket.socket, stop: asyncio.Event, companion: Companion | None
) -> None:
    metrics = Metrics()
    metrics.watch(lambda: gauges_of(node))
    url = base_url(node.settings, bound)
    callers = Callers(room_for_connections())
    bounds = Bounds(head_s=HEAD_S, head_bytes=HEAD_BYTES, requests=REQUESTS_A_CONNECTION)
    service = Service(app=create_app(node, metrics), bounds=bounds, callers=callers)
    log.info("at most %d connections", callers.connections.most)
    spare_from_collection()
    bound.listen(BACKLOG)  # from here on callers wait for the server instead of being refused
    async with asyncio.TaskGroup() as group:
        beside = None if companion is None else group.create_task(companion(node.settings, url))
        precedence = group.create_task(node.precedence.run())
        log.info("listening on %s", url)
        if node.settings.server == "uvicorn":
            other = uvicorn_server()
            of_uvicorn = other.make_config(service, node.settings, backlog=BACKLOG)
            await other.serve(of_uvicorn, bound, lambda: _drained(node, stop))
        else:
            await hypercornserver.serve(service, config, bound, lambda: _drained(node, stop))
        precedence.cancel()
        if beside is not None:
            beside.cancel()


def spare_from_collection() -> None:
    """What is here before the first request stays: to look at all of it in each full collection would stop the router
    for some fifty milliseconds every few thousand requests. What comes later (a connection is some two hundred objects)
    is looked at in full a tenth as often as usual, since a request leaves nothing that only a collection would find."""
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_COLLECTION_AFTER)


def uvicorn_server() -> ModuleType:
    """The optional server's module. Raises `InvalidSettings` where its package is not installed."""
    try:
        return importlib.import_module("wisp.uvicornserver")
    except ModuleNotFoundError as error:
        raise InvalidSettings("--server uvicorn needs one more package: pip install 'wisp[uvicorn]'") from error


async def _drained(node: Node, stop: asyncio.Event) -> None:
    """Returns when the listener may close: some time after `/readyz` began to say no."""
    await stop.wait()
    node.draining = True
    node.tenantlog.followers.end_all()
    log.info("draining: not ready, accepting for %g s more", node.settings.drain_delay_s)
    await asyncio.sleep(node.settings.drain_delay_s)


def gauges_of(node: Node) -> Gauges:
    slots = node.sandboxes.slots
    busy = sum(slot.busy for slot in slots)
    stale_s = node.snapshot.reach.stale_s
    return Gauges(
        registry_reachable=node.snapshot.reach.reachable,
        registry_stale_seconds=-1.0 if stale_s is None else stale_s,
        sandboxes_busy=busy,
        sandboxes_idle=max(0, sum(slot.ready for slot in slots) - busy),
        queued=node.sandboxes.queued,
        bytes_in_flight=node.budget.used_bytes,
        sandbox_restarts=node.sandboxes.restarts,
        inference_restarts=node.host.restarts
        + node.own_hosts.restarts
        + (0 if node.gpu_host is None else node.gpu_host.restarts),
        quotas_cut_off=node.quotas.cut_off,
        blob_cache_bytes=node.stores.blobs.cached_bytes,
        blob_faults=node.stores.blobs.faults.counts,
        denials=node.denials.counts,
        walls=node.walls.levels(),
        providers=node.providers(),
    )


def run(load: Callable[[], Settings], companion: Companion | None = None) -> int:
    """The exit status: 0 after a graceful end, 2 for what an operator can correct, 1 for what failed; one line each."""
    status = 0
    try:
        serve(load(), companion)
    except* InvalidSettings as group:
        status = _report(group, 2)
    except* WispError as group:
        status = _report(group, 1)
    return status


def _report(group: BaseExceptionGroup[WispError], status: int) -> int:
    for error in group.exceptions:
        if isinstance(error, WispError):
            print(f"wisp: {error.message}", file=sys.stderr)  # noqa: T201
        else:
            _report(error, status)
    return status

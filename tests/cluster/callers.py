"""Clients that hold each answer to its content, and writers that remember what was acknowledged to them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx

from platforms import OPERATOR_KEY
from served import Connection, Reply
from updates import said

ANSWER_S = 30.0
HEADERS = {"authorization": f"Bearer {OPERATOR_KEY}"}


@dataclass(slots=True)
class Tally:
    """`failed`: an answer that says so. `lost`: none came. `wrong`: one that says it is right, and is not."""

    right: int = 0
    failed: int = 0
    lost: int = 0
    wrong: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    versions: Counter[int] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return self.right + self.failed + self.lost + self.wrong


async def ask(connection: Connection, path: str, key: str, *, method: str = "GET", body: bytes = b"") -> Reply | None:
    """None: no answer came, and the connection is begun anew."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await connection.request(method, path, key=key, body=body)
    except (OSError, EOFError, TimeoutError):
        if connection.writer is not None:
            connection.writer.transport.abort()
        connection.reader = connection.writer = None
        return None


class Callers:
    """Two functions in turn: one says its version three times over, the other a word that only this request has."""

    def __init__(self, port: int, key: str, *, clients: int, pause_s: float) -> None:
        self.tally = Tally()
        self.allowed: set[int] = {1}
        """The versions that may answer at present; one that was allowed when a request began may answer it."""
        self._port, self._key, self._clients, self._pause_s = port, key, clients, pause_s
        self._words = itertools.count()
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Callers:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        assert self._task is not None
        await self._task

    def fresh(self) -> Tally:
        self.tally = Tally()
        return self.tally

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(self._client())

    async def _client(self) -> None:
        connection = Connection(self._port)
        for turn in itertools.count():
            if self._stop.is_set():
                break
            began = time.perf_counter()
            word, allowed = f"w{next(self._words)}", set(self.allowed)
            path = "/t/acme/which" if turn % 2 else f"/t/acme/hello?name={word}"
            reply = await ask(connection, path, self._key)
            self.judge(reply, path, word, allowed | self.allowed)
            self.tally.latencies_s.append(time.perf_counter() - began)
            await asyncio.sleep(self._pause_s)
        await connection.close()

    def judge(self, reply: Reply | None, path: str, word: str, allowed: set[int]) -> None:
        tally = self.tally
        if reply is None:
            tally.lost += 1
            tally.reasons["no answer"] += 1
        elif reply.status != 200:
            tally.failed += 1
            tally.reasons[f"{reply.status} {reply.error or 'by the balancer'}"] += 1
        elif path.endswith("which"):
            number = said(reply)
            if number in allowed:
                tally.right += 1
                tally.versions[number or 0] += 1
            else:
                tally.wrong += 1
                tally.reasons[f"wrong: version {number}: {reply.body[:60]!a}"] += 1
        elif reply.body == f"hello, {word}\n".encode():
            tally.right += 1
        else:
            tally.wrong += 1
            tally.reasons[f"wrong: {reply.body[:60]!a}"] += 1


@dataclass(slots=True)
class Written:
    """`acknowledged`: tenant to the moment (`time.monotonic`) of its 201."""

    sent: int = 0
    refused: int = 0
    unknown: int = 0
    acknowledged: dict[str, float] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)


class Writers:
    """Make tenants, one name after the other, so that all slots are written to. A name is tried once."""

    def __init__(self, port: int, *, writers: int, pause_s: float) -> None:
        self.written = Written()
        self.everything: dict[str, float] = {}
        self._url, self._writers, self._pause_s = f"http://127.0.0.1:{port}", writers, pause_s
        self._numbers = itertools.count()
        self._stop = asyncio.Event()
        self._go = asyncio.Event()
        self._go.set()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Writers:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        self._go.set()
        assert self._task is not None
        await self._task

    def fresh(self) -> Written:
        self.written = Written()
        return self.written

    def hold(self) -> None:
        self._go.clear()

    def go_on(self) -> None:
        self._go.set()

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=self._url, timeout=60, headers=HEADERS))
            group = await stack.enter_async_context(asyncio.TaskGroup())
            for _ in range(self._writers):
                group.create_task(self._writer(client))

    async def _writer(self, client: httpx.AsyncClient) -> None:
        while True:
            await self._go.wait()
            if self._stop.is_set():
                return
            tenant = f"w{next(self._numbers)}"
            written = self.written
            written.sent += 1
            try:
                answer = await client.post("/v1/tenants", json={"tenant": tenant})
            except httpx.TransportError as error:
                written.unknown += 1
                written.reasons[type(error).__name__] += 1
            else:
                if answer.status_code == 201:
                    written.acknowledged[tenant] = self.everything[tenant] = time.monotonic()
                else:
                    written.refused += 1
                    written.reasons[f"{answer.status_code} {answer.headers.get('wisp-error', 'by the balancer')}"] += 1
            await asyncio.sleep(self._pause_s)


async def missing(port: int, tenants: Sequence[str]) -> list[str]:
    """Those that are not there, asked for one by one, not from the index."""
    gone = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, headers=HEADERS) as client:
        for tenant in tenants:
            answer = await client.get(f"/v1/tenants/{tenant}")
            if answer.status_code == 404:
                gone.append(tenant)
            else:
                answer.raise_for_status()
    return gone

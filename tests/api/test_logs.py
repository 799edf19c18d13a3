"""`GET …/logs?follow=1`: server-sent events, from the application and through the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from starlette.types import Message

from api.conftest import Api, bearer
from platforms import HANDLER_POLICY, OPERATOR_KEY
from serving import serving
from wat import handler
from wisp.api import logs
from wisp.following import MAX_FOLLOWERS
from wisp.names import parse_function, parse_tenant

BASE = "/v1/tenants/acme/functions"
PATIENCE_S = 30.0


@dataclass(slots=True)
class Stream:
    """One open stream, below HTTP. `leave` closes the caller's end."""

    status: int = 0
    media_type: str = ""
    text: str = ""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    fresh: asyncio.Event = field(default_factory=asyncio.Event)

    def leave(self) -> None:
        self.left.set()

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.media_type = dict(message["headers"])[b"content-type"].decode()
        self.text += message.get("body", b"").decode()
        self.fresh.set()

    async def until(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.text:
                self.fresh.clear()
                await self.fresh.wait()

    def lines(self) -> list[str]:
        events = (block.splitlines() for block in self.text.split("\n\n"))
        return [json.loads(event[1][6:])["text"] for event in events if event and event[0] == "event: line"]


async def ends(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.shield(task)


@asynccontextmanager
async def following(api: Api, secret: str, function: str = "trap") -> AsyncIterator[tuple[Stream, asyncio.Task[None]]]:
    stream = Stream()
    path = f"{BASE}/{function}/logs"
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"follow=1",
        "headers": [(b"authorization", f"Bearer {secret}".encode())], "http_version": "1.1", "scheme": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }  # fmt: skip
    task: asyncio.Task[None] = asyncio.create_task(api.app(scope, stream.receive, stream.send))  # type: ignore[arg-type]
    try:
        yield stream, task
    finally:
        stream.leave()
        await ends(task)


async def with_trap(api: Api) -> str:
    secret = await api.tenant("acme")
    parts = {"module": ("m.wasm", handler("unreachable")), "policy": ("p.yaml", HANDLER_POLICY)}
    put = await api.bare.put(f"{BASE}/trap", files=parts, headers=bearer(secret))
    assert put.status_code == 201, put.text
    return secret


async def fail(api: Api, secret: str, identity: str) -> None:
    answer = await api.bare.get("/t/acme/trap", headers=bearer(secret) | {"x-request-id": identity})
    assert answer.status_code == 500


async def test_a_stream_begins_with_what_stands_there_and_goes_on(api: Api) -> None:
    secret = await with_trap(api)
    await fail(api, secret, "before")
    async with following(api, secret) as (stream, _):
        await stream.until('"before"')
        assert (stream.status, stream.media_type) == (200, "text/event-stream; charset=utf-8")
        await fail(api, secret, "after")
        await stream.until('"after"')
        assert all("guest_trap" in text and "fuel" in text for text in stream.lines())
    assert api.node.tenantlog.followers.count == 0


async def test_silence_is_filled_and_a_key_that_is_gone_ends_the_stream(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(logs, "RECHECK_S", 0.0)
    await with_trap(api)
    key = (await api.as_operator.post("/v1/tenants/acme/keys", json={"role": "deploy"})).json()
    async with following(api, key["secret"]) as (stream, task):
        await stream.until(": still here")
        assert not task.done()
        gone = await api.as_operator.delete(f"/v1/tenants/acme/keys/{key['id']}")
        assert gone.status_code == 204
        await stream.until("event: end")
        await ends(task)


async def test_a_deleted_function_ends_its_streams(api: Api) -> None:
    secret = await with_trap(api)
    async with following(api, secret) as (stream, task):
        async with asyncio.timeout(PATIENCE_S):
            while not api.node.tenantlog.followers.count:
                await asyncio.sleep(0.01)
        assert (await api.bare.delete(f"{BASE}/trap", headers=bearer(secret))).status_code == 204
        await stream.until("event: end")
        await ends(task)


async def test_more_streams_than_a_tenant_may_have_are_refused(api: Api) -> None:
    secret = await with_trap(api)
    held = [api.node.tenantlog.follow(parse_tenant("acme"), parse_function("trap")) for _ in range(MAX_FOLLOWERS)]
    for one in held:
        one.__enter__()
    refused = await api.bare.get(f"{BASE}/trap/logs?follow=1", headers=bearer(secret))
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_inflight")
    assert (await api.bare.get(f"{BASE}/trap/logs", headers=bearer(secret))).status_code == 200
    for one in held:
        one.__exit__(None, None, None)


async def test_through_the_server_lines_come_as_they_are_written_and_a_term_ends_it(tmp_path: Path) -> None:
    with serving(tmp_path, WISP_LOG_FORMAT="json") as server:
        async with httpx.AsyncClient(base_url=server.url, headers=bearer(OPERATOR_KEY), timeout=PATIENCE_S) as operator:
            made = await operator.post("/v1/tenants", json={"tenant": "acme"})
            key = bearer(made.json()["key"]["secret"])
            parts = {"module": ("m.wasm", handler("unreachable")), "policy": ("p.yaml", HANDLER_POLICY)}
            assert (await operator.put(f"{BASE}/trap", files=parts)).status_code == 201
            async with operator.stream("GET", f"{BASE}/trap/logs?follow=1") as stream:
                lines = stream.aiter_lines()
                await operator.get("/t/acme/trap", headers=key | {"x-request-id": "seen-1"})
                async for line in lines:
                    if '"seen-1"' in line:
                        break
                server.terminate()
                rest = [line async for line in lines]
        assert "event: end" in rest
        assert await asyncio.to_thread(server.wait) == 0
        written = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    (access,) = [line for line in written if line["logger"] == "wisp.access"]
    assert (access["request_id"], access["outcome"], access["status"]) == ("seen-1", "guest_trap", 500)

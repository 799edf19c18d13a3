"""`/t/`: what a guest sees of a request, what its caller sees of the answer, and what either cannot do."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

from api.asgi import LEAVE, speak
from api.conftest import Api, bearer
from platforms import HANDLER_POLICY, Tenancy
from wat import LOOP, answering, handler
from wisp.api.app import create_app
from wisp.wire.exchange import encode_response

ECHO = handler(
    # The request from its method on becomes the body of the answer: version, status 200, no headers, then the bytes.
    """(i32.store (i32.const 65524) (i32.const 1))
       (i32.store (i32.const 65528) (i32.const 200))
       (i32.store (i32.const 65532) (i32.const 0))
       (i64.or (i64.shl (i64.const 65524) (i64.const 32))
               (i64.extend_i32_u (i32.add (local.get $length) (i32.const 12))))"""
)
SLOW_POLICY = HANDLER_POLICY + b"limits: {fuel: 8G, timeout: 5s}\n"
RECEIPT = ("wisp-outcome", "wisp-version", "wisp-fuel-used", "wisp-memory-peak", "wisp-nn-fuel", "server-timing")


async def test_an_answer_carries_its_receipt(api: Api, acme: Tenancy) -> None:
    await acme.deploy("echo", ECHO)
    answer = await api.bare.post(
        "/t/acme/echo/a%2Fb?q=%20",
        headers=bearer(acme.secret) | {"x-request-id": "r-1", "wisp-x": "1"},
        content=b"BODY",
    )
    assert answer.status_code == 200
    assert b"POST" in answer.content
    assert b"/a%2Fb" in answer.content
    assert b"q=%20" in answer.content
    assert b"BODY" in answer.content
    assert b"wisp-x" not in answer.content
    assert acme.secret.encode() not in answer.content
    assert answer.headers["wisp-outcome"] == "ok"
    assert answer.headers["wisp-request-id"] == "r-1"
    assert int(answer.headers["wisp-fuel-used"]) > 0
    assert int(answer.headers["wisp-memory-peak"]) >= 4 * 65536
    assert re.fullmatch(
        r"queue;dur=[\d.]+, store;dur=[\d.]+, guest;dur=[\d.]+, nn;dur=[\d.]+, cpu;dur=[\d.]+",
        answer.headers["server-timing"],
    )
    assert int(answer.headers["content-length"]) == len(answer.content)
    counted = api.metrics.exposition()[0].decode()
    assert 'wisp_requests_total{code="ok",tenant="acme"} 1.0' in counted


async def test_head_and_statuses_without_a_body(api: Api, acme: Tenancy) -> None:
    await acme.deploy("hi", answering(b"hello"))
    await acme.deploy("none", answering(b"ignored", status=204))
    headers = bearer(acme.secret)
    head = await speak(api.app, "HEAD", "/t/acme/hi", headers=headers)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "5")
    none = await speak(api.app, "GET", "/t/acme/none", headers=headers)
    assert (none.status, none.body, "content-length" in none.headers) == (204, b"", False)


async def test_a_failed_guest_is_a_problem_of_its_own_with_a_receipt(api: Api, acme: Tenancy) -> None:
    await acme.deploy("burn", handler(LOOP), HANDLER_POLICY + b"limits: {fuel: 1M}\n")
    answer = await api.bare.get("/t/acme/burn", headers=bearer(acme.secret))
    assert (answer.status_code, answer.json()["code"]) == (500, "fuel_exhausted")
    assert (answer.json()["limit"], answer.json()["used"]) == (1_000_000, int(answer.headers["wisp-fuel-used"]))
    assert answer.headers["wisp-error"] == "fuel_exhausted; source=guest"
    assert answer.headers["wisp-outcome"] == "fuel_exhausted"
    assert answer.headers.get_list("wisp-request-id") == [answer.json()["request_id"]]
    assert answer.headers["content-type"] == "application/problem+json"


async def test_where_no_guest_was_started_there_is_no_receipt(api: Api, acme: Tenancy, globex: Tenancy) -> None:
    await acme.deploy("hi", answering(b"hello"))
    for path, secret, status, code in (
        ("/t/acme/hi", "wrong", 401, "unauthorized"),
        ("/t/acme/hi", globex.secret, 403, "forbidden"),
        ("/t/acme/nothing", acme.secret, 404, "function_not_found"),
        ("/t/acme/No", acme.secret, 404, "function_not_found"),
        ("/t/acme", "wrong", 404, "function_not_found"),
    ):
        answer = await api.bare.get(path, headers=bearer(secret))
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["wisp-error"] == f"{code}; source=platform"
        assert answer.headers["wisp-request-id"]
        assert not set(RECEIPT) & set(answer.headers)


async def test_a_body_is_refused_before_during_and_for_its_slowness(api: Api, acme: Tenancy) -> None:
    await acme.deploy("small", answering(b"hello"), HANDLER_POLICY + b"limits: {request_body: 1Ki}\n")
    headers = bearer(acme.secret)
    announced = await speak(
        api.app, "POST", "/t/acme/small", headers=headers | {"content-length": "2000"}, pieces=[b"x" * 2000]
    )
    assert (announced.status, announced.code) == (413, "request_too_large")
    counted = await speak(api.app, "POST", "/t/acme/small", headers=headers, pieces=[b"x" * 600] * 2)
    assert (counted.status, counted.code) == (413, "request_too_large")
    api.node.settings = replace(api.node.settings, body_timeout_s=0.05)
    impatient = create_app(api.node, api.metrics)
    dribbled = await speak(impatient, "POST", "/t/acme/small", headers=headers, pieces=[b"x"], complete=False)
    assert (dribbled.status, dribbled.code) == (408, "request_timeout")
    assert api.node.budget.used_bytes == 0


async def test_a_caller_that_leaves_takes_its_guest_along(api: Api, acme: Tenancy) -> None:
    await acme.deploy("slow", handler(LOOP), SLOW_POLICY)
    await acme.deploy("hi", answering(b"hello"))
    headers = bearer(acme.secret)
    for complete in (True, False):
        end = [b"body"] if complete else []
        gone = asyncio.create_task(_leave_while_running(api, headers, end))
        assert (await gone) == 0
    answer = await api.bare.get("/t/acme/hi", headers=headers)
    assert answer.text == "hello"
    assert api.node.budget.used_bytes == 0


async def _leave_while_running(api: Api, headers: dict[str, str], end: list[bytes]) -> int:
    if not end:
        return (await speak(api.app, "POST", "/t/acme/slow", headers=headers, pieces=[b"x", LEAVE])).status
    inbox: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    headers = headers | {"transfer-encoding": "chunked"}
    answers: list[object] = []

    async def send(message: object) -> None:
        answers.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/t/acme/slow",
        "raw_path": b"/t/acme/slow",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    running = asyncio.ensure_future(api.app(scope, inbox.get, send))
    async with asyncio.timeout(5):
        while not any(slot.busy for slot in api.node.sandboxes.slots):
            await asyncio.sleep(0.01)
        inbox.put_nowait({"type": "http.disconnect"})
        await running  # long before the guest's five seconds are over
    return len(answers)


async def test_other_protocols_and_versions_are_refused(api: Api) -> None:
    preface = await speak(api.app, "PRI", "*", http_version="2.0")
    assert (preface.status, preface.headers["connection"]) == (505, "close")
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {"type": "websocket.connect"}

    await api.app({"type": "websocket", "path": "/t/acme/hi"}, receive, send)  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_a_guest_with_a_repeated_header_and_its_own_status(api: Api, acme: Tenancy) -> None:
    message = encode_response(
        429, ((b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"wisp-outcome", b"forged")), b"slow down"
    )
    data = "".join(f"\\{byte:02x}" for byte in message)
    await acme.deploy(
        "own", handler(f"(i64.const {2048 << 32 | len(message)})", data=f'(data (i32.const 2048) "{data}")')
    )
    answer = await api.bare.get("/t/acme/own", headers=bearer(acme.secret))
    assert (answer.status_code, answer.text) == (429, "slow down")
    assert answer.headers.get_list("set-cookie") == ["a", "b"]
    assert answer.headers.get_list("wisp-outcome") == ["ok"]
    assert "wisp-error" not in answer.headers


async def test_readiness_says_no_while_draining(api: Api) -> None:
    assert (await api.bare.get("/healthz")).json() == {"status": "ok"}
    assert (await api.bare.get("/readyz")).status_code == 200
    api.node.draining = True
    answer = await api.bare.get("/readyz")
    assert (answer.status_code, answer.json()["ready"], answer.json()["draining"]) == (503, False, True)

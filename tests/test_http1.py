"""HTTP/1.1 as both servers speak it: framing, bodies, faults of the application, and how callers leave."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from http_callers import PATIENCE_S, SERVERS, read_all, running, say
from wisp.http1 import exchange

CLOSE = b"Connection: close\r\n\r\n"


@pytest.fixture(params=SERVERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def body_of(receive: Any) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        body += message["body"]
        if not message["more_body"]:
            return bytes(body)


async def answer(send: Any, body: bytes, *headers: tuple[bytes, bytes], status: int = 200) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    body = await body_of(receive)
    await answer(send, scope["raw_path"] + b"?" + scope["query_string"] + b" " + body, (b"x-method", b"y"))


def head(said: bytes) -> list[bytes]:
    return said.partition(b"\r\n\r\n")[0].split(b"\r\n")


async def test_pipelined_requests_are_answered_in_order(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async with running(monkeypatch, kind, echo) as server:
        said = await say(
            server.port,
            b"POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
            b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1\r\nf\r\n0\r\n\r\n"
            b"GET /g HTTP/1.1\r\nHost: h\r\n" + CLOSE,
        )
    assert said.count(b"HTTP/1.1 200") == 3
    assert said.index(b"/a?b abc") < said.index(b"/c? def") < said.index(b"/g? ")
    assert {b"content-length: 8", b"x-method: y"} <= set(head(said))
    assert sum(line.startswith(b"date: ") for line in head(said)) == 1


async def test_a_body_that_is_expected_is_asked_for_when_wanted(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    expecting = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n" + CLOSE

    async def refuse(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, b"no", status=403)

    async with running(monkeypatch, kind, echo) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(expecting)
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"abc")
        assert b"/? abc" in await read_all(reader)
        writer.close()
    async with running(monkeypatch, kind, refuse) as server:
        assert (await say(server.port, expecting)).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [(b"HEAD / HTTP/1.1", 200, b""), (b"GET / HTTP/1.1", 204, b""), (b"GET / HTTP/1.0", 200, b"text")],
)
async def test_an_answer_has_the_body_that_its_request_allows(
    monkeypatch: pytest.MonkeyPatch, kind: str, request_line: bytes, status: int, body: bytes
) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"text"})

    async with running(monkeypatch, kind, app) as server:
        said = await say(server.port, request_line + b"\r\nHost: h\r\n" + CLOSE)
    assert said.partition(b"\r\n\r\n")[2] == body


async def test_an_answer_of_unknown_length_is_chunked(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"one", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    async with running(monkeypatch, kind, app) as server:
        said = await say(server.port, b"GET / HTTP/1.1\r\nHost: h\r\n" + CLOSE)
    assert b"transfer-encoding: chunked" in said.lower()
    assert said.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-a", b"1\r\nset-cookie: b=1"),
        (b"x-a", b"1\nx"),
        (b"x-a", b"\0"),
        (b"x-a: 1\r\nx-b", b"2"),
        (b"x a", b"1"),
        (b"", b"1"),
        (b"Content-Length", b"3"),
    ],
)
async def test_a_header_that_http_does_not_allow_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, kind: str, name: bytes, value: bytes
) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, b"text", (name, value))

    async with running(monkeypatch, kind, app) as server:
        said = await say(server.port, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 500 ")
    assert b"cookie" not in said
    assert b"x-b" not in said


async def test_an_application_that_fails_is_a_500_or_breaks_off(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["raw_path"] == b"/late":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
            await send({"type": "http.response.body", "body": b"ten bytes!", "more_body": True})
        raise LookupError("of no concern to callers")

    async with running(monkeypatch, kind, app) as server:
        said = await say(server.port, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 500 ")
        assert b"concern" not in said
        assert (await say(server.port, b"GET /late HTTP/1.1\r\nHost: h\r\n\r\n")).endswith(b"\r\n\r\nten bytes!")


async def test_a_body_that_nobody_read_ends_the_connection(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, b"enough")

    async with running(monkeypatch, kind, app) as server:
        said = await say(server.port, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\nGET / HTTP/1.1\r\n\r\n")
    assert said.count(b"HTTP/1.1 ") == 1


async def test_what_is_no_http_is_refused(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(exchange, "LINGER_S", 0.2)
    async with running(monkeypatch, kind, echo) as server:
        assert (await say(server.port, b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        long = b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"
        assert (await say(server.port, long)).startswith(b"HTTP/1.1 431 ")
        chunked = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n"
        said = await say(server.port, chunked)
        assert said.startswith(b"HTTP/1.1 400 ")
        assert said.count(b"HTTP/1.1 ") == 1
        two = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"
        assert (await say(server.port, two)).startswith(b"HTTP/1.1 400 ")


async def test_who_leaves_is_seen_and_what_was_sent_ahead_is_kept(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    seen, waiting, go_on = list[str](), asyncio.Event(), asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await body_of(receive)
        if scope["raw_path"] == b"/watched":
            watching = asyncio.create_task(receive())
            waiting.set()
            await go_on.wait()
            watching.cancel()
        elif scope["raw_path"] == b"/left":
            waiting.set()
            seen.append((await receive())["type"])
        await answer(send, scope["raw_path"])

    async with running(monkeypatch, kind, app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /watched HTTP/1.1\r\nHost: h\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            await waiting.wait()
        writer.write(b"GET /ahead HTTP/1.1\r\nHost: h\r\n" + CLOSE)
        await writer.drain()
        await asyncio.sleep(0.05)  # the watcher may have taken it in, or not: both must be right
        go_on.set()
        said = await read_all(reader)
        assert said.index(b"\r\n\r\n/watched") < said.index(b"\r\n\r\n/ahead")
        writer.close()

        waiting.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /left HTTP/1.1\r\nHost: h\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            await waiting.wait()
            writer.close()
            await server.connections(0)
        assert seen == ["http.disconnect"]


async def test_an_end_closes_what_is_idle_and_answers_what_is_not(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["raw_path"] == b"/slow":
            begun.set()
            await go_on.wait()
        await answer(send, b"done")

    async with running(monkeypatch, kind, app) as server:
        idle, first = await asyncio.open_connection("127.0.0.1", server.port)
        first.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        busy, second = await asyncio.open_connection("127.0.0.1", server.port)
        second.write(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            await idle.readuntil(b"done")
            await begun.wait()
            server.end()
            assert await idle.read() == b""
            go_on.set()
            assert (await busy.read()).endswith(b"done")
        first.close()
        second.close()


async def test_requests_sent_ahead_wait_for_turns_of_their_own(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A crowd of them on one connection is answered without keeping another caller waiting for all of it."""
    order: list[bytes] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        order.append(scope["raw_path"])
        await answer(send, b"done")

    async with running(monkeypatch, kind, app) as server:
        one, crowd = await asyncio.open_connection("127.0.0.1", server.port)
        two, single = await asyncio.open_connection("127.0.0.1", server.port, local_addr=("127.0.0.2", 0))
        for reader, writer in ((one, crowd), (two, single)):  # both have been accepted, and wait for nothing
            writer.write(b"GET /first HTTP/1.1\r\nHost: h\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                await reader.readuntil(b"done")
        order.clear()
        crowd.write(b"GET /crowd HTTP/1.1\r\nHost: h\r\n\r\n" * 30)
        single.write(b"GET /single HTTP/1.1\r\nHost: h\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            await two.readuntil(b"done")
            for _ in range(30):
                await one.readuntil(b"done")
        assert len(order) == 31
        assert order.index(b"/single") <= 10
        crowd.close()
        single.close()


async def test_a_body_in_a_thousand_pieces_is_a_body(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    pieces = b"".join(b"1\r\n%d\r\n" % (number % 10) for number in range(20_000))
    async with running(monkeypatch, kind, echo) as server:
        head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
        said = await say(server.port, head + CLOSE, pieces, b"0\r\n\r\n")
    assert said.endswith(b"/? " + b"0123456789" * 2_000)


async def test_what_is_sent_far_ahead_stays_in_the_socket(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """More than is read ahead: it waits, and then it is answered, all of it."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    answered = 0

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        nonlocal answered
        begun.set()
        await go_on.wait()
        answered += 1
        await answer(send, b"")

    async with running(monkeypatch, kind, app) as server:
        request = b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 4000 + b"\r\n\r\n"
        saying = asyncio.create_task(say(server.port, request * 100, b"GET / HTTP/1.1\r\nHost: h\r\n" + CLOSE))
        async with asyncio.timeout(PATIENCE_S):
            await begun.wait()
            await asyncio.sleep(0.05)  # so that it reads as far ahead as it does
            go_on.set()
            said = await saying
    assert said.count(b"HTTP/1.1 200") == answered == 101


async def test_a_body_that_is_not_read_fills_no_memory(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    large, begun, go_on = 64 * 1024 * 1024, asyncio.Event(), asyncio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        begun.set()
        await go_on.wait()
        await answer(send, b"%d" % len(await body_of(receive)))

    async with running(monkeypatch, kind, app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n" % large + CLOSE + bytes(large))
        async with asyncio.timeout(PATIENCE_S):
            await begun.wait()
            await asyncio.sleep(0.2)
            assert writer.transport.get_write_buffer_size() > large // 2  # the rest is in the kernel's buffers
            go_on.set()
            assert (await read_all(reader)).endswith(b"\r\n\r\n%d" % large)
        writer.close()


async def test_a_head_has_its_time_and_a_request_has_more(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await asyncio.sleep(1.2 if scope["raw_path"] == b"/slow" else 0)
        await answer(send, b"done")

    async with running(monkeypatch, kind, app, head_s=0.8) as server:
        silent, begun, slow = await asyncio.gather(
            say(server.port),
            say(server.port, b"GET / HTTP/1.1\r\nHost:"),
            say(server.port, b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\nGET"),
        )
        assert (silent, begun) == (b"", b"")
        assert slow.endswith(b"done")
        await server.connections(0)


async def test_a_connection_has_so_many_requests(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async with running(monkeypatch, kind, echo, requests=2) as server:
        said = await say(server.port, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 3)
    assert said.count(b"HTTP/1.1 200") == 2
    assert said.lower().count(b"connection: close") == 1


async def test_who_says_no_more_is_answered_still(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async with running(monkeypatch, kind, echo) as server:
        for said, wanted in (
            (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"/? "),
            (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab", b"HTTP/1.1 400 Bad Request\r\n"),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(said)
            writer.write_eof()
            assert wanted in await read_all(reader)
            writer.close()
        await server.connections(0)


@pytest.mark.parametrize("announced", [3, 5])
async def test_a_body_of_another_length_breaks_the_answer_off(
    monkeypatch: pytest.MonkeyPatch, kind: str, announced: int
) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % announced)]})
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        await send({"type": "http.response.body", "body": b"cd"})

    async with running(monkeypatch, kind, app) as server:
        said = await say(server.port, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
    assert said.count(b"HTTP/1.1 ") == 1
    assert said.endswith(b"\r\n\r\nab")


def write_certificate(directory: Path) -> tuple[Path, Path]:
    """Signed by itself; and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    certificate, private = directory / "certificate.pem", directory / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


async def test_tls(monkeypatch: pytest.MonkeyPatch, kind: str, tmp_path: Path) -> None:
    large = b"x" * 1_000_000

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, await body_of(receive) + scope["scheme"].encode())

    certificate, private = write_certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=str(certificate))
    trusting.check_hostname = False
    async with running(monkeypatch, kind, app, tls_cert=str(certificate), tls_key=str(private)) as server:
        assert await say(server.port, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n") == b""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusting, limit=1 << 22)
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(large) + large)
            async with asyncio.timeout(PATIENCE_S):
                assert (await reader.readuntil(b"xhttps")).endswith(large + b"https")
        writer.close()
        await server.connections(0)

"""Outbound HTTP of real guests on a real node, to a host on loopback that the test's ceiling opens."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest

from egress_hosts import answer, host
from platforms import OPERATOR_KEY, REPOSITORY, Reply, Tenancy
from wisp.errors import ExceedsCeiling, InvalidModule
from wisp.names import parse_function
from wisp.node import Node
from wisp.policy.hostrules import DEFAULT_REQUESTS
from wisp.settings import Settings
from wisp.wire.outcome import Outcome

FETCH = (REPOSITORY / "tests/guests/fetch/module.wasm").read_bytes()
GO = parse_function("go")
LARGE = bytes(range(256)) * 1024
OPEN = ("allowed_outbound_hosts: []", 'allowed_outbound_hosts: ["*://*:*"]')
UNBLOCKED = ("blocked_networks: [private]", "blocked_networks: []")

ROOMY = ("logs: 256Ki}", "logs: 256Ki, outbound_requests: 64}")
READ_ONLY = 'allowed_outbound_hosts: [{host: "*://*:*", methods: [GET]}]'

Open = Callable[..., AbstractAsyncContextManager[Tenancy]]


def policy(port: int | str, *lines: str, name: str = "127.0.0.1") -> bytes:
    said = ["wisp: 1", "abi: handler", f'allowed_outbound_hosts: ["http://{name}:{port}"]', *lines]
    return "\n".join([*said, ""]).encode()


def policy_of_methods(port: int, methods: str, *lines: str) -> bytes:
    entry = f'allowed_outbound_hosts: [{{host: "http://127.0.0.1:{port}", methods: [{methods}]}}]'
    return "\n".join(["wisp: 1", "abi: handler", entry, *lines, ""]).encode()


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """A tenant of a node whose ceiling differs from the shipped one by these replacements."""

    @asynccontextmanager
    async def start(*changes: tuple[str, str], in_class: tuple[str, str] = ("", "")) -> AsyncIterator[Tenancy]:
        policies = tmp_path / "policies"
        shutil.copytree(REPOSITORY / "policies", policies)
        ceiling = (policies / "ceiling.yaml").read_text()
        for old, new in changes:
            assert old in ceiling
            ceiling = ceiling.replace(old, new)
        (policies / "ceiling.yaml").write_text(ceiling)
        standard = policies / "class-standard.yaml"
        assert in_class[0] in standard.read_text()
        standard.write_text(standard.read_text().replace(*in_class, 1))
        flags = {"data_dir": str(tmp_path / "data"), "workers": "1", "policies": str(policies)}
        async with Node(Settings.load(flags, environ={"WISP_OPERATOR_KEY": OPERATOR_KEY})) as node:
            yield await Tenancy.create(node, "acme", "standard")

    return start


async def go(acme: Tenancy, url: str, body: bytes = b"", **more: str) -> Reply:
    query = urlencode({"url": url, **more}).encode()
    return await acme.call("go", body, query=query, headers=((b"x-out-accept", b"a/b"), (b"x-out-host", b"evil")))


async def test_a_guest_asks_and_is_answered(opened: Open) -> None:
    replies: dict[str, bytes | None] = {
        "/": answer(b"hello", status="201 Created", headers="x-from: Caf\xe9\r\nconnection: x-hop\r\nx-hop: 1\r\n"),
        "/large": answer(LARGE),
        "/moved": answer(status="302 Found", headers="location: http://10.0.0.1/\r\n"),
    }
    async with opened(OPEN, UNBLOCKED) as acme, host(replies) as asked:
        await acme.deploy("go", FETCH, policy(asked.port))
        first = await go(acme, f"{asked.url}/?q=1", b"sent", method="PUT")
        assert (first.outcome, first.status, first.body) == (Outcome.OK, 201, b"hello")
        headers = dict(first.headers)
        assert headers[b"x-from"].decode() == "Café"
        assert b"x-hop" not in headers
        assert asked.heads[0][0] == "put /?q=1 http/1.1"
        assert set(asked.heads[0][1:]) == {f"host: 127.0.0.1:{asked.port}", "accept: a/b", "content-length: 4"}
        assert asked.bodies == [b"sent"]

        large = await go(acme, f"{asked.url}/large", LARGE, method="POST")
        assert (large.status, large.body, asked.bodies[-1]) == (200, LARGE, LARGE)
        moved = await go(acme, f"{asked.url}/moved")
        assert (moved.status, dict(moved.headers)[b"location"]) == (302, b"http://10.0.0.1/")
        missing = await go(acme, f"{asked.url}/nothing", times="2")
        assert (missing.status, dict(missing.headers)[b"fetched"]) == (404, b"2")
        assert acme.node.budget.used_bytes == 0


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("ftp://127.0.0.1/", "Invalid"),
        ("http://user@127.0.0.1/", "Invalid"),
        ("http://0x7f.1/", "Invalid"),
        ("/path", "Invalid"),
        ("http://127.0.0.1:{port}/split\r\nx: y", "Invalid"),
        ("http://127.0.0.1:{port}/#fragment", "Invalid"),
        ("http://127.0.0.1:{port}/garbage", "Protocol"),
        ("http://127.0.0.1:{port}/too-large", "TooLarge"),
        ("http://127.0.0.1:{port}/cut", "Protocol"),
        ("http://127.0.0.1:1/", "Unreachable"),
        ("http://no.such.host.invalid/", "Unreachable"),
    ],
)
async def test_what_goes_wrong_is_an_errno(opened: Open, url: str, error: str) -> None:
    replies: dict[str, bytes | None] = {
        "/garbage": b"nonsense\r\n\r\n",
        "/too-large": answer(bytes(5000)),
        "/cut": b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
    }
    limits = "limits: {response_body: 4096}"
    async with opened(OPEN, UNBLOCKED) as acme, host(replies) as asked:
        await acme.deploy("go", FETCH, policy("*", limits, name="*"))
        reply = await go(acme, url.replace("{port}", str(asked.port)))
        assert (reply.status, reply.body) == (502, f"{error} after 0".encode())


async def test_requests_are_counted(opened: Open) -> None:
    async with opened(OPEN, UNBLOCKED) as acme, host({"/": answer()}) as asked:
        await acme.deploy("go", FETCH, policy(asked.port))
        reply = await go(acme, f"{asked.url}/", times=str(DEFAULT_REQUESTS + 1))
        assert reply.body == f"Exhausted after {DEFAULT_REQUESTS}".encode()
        assert len(asked.heads) == DEFAULT_REQUESTS
        assert (await go(acme, f"{asked.url}/")).status == 200


@pytest.mark.parametrize("budget", [0, 3, 12])
async def test_the_budget_of_requests_is_the_policys(opened: Open, budget: int) -> None:
    roomy = ("logs: 64Ki}", "logs: 64Ki, outbound_requests: 64}")
    async with opened(OPEN, UNBLOCKED, ROOMY, in_class=roomy) as acme, host({"/": answer()}) as asked:
        await acme.deploy("go", FETCH, policy(asked.port, f"limits: {{outbound_requests: {budget}}}"))
        reply = await go(acme, f"{asked.url}/", times=str(budget + 1))
        assert reply.body == f"Exhausted after {budget}".encode()
        assert len(asked.heads) == budget


async def test_the_ceiling_bounds_the_budget_of_requests(opened: Open) -> None:
    async with opened(OPEN, UNBLOCKED) as acme:
        with pytest.raises(ExceedsCeiling, match=r"limits\.outbound_requests asks for 9"):
            await acme.deploy("go", FETCH, policy(80, "limits: {outbound_requests: 9}"))


async def test_a_method_that_is_not_granted_is_a_denial(opened: Open) -> None:
    async with opened(OPEN, UNBLOCKED) as acme, host({"/": answer()}) as asked:
        await acme.deploy("go", FETCH, policy_of_methods(asked.port, "GET, POST"))
        assert (await go(acme, f"{asked.url}/", method="POST")).status == 200
        assert (await go(acme, f"{asked.url}/", method="DELETE")).outcome is Outcome.CAPABILITY_DENIED
        (event,) = acme.node.denials.events(acme.name, GO)
        assert event.denial.what == f"DELETE {asked.url}"
        assert event.denial.allow == f'allowed_outbound_hosts: [{{host: "{asked.url}", methods: [DELETE]}}]'
        assert event.capability == "allowed_outbound_hosts"
        await acme.deploy("go", FETCH, policy_of_methods(asked.port, "GET, POST", "on_violation: errno"))
        soft = await go(acme, f"{asked.url}/", method="PUT")
        assert (soft.outcome, soft.body) == (Outcome.OK, b"Denied after 0")
        await acme.deploy("go", FETCH, f"wisp: 1\nabi: handler\n{event.denial.allow}\n".encode())
        assert (await go(acme, f"{asked.url}/", method="DELETE")).status == 200
        assert [head[0].split()[0] for head in asked.heads] == ["post", "delete"]


async def test_a_ceiling_of_methods_refuses_what_asks_for_more(opened: Open) -> None:
    async with opened(("allowed_outbound_hosts: []", READ_ONLY), UNBLOCKED) as acme, host({"/": answer()}) as asked:
        with pytest.raises(
            ExceedsCeiling, match=r"allowed_outbound_hosts\[0\].methods asks for GET, POST.* allows GET"
        ):
            await acme.deploy("go", FETCH, policy_of_methods(asked.port, "GET, POST"))
        await acme.deploy("go", FETCH, policy_of_methods(asked.port, "GET"))
        assert (await go(acme, f"{asked.url}/")).status == 200


async def test_a_lowered_ceiling_narrows_methods_and_budget_on_the_next_request(opened: Open) -> None:
    async with opened(OPEN, UNBLOCKED) as acme, host({"/": answer()}) as asked:
        await acme.deploy("go", FETCH, policy(asked.port))
        assert (await go(acme, f"{asked.url}/", method="PUT", times="3")).status == 200
        path = acme.node.settings.policies
        assert path is not None
        ceiling = Path(path) / "ceiling.yaml"
        lowered = (
            ceiling.read_text()
            .replace(OPEN[1], READ_ONLY)
            .replace("logs: 256Ki}", "logs: 256Ki, outbound_requests: 2}")
        )
        former = acme.node.ceilings
        ceiling.write_text(lowered)
        async with asyncio.timeout(20):
            while acme.node.ceilings is former:
                await asyncio.sleep(0.05)
        assert (await go(acme, f"{asked.url}/", times="3")).body == b"Exhausted after 2"
        assert (await go(acme, f"{asked.url}/", method="PUT")).outcome is Outcome.CAPABILITY_DENIED
        (event,) = acme.node.denials.events(acme.name, GO)
        assert event.denial.allow == f'allowed_outbound_hosts: [{{host: "{asked.url}", methods: [PUT]}}]'
        assert len(asked.heads) == 5


async def test_a_host_that_is_not_listed_is_a_denial(opened: Open) -> None:
    async with opened(OPEN, UNBLOCKED) as acme, host({}) as asked:
        await acme.deploy("go", FETCH, policy(asked.port))
        other = f"http://localhost:{asked.port}"
        assert (await go(acme, f"{other}/secret?token=1")).outcome is Outcome.CAPABILITY_DENIED
        (event,) = acme.node.denials.events(acme.name, GO)
        assert event.denial.what == f"GET {other}"
        assert event.denial.allow == f'allowed_outbound_hosts: ["{other}"]'
        assert event.capability == "allowed_outbound_hosts"
        await acme.deploy("go", FETCH, policy(asked.port, "on_violation: errno"))
        soft = await go(acme, f"{other}/")
        assert (soft.outcome, soft.body) == (Outcome.OK, b"Denied after 0")
        assert len(acme.node.denials.events(acme.name, GO)) == 2
        assert asked.heads == []


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]"])
async def test_an_address_of_a_blocked_network_is_never_connected_to(opened: Open, name: str) -> None:
    async with opened(OPEN) as acme, host({"/": answer()}) as asked:
        await acme.deploy("go", FETCH, policy(asked.port, name="*"))
        reply = await go(acme, f"http://{name}:{asked.port}/")
        assert reply.outcome is Outcome.CAPABILITY_DENIED
        (event,) = acme.node.denials.events(acme.name, GO)
        assert event.capability == "blocked_networks"
        assert asked.heads == []


async def test_the_ceiling_and_the_module_need_the_grant(opened: Open) -> None:
    async with opened() as acme:
        with pytest.raises(ExceedsCeiling):
            await acme.deploy("go", FETCH, policy(80, name="example.com"))
        with pytest.raises(InvalidModule, match="allowed_outbound_hosts"):
            await acme.deploy("go", FETCH)


async def test_the_deadline_ends_a_guest_that_waits_for_a_host(opened: Open) -> None:
    async with opened(OPEN, UNBLOCKED) as acme, host({"/": None, "/ok": answer(b"ok")}) as asked:
        await acme.deploy("go", FETCH, policy(asked.port, "limits: {timeout: 200ms}"))
        pid = acme.node.sandboxes.slots[0].pid
        assert (await go(acme, f"{asked.url}/")).outcome is Outcome.DEADLINE_EXCEEDED
        async with asyncio.timeout(10):
            while not asked.hung_up:
                await asyncio.sleep(0.01)
        assert (await go(acme, f"{asked.url}/ok")).body == b"ok"
        assert acme.node.sandboxes.slots[0].pid == pid


async def test_a_caller_that_leaves_ends_the_request(opened: Open) -> None:
    async with opened(OPEN, UNBLOCKED) as acme, host({"/": None, "/ok": answer(b"ok")}) as asked:
        await acme.deploy("go", FETCH, policy(asked.port))
        call = asyncio.create_task(go(acme, f"{asked.url}/"))
        async with asyncio.timeout(10):
            while not asked.heads:
                await asyncio.sleep(0.01)
            call.cancel()
            while not asked.hung_up:
                await asyncio.sleep(0.01)
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.sleep(0)
            while not acme.node.sandboxes.slots[0].ready:
                await asyncio.sleep(0.01)
        assert (await go(acme, f"{asked.url}/ok")).body == b"ok"


async def test_what_the_router_says_meanwhile_is_not_lost(opened: Open) -> None:
    """A function is replaced, which unlinks it, while another one's guest waits in the only sandbox."""
    async with opened(OPEN, UNBLOCKED) as acme, host({"/": None, "/ok": answer(b"ok")}) as asked:
        await acme.deploy("go", FETCH, policy(asked.port, "limits: {timeout: 1s}"))
        assert (await go(acme, f"{asked.url}/ok")).body == b"ok"
        link = (await acme.target("go")).plan.link
        call = asyncio.create_task(go(acme, f"{asked.url}/"))
        async with asyncio.timeout(10):
            while len(asked.heads) < 2:
                await asyncio.sleep(0.01)
        acme.node.sandboxes.forget(link)
        assert (await call).outcome is Outcome.DEADLINE_EXCEEDED
        assert (await go(acme, f"{asked.url}/ok")).body == b"ok"
        assert acme.node.sandboxes.restarts == 0

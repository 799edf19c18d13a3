"""What needs no guest: names that resolve as a test wants, and certificates."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from egress_hosts import answer, host
from wisp.egress.addresses import Address
from wisp.egress.outbound import Egress, Terms
from wisp.egress.resolver import Resolver
from wisp.policy.choices import Method
from wisp.policy.hostrules import HostRule
from wisp.policy.hosts import parse_host_pattern
from wisp.scheduling.budget import ByteBudget
from wisp.wire.exchange import decode_response, encode_request_head
from wisp.wire.outbound import Inbound, Status

ANY = (HostRule(pattern=parse_host_pattern("*://*:*")),)


class Told(Resolver):
    """Answers each look-up with the next of these."""

    def __init__(self, *answers: str) -> None:
        super().__init__()
        self.answers = [tuple(ipaddress.ip_address(text) for text in words.split()) for words in answers]
        self.asked: list[str] = []

    async def resolve(self, host: str) -> tuple[Address, ...]:
        self.asked.append(host)
        return self.answers.pop(0)


async def fetch(egress: Egress, url: str, *, blocked: tuple[str, ...] = (), seconds: float = 5.0) -> Inbound:
    terms = Terms(hosts=ANY, blocked_networks=blocked, body_bytes=1_000_000, max_requests=8)
    deadline_ns = time.monotonic_ns() + int(seconds * 1e9)
    return await egress.open(terms).fetch(encode_request_head(b"GET", url.encode(), b"", ()), deadline_ns)


async def test_a_name_is_looked_up_once_and_the_judged_address_connected_to() -> None:
    told = Told("127.0.0.1", "203.0.113.7")
    egress = Egress(ByteBudget(1_000_000), resolver=told)
    async with host({"/": answer(b"ok")}) as asked:
        inbound = await fetch(egress, f"http://rebinding.example:{asked.port}/")
        assert inbound.status is Status.OK
        assert bytes(decode_response(memoryview(inbound.content)).body) == b"ok"
        assert told.asked == ["rebinding.example"]
        assert f"host: rebinding.example:{asked.port}" in asked.heads[0]
    await egress.close()


async def test_of_many_addresses_only_those_that_may_be_are_tried() -> None:
    told = Told("10.0.0.1 192.168.0.1 169.254.169.254", "10.9.9.9 127.0.0.1", "127.0.0.2 127.0.0.1")
    egress = Egress(ByteBudget(1_000_000), resolver=told)
    async with host({"/": answer()}) as asked:
        url = f"http://many.example:{asked.port}/"
        denied = await fetch(egress, url, blocked=("private",))
        assert denied.status is Status.DENIED
        assert denied.denial.what == f"GET http://many.example:{asked.port}, an address of a blocked network"
        assert (await fetch(egress, url, blocked=("10.0.0.0/8",))).status is Status.OK
        assert (await fetch(egress, url)).status is Status.OK, "the first refuses the connection, the second does not"
        assert len(asked.heads) == 2
    await egress.close()


async def test_a_method_is_judged_before_any_name_is_looked_up() -> None:
    told = Told()
    egress = Egress(ByteBudget(100), resolver=told)
    somewhere = HostRule(pattern=parse_host_pattern("https://*.example"), methods=(Method.GET, Method.PUT))
    terms = Terms(hosts=(somewhere,), blocked_networks=(), body_bytes=100, max_requests=3)
    requests, deadline_ns = egress.open(terms), time.monotonic_ns() + 5 * 10**9

    async def send(method: bytes, url: bytes) -> Inbound:
        return await requests.fetch(encode_request_head(method, url, b"", ()), deadline_ns)

    denied = await send(b"POST", b"https://api.example/x?y")
    assert denied.denial.what == "POST https://api.example:443"
    assert denied.denial.allow == 'allowed_outbound_hosts: [{host: "https://api.example:443", methods: [POST]}]'
    assert (await send(b"GET", b"https://api.org/")).denial.allow == 'allowed_outbound_hosts: ["https://api.org:443"]'
    for method in (b"CONNECT", b"TRACE", b"get"):
        assert (await send(method, b"https://api.example/")).status is Status.INVALID
    assert (await send(b"POST", b"https://api.example/")).status is Status.DENIED
    exhausted = await send(b"GET", b"https://api.example/")
    assert (exhausted.status, b"limits.outbound_requests" in exhausted.content) == (Status.EXHAUSTED, True)
    assert told.asked == []
    await egress.close()


async def test_a_body_that_the_node_has_no_room_for_is_given_up_and_given_back() -> None:
    budget = ByteBudget(100)
    egress = Egress(budget)
    async with host({"/": answer(bytes(50)), "/more": answer(bytes(500))}) as asked:
        assert (await fetch(egress, f"{asked.url}/more")).status is Status.UNREACHABLE
        assert (await fetch(egress, f"{asked.url}/")).status is Status.OK
        assert budget.used_bytes == 0
    await egress.close()


async def test_the_deadline_holds_wherever_it_hangs() -> None:
    class Hanging(Resolver):
        async def resolve(self, host: str) -> tuple[Address, ...]:
            await asyncio.sleep(60)
            return ()

    egress, hanging = Egress(ByteBudget(100)), Egress(ByteBudget(100), resolver=Hanging())
    async with host({"/": None}) as asked:
        assert (await fetch(egress, f"{asked.url}/", seconds=0.1)).status is Status.DEADLINE
    assert (await fetch(hanging, "http://a.example/", seconds=0.1)).status is Status.DEADLINE
    assert (await fetch(egress, f"{asked.url}/", seconds=-1)).status is Status.DEADLINE
    await egress.close()
    await hanging.close()


def certificate(directory: Path, name: str) -> Path:
    """Self-signed, with its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / f"{name}.pem"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(made.public_bytes(pem) + private)
    return path


@pytest.mark.parametrize(
    ("name", "trusted", "status"),
    [
        ("api.example", True, Status.OK),
        ("other.example", True, Status.UNREACHABLE),
        ("api.example", False, Status.UNREACHABLE),
    ],
)
async def test_a_certificate_must_be_the_names(tmp_path: Path, name: str, trusted: bool, status: Status) -> None:
    file = certificate(tmp_path, "api.example")
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(file)
    trust = ssl.create_default_context(cafile=str(file) if trusted else None)
    egress = Egress(ByteBudget(1_000_000), resolver=Told("127.0.0.1"), trust=trust)
    async with host({"/": answer(b"sealed")}, tls=server_side) as asked:
        inbound = await fetch(egress, f"https://{name}:{asked.port}/")
        assert inbound.status is status
        assert len(asked.heads) == (status is Status.OK)
    await egress.close()

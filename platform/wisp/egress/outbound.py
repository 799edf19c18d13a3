"""Outbound HTTP on a guest's behalf: its URL against its grants, its address against the ceiling, then the request.

    parse → count → allow-list → DNS, once → each address judged → connect to one that passed → answer, bounded

The connection goes to the very address that was judged, whatever the name resolves to by then; certificate and Host
header keep the name. Redirects are answers: a guest that follows one makes another request, judged like the first.
Nothing is shared between two requests: no connection, no cookie, no proxy or credential of the router's environment.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import httpx

from wisp.egress.addresses import Address, is_blocked
from wisp.egress.destinations import (
    Destination,
    InvalidDestination,
    incoming,
    outgoing,
    parse_destination,
    parse_method,
)
from wisp.egress.resolver import Resolver, UnknownHost
from wisp.errors import Overloaded
from wisp.policy.hostrules import HostRule, methods_for
from wisp.wire.exchange import MalformedExchange, Request, decode_request, encode_response
from wisp.wire.outbound import Inbound, Status
from wisp.wire.outcome import Denial

MAX_ADDRESSES = 3
"""Of one name, tried in turn while none lets itself be connected to."""
CONNECT_S = 5.0
DENIED_NETWORK = "blocked_networks: only the operator's ceiling can open this address's network"


class Budget(Protocol):
    def take(self, size_bytes: int) -> None: ...

    def give_back(self, size_bytes: int) -> None: ...


class TooLarge(Exception):
    """The answer's body passes the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one function may reach. `body_bytes` bounds a request's body and an answer's, `max_requests` those of one
    invocation."""

    hosts: tuple[HostRule, ...]
    blocked_networks: tuple[str, ...]
    body_bytes: int
    max_requests: int


class Egress:
    """One for a node; belongs to one event loop."""

    def __init__(
        self, budget: Budget, *, resolver: Resolver | None = None, trust: ssl.SSLContext | None = None
    ) -> None:
        """`trust`: else the authorities that `SSL_CERT_FILE` or `SSL_CERT_DIR` names, or httpx's own."""
        self._budget = budget
        self._resolver = Resolver() if resolver is None else resolver
        self._transport = httpx.AsyncHTTPTransport(
            verify=True if trust is None else trust,
            retries=0,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    def open(self, terms: Terms) -> OutboundRequests:
        """For one invocation."""
        return OutboundRequests(self, terms)

    async def close(self) -> None:
        self._resolver.close()
        await self._transport.aclose()

    async def addresses(self, destination: Destination, blocked: Iterable[str]) -> list[Address]:
        """Those that may be reached; empty if there are some and none may. Raises `UnknownHost`."""
        literal = destination.address
        found = (literal,) if literal is not None else await self._resolver.resolve(destination.host)
        blocked = tuple(blocked)
        return [address for address in found if not is_blocked(address, blocked)][:MAX_ADDRESSES]

    async def exchange(
        self, destination: Destination, addresses: list[Address], request: Request, limit_bytes: int
    ) -> bytes:
        """The encoded answer. Raises `TooLarge`, `Overloaded`, ValueError for a head that an exchange cannot hold, and
        httpx's errors."""
        for address in addresses[:-1]:
            try:
                return await self._exchange(destination, address, request, limit_bytes)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._exchange(destination, addresses[-1], request, limit_bytes)

    async def _exchange(self, destination: Destination, address: Address, request: Request, limit_bytes: int) -> bytes:
        response = await self._transport.handle_async_request(_as_httpx(destination, address, request))
        body, held = bytearray(), 0
        try:
            async for chunk in response.stream:  # type: ignore[union-attr]  # an async transport's stream is one
                if len(body) + len(chunk) > limit_bytes:
                    raise TooLarge
                self._budget.take(len(chunk))
                held += len(chunk)
                body += chunk
            if not 200 <= response.status_code <= 599:
                raise ValueError("the answer's status is not within 200 to 599")
            return encode_response(response.status_code, incoming(response.headers.raw), bytes(body))
        finally:
            self._budget.give_back(held)
            await response.aclose()


class OutboundRequests:
    """Those of one invocation."""

    def __init__(self, egress: Egress, terms: Terms) -> None:
        self._egress = egress
        self._terms = terms
        self._count = 0

    async def fetch(self, message: bytes, deadline_ns: int) -> Inbound:
        """Whatever goes wrong is a status; cancelling it closes the connection. `deadline_ns`: CLOCK_MONOTONIC."""
        try:
            request = decode_request(memoryview(message))
            destination, method = parse_destination(request.path), parse_method(request.method)
            headers = outgoing(request.headers)
        except (MalformedExchange, InvalidDestination) as error:
            return _failed(Status.INVALID, str(error))
        if request.query:
            return _failed(Status.INVALID, "the query belongs into the URL")
        if len(request.body) > self._terms.body_bytes:
            return _failed(Status.TOO_LARGE, f"a request body of {len(request.body)} bytes")
        self._count += 1
        if self._count > self._terms.max_requests:
            words = f"more than limits.outbound_requests allows one invocation, {self._terms.max_requests}"
            return _failed(Status.EXHAUSTED, words)
        tried = f"{method} {destination}"
        methods = methods_for(destination.pattern, self._terms.hosts)
        if method not in methods:
            entry = f'{{host: "{destination}", methods: [{method}]}}' if methods else f'"{destination}"'
            return Inbound.denied(Denial(what=tried, allow=f"allowed_outbound_hosts: [{entry}]"))
        request = Request(
            method=method.encode(), path=request.path, query=b"", headers=tuple(headers), body=request.body
        )
        try:
            async with asyncio.timeout(max(0.0, (deadline_ns - time.monotonic_ns()) / 1e9)):
                return await self._fetch(destination, request, tried)
        except TimeoutError:
            return _failed(Status.DEADLINE, "the deadline passed")

    async def _fetch(self, destination: Destination, request: Request, tried: str) -> Inbound:
        try:
            addresses = await self._egress.addresses(destination, self._terms.blocked_networks)
            if not addresses:
                return Inbound.denied(Denial(what=f"{tried}, an address of a blocked network", allow=DENIED_NETWORK))
            content = await self._egress.exchange(destination, addresses, request, self._terms.body_bytes)
        except UnknownHost:
            return _failed(Status.UNREACHABLE, f"{destination.host} does not resolve")
        except TooLarge:
            return _failed(Status.TOO_LARGE, f"{destination} answers with more than {self._terms.body_bytes} bytes")
        except Overloaded:
            return _failed(Status.UNREACHABLE, "the node has no room for another body at present")
        except httpx.LocalProtocolError:
            return _failed(Status.INVALID, "not a request that HTTP allows")
        except (httpx.ProtocolError, httpx.DecodingError, ValueError):
            return _failed(Status.PROTOCOL, f"the answer of {destination} is not one")
        except httpx.TransportError as error:
            return _failed(Status.UNREACHABLE, f"{destination}: {type(error).__name__}")
        return Inbound(status=Status.OK, content=content)


def _as_httpx(destination: Destination, address: Address, request: Request) -> httpx.Request:
    host = f"[{address}]" if isinstance(address, ipaddress.IPv6Address) else str(address)
    url = httpx.URL(scheme=destination.scheme, host=host, port=destination.port, raw_path=destination.target)
    extensions: dict[str, object] = {"timeout": {"connect": CONNECT_S}}
    if destination.address is None:
        extensions["sni_hostname"] = destination.host
    headers = [(b"host", destination.authority.encode()), *request.headers]
    return httpx.Request(
        request.method.decode(), url, headers=headers, content=request.body or None, extensions=extensions
    )


def _failed(status: Status, words: str) -> Inbound:
    return Inbound(status=status, content=words.encode("utf-8", "backslashreplace"))

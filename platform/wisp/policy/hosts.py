"""Outbound host patterns, `https://api.example.com:443`: what each covers, and what two of them have in common.

Scheme, host and port each stand for one value or, as `*`, for any; a host may be `*.example.com`, which covers every
name below `example.com` but not that name itself. The patterns form a meet-semilattice, which is what lets a policy's
list be narrowed by a ceiling's without asking about any single host.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

HOST_RULE = "scheme://host:port with scheme http, https or *, a lower-case host, *.host or *, and a port or *"

_PATTERN = re.compile(
    r"(http|https|\*)://(\[[0-9a-f:.]{2,45}\]|[a-z0-9.*-]{1,253})(?::([1-9][0-9]{0,4}|\*))?", re.ASCII
)
_LABELS = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPattern:
    """`scheme` and `port` are None for any; `host` is `*`, `*.name`, a name or an IP address (IPv6 in brackets)."""

    scheme: str | None
    host: str
    port: int | None

    def __str__(self) -> str:
        return f"{self.scheme or '*'}://{self.host}:{self.port or '*'}"

    def covers(self, other: HostPattern) -> bool:
        """Whether all that `other` allows, this allows."""
        return self.meet(other) == other

    def meet(self, other: HostPattern) -> HostPattern | None:
        """What both allow; None if nothing."""
        if self.scheme is not None and other.scheme is not None and self.scheme != other.scheme:
            return None
        if self.port is not None and other.port is not None and self.port != other.port:
            return None
        host = _meet_hosts(self.host, other.host)
        if host is None:
            return None
        return HostPattern(scheme=self.scheme or other.scheme, host=host, port=self.port or other.port)


def parse_host_pattern(text: str) -> HostPattern:
    """Without a port: the scheme's own, or any if the scheme is `*`. Raises ValueError with the rule."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"expected {HOST_RULE}")
    scheme = None if match[1] == "*" else match[1]
    port = _DEFAULT_PORTS.get(match[1]) if match[3] is None else None if match[3] == "*" else int(match[3])
    if port is not None and port > 65535:
        raise ValueError("expected a port of at most 65535")
    return HostPattern(scheme=scheme, host=_parse_host(match[2]), port=port)


def _parse_host(host: str) -> str:
    if host == "*":
        return host
    if host.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            raise ValueError("expected an IPv6 address between the brackets") from None
    name = host.removeprefix("*.")
    if _LABELS.fullmatch(name) is None:
        raise ValueError(f"expected {HOST_RULE}")
    # A name whose last label is a number is an address to every URL parser: only the plain spelling is accepted,
    # or 0x7f.1 would pass for a name here and for 127.0.0.1 there.
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", name.rpartition(".")[2], re.ASCII) is not None:
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError("expected an IPv4 address as four decimal numbers, or a name") from None
    return host


def _meet_hosts(one: str, other: str) -> str | None:
    if one == other or other == "*":
        return one
    if one == "*":
        return other
    if one.startswith("*.") and other.endswith(one[1:]):
        return other
    if other.startswith("*.") and one.endswith(other[1:]):
        return one
    return None

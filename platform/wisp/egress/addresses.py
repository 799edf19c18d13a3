"""Which addresses a guest's request may reach: judged on the address itself, after DNS, whatever spelling it came in.

An IPv6 address that carries an IPv4 address inside (mapped, compatible, 6to4, Teredo, NAT64) is judged by both: a
translator on the way would make the one of the other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

PRIVATE = "private"
"""The word of the vocabulary: whatever is not globally reachable (the IANA special-purpose registries), loopback,
link-local and the clouds' metadata services included."""

_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))  # RFC 6052, RFC 8215
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_METADATA = frozenset({ipaddress.ip_address("168.63.129.16")})
"""Services of a cloud for its own machines, at an address that is globally reachable by its number."""
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_LOW_32 = 0xFFFFFFFF


def is_blocked(address: Address, blocked_networks: Iterable[str]) -> bool:
    """`blocked_networks` as a ceiling has them: `private`, or networks. Nobody is ever reached at an unspecified,
    multicast or broadcast address, whatever they say."""
    blocked = tuple(blocked_networks)
    return any(_is_nobody(face) or _is_in(face, blocked) for face in _faces(address))


def _faces(address: Address) -> Iterator[Address]:
    yield address
    if isinstance(address, ipaddress.IPv4Address):
        return
    low = ipaddress.IPv4Address(int(address) & _LOW_32)
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif address.sixtofour is not None:
        yield address.sixtofour
    elif address.teredo is not None:
        yield from address.teredo
    elif any(address in network for network in _NAT64) or (address in _COMPATIBLE and int(address) > 1):
        yield low


def _is_nobody(address: Address) -> bool:
    return address.is_unspecified or address.is_multicast or address == _BROADCAST


def _is_in(address: Address, blocked: tuple[str, ...]) -> bool:
    for network in blocked:
        if network == PRIVATE:
            if _is_private(address):
                return True
        elif address in ipaddress.ip_network(network):
            return True
    return False


def _is_private(address: Address) -> bool:
    """`is_global` alone would pass what the libraries of some Python releases do not list: those are named too."""
    if address in _METADATA or address.is_loopback or address.is_link_local or address.is_reserved:
        return not _is_translated(address)
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return True
    return (address.is_private or not address.is_global) and not _is_translated(address)


def _is_translated(address: Address) -> bool:
    """What stands for an IPv4 address only, which is judged beside it."""
    return isinstance(address, ipaddress.IPv6Address) and (
        address.ipv4_mapped is not None or address.sixtofour is not None or address in _NAT64[0]
    )

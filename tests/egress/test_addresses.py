from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.egress.addresses import is_blocked


def each(addresses: str) -> list[str]:
    return addresses.split()


PRIVATE = each("""
    127.0.0.1 127.255.255.254 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200
    0.1.2.3 192.0.0.1 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 240.0.0.1 168.63.129.16
    ::1 fe80::1 fc00::1 fd00:ec2::254 fec0::1 2001:db8::1 100::1
    ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::a00:1 2002:7f00:1:: 2002:a9fe:a9fe::1
    2001:0:4136:e378:8000:63bf:80ff:fffe
""")
NOBODY = each("0.0.0.0 255.255.255.255 224.0.0.1 239.1.1.1 :: ff02::1 ff0e::1 ::ffff:0.0.0.0 ::ffff:224.0.0.1")
PUBLIC = each("""
    1.1.1.1 8.8.8.8 93.184.215.14 2606:4700::1111 2a00:1450::1
    ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1
""")


@pytest.mark.parametrize("text", PRIVATE)
def test_what_is_not_the_public_network_is_private(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert is_blocked(address, ("private",))
    assert not is_blocked(address, ())


@pytest.mark.parametrize("text", NOBODY)
def test_nobody_is_reached_whatever_is_opened(text: str) -> None:
    assert is_blocked(ipaddress.ip_address(text), ())


@pytest.mark.parametrize("text", PUBLIC)
def test_the_public_network_is_open(text: str) -> None:
    assert not is_blocked(ipaddress.ip_address(text), ("private",))


def test_networks_are_blocked_beside_the_word() -> None:
    blocked = ("8.8.8.0/24", "2606:4700::/32")
    for text in ("8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2606:4700::1"):
        assert is_blocked(ipaddress.ip_address(text), blocked), text
    for text in ("8.8.4.4", "10.0.0.1", "2a00:1450::1"):
        assert not is_blocked(ipaddress.ip_address(text), blocked), text


@given(st.ip_addresses(v=4))
def test_an_address_in_disguise_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    plain = is_blocked(address, ("private",))
    for prefix, shift in ((0xFFFF << 32, 0), (0x64FF9B << 96, 0), (0x2002 << 112, 80)):
        assert is_blocked(ipaddress.IPv6Address(prefix | number << shift), ("private",)) == plain

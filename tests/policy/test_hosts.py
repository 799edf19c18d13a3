from __future__ import annotations

import pytest
from hypothesis import given

from policy.documents import host_patterns
from wisp.policy.hosts import HostPattern, parse_host_pattern


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("https://api.example.com", "https://api.example.com:443"),
        ("http://api.example.com", "http://api.example.com:80"),
        ("http://api.example.com:8080", "http://api.example.com:8080"),
        ("*://api.example.com", "*://api.example.com:*"),
        ("https://*.example.com:*", "https://*.example.com:*"),
        ("*://*", "*://*:*"),
        ("http://192.0.2.1", "http://192.0.2.1:80"),
        ("http://[2001:DB8::1]".lower(), "http://[2001:db8::1]:80"),
        ("http://[2001:db8:0:0::1]", "http://[2001:db8::1]:80"),
    ],
)
def test_patterns(text: str, printed: str) -> None:
    assert str(parse_host_pattern(text)) == printed


@pytest.mark.parametrize(
    "text",
    [
        *("", "example.com", "ftp://a", "https://", "https://a/", "https://a/b", "https://a?b", "https://a#b"),
        *("https://u@a", "https://A", "https://a.", "https://.a", "https://a..b", "https://-a", "https://a_b"),
        *("https://a:0", "https://a:65536", "https://a:080", "https://a:", "https://a*", "https://*a", "https://a.*"),
        *("https://*.", "https://**", "http://127.1", "http://0x7f.1", "http://0x7f000001", "http://2130706433"),
        *("http://010.0.0.1", "http://[::1", "http://[1]", "http://[fe80::1%eth0]", "https://a\n", "https://é"),
        "https://" + "a" * 64 + ".b",
    ],
)
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_host_pattern(text)


@pytest.mark.parametrize(
    ("wide", "narrow", "covers"),
    [
        ("https://*.example.com", "https://api.example.com", True),
        ("https://*.example.com", "https://a.b.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://badexample.com", False),
        ("https://*.example.com", "https://*.b.example.com", True),
        ("https://*.b.example.com", "https://*.example.com", False),
        ("https://*", "https://api.example.com", True),
        ("https://*", "http://api.example.com", False),
        ("*://*", "http://api.example.com:8080", True),
        ("https://a", "https://a:8443", False),
        ("https://a:*", "https://a:8443", True),
        ("https://a:8443", "https://a:*", False),
    ],
)
def test_covers(wide: str, narrow: str, covers: bool) -> None:
    assert parse_host_pattern(wide).covers(parse_host_pattern(narrow)) is covers


@given(host_patterns(), host_patterns(), host_patterns())
def test_meet_is_the_greatest_lower_bound(one: HostPattern, two: HostPattern, three: HostPattern) -> None:
    met = one.meet(two)
    assert met == two.meet(one)
    assert one.covers(one)
    if met is not None:
        assert one.covers(met)
        assert two.covers(met)
    if one.covers(three) and two.covers(three):
        assert met is not None
        assert met.covers(three)


@given(host_patterns())
def test_printed_patterns_read_back(pattern: HostPattern) -> None:
    assert parse_host_pattern(str(pattern)) == pattern

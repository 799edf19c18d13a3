from __future__ import annotations

import pytest

from wisp.policy.choices import Method
from wisp.policy.hostrules import METHODS, HostRule, meet_all, methods_for
from wisp.policy.hosts import parse_host_pattern


def rule(text: str, *methods: Method) -> HostRule:
    return HostRule(pattern=parse_host_pattern(text), methods=methods or METHODS)


def test_neither_connect_nor_trace_is_a_method() -> None:
    assert set(METHODS) == {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def test_what_is_not_covered_whole_is_cut() -> None:
    asked = [rule(text) for text in ("*://*.example.com:443", "https://other.org", "https://api.net")]
    allowed = [rule(text) for text in ("https://*", "http://a.example.com:*")]
    assert [str(met) for met in meet_all(asked, allowed)] == [
        "https://*.example.com:443",
        "http://a.example.com:443",
        "https://other.org:443",
        "https://api.net:443",
    ]
    assert meet_all(asked, []) == ()


def test_methods_are_cut_where_the_hosts_meet() -> None:
    asked = [rule("https://*.a.org", Method.GET, Method.POST), rule("https://b.org")]
    allowed = [rule("https://*", Method.GET), rule("https://x.a.org", Method.POST, Method.PUT)]
    assert [met.as_json() for met in meet_all(asked, allowed)] == [
        {"host": "https://*.a.org:443", "methods": ["GET"]},
        {"host": "https://x.a.org:443", "methods": ["POST"]},
        {"host": "https://b.org:443", "methods": ["GET"]},
    ]
    assert meet_all([rule("https://c.org", Method.PUT)], [rule("https://*", Method.GET)]) == ()


def test_rules_for_one_host_add_up() -> None:
    rules = [rule("https://*.a.org", Method.GET), rule("https://x.a.org", Method.DELETE)]
    assert methods_for(parse_host_pattern("https://x.a.org"), rules) == (Method.GET, Method.DELETE)
    assert methods_for(parse_host_pattern("https://y.a.org"), rules) == (Method.GET,)
    assert methods_for(parse_host_pattern("https://a.org"), rules) == ()
    whole = rule("https://x.a.org", Method.GET, Method.DELETE)
    assert meet_all([whole], rules) == (whole,)


def test_json_is_text_where_every_method_is_allowed() -> None:
    assert rule("https://a.org").as_json() == "https://a.org:443"
    narrow = rule("https://a.org", Method.HEAD)
    assert narrow.as_json() == {"host": "https://a.org:443", "methods": ["HEAD"]}
    for one in (rule("https://a.org"), narrow):
        assert HostRule.from_json(one.as_json()) == one


@pytest.mark.parametrize(
    "value",
    [
        *(1, None, [], "a.org", {}, {"host": "https://a.org"}, {"host": "https://a.org", "methods": []}),
        *({"host": "https://a.org", "methods": ["CONNECT"]}, {"host": "https://a.org", "methods": "GET"}),
        *({"host": "https://a.org", "methods": [1]}, {"host": "https://a.org", "methods": ["GET"], "x": 1}),
        {"host": "https://a.org", "methods": ["GET"] * 8},
    ],
)
def test_what_is_no_rule(value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        HostRule.from_json(value)

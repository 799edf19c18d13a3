"""What is read of a request before its body: names by their grammar, and nothing of the platform's for guests."""

from __future__ import annotations

import re

import pytest

from wisp.api.requesthead import read_head, split_path
from wisp.errors import FunctionNotFound


def test_a_guest_sees_no_credentials_and_no_connection() -> None:
    head = read_head(
        [
            (b"host", b"h"),
            (b"authorization", b"Bearer secret"),
            (b"connection", b"keep-alive, X-Private"),
            (b"x-private", b"1"),
            (b"keep-alive", b"5"),
            (b"transfer-encoding", b"chunked"),
            (b"upgrade", b"h2c"),
            (b"wisp-outcome", b"ok"),
            (b"x-request-id", b"abc"),
            (b"accept", b"a"),
            (b"accept", b"b"),
        ]
    )
    assert head.headers == ((b"host", b"h"), (b"x-request-id", b"abc"), (b"accept", b"a"), (b"accept", b"b"))
    assert (head.secret, head.request_id, head.length) == ("secret", "abc", None)


@pytest.mark.parametrize("offered", [b"", b"a b", b"x" * 129, b"a\nb", b"\xff"])
def test_an_insane_request_id_is_replaced(offered: bytes) -> None:
    assert re.fullmatch(r"[0-9a-f]{24}", read_head([(b"x-request-id", offered)]).request_id)


@pytest.mark.parametrize(
    ("path", "below"),
    [
        (b"/t/acme/fn", b"/"),
        (b"/t/acme/fn/", b"/"),
        (b"/t/acme/fn/a%2Fb//../c", b"/a%2Fb//../c"),
        (b"/t/%61cme/f%6e", b"/"),
    ],
)
def test_names_are_decoded_once_and_what_is_below_never(path: bytes, below: bytes) -> None:
    assert split_path(path) == ("acme", "fn", below)


@pytest.mark.parametrize(
    "path",
    [
        b"/t/",
        b"/t/acme",
        b"/t/acme/",
        b"/t//fn",
        b"/t/Acme/fn",
        b"/t/acme/v2",
        b"/t/a%2Fb/c",
        b"/t/%2561/fn",
        b"/t/acme%00/fn",
        b"/t/\xc3\xa9/fn",
    ],
)
def test_what_is_no_name_is_no_function(path: bytes) -> None:
    with pytest.raises(FunctionNotFound):
        split_path(path)

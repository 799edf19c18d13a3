"""A guest's headers, and what of them is not a guest's to say."""

from __future__ import annotations

from wisp.api.answerheaders import guest_headers


def test_a_guest_cannot_forge_what_is_the_platforms() -> None:
    kept = guest_headers(
        (
            (b"content-type", b"text/plain"),
            (b"content-length", b"7"),
            (b"transfer-encoding", b"chunked"),
            (b"connection", b"x-inner"),
            (b"x-inner", b"1"),
            (b"date", b"never"),
            (b"server", b"mine"),
            (b"server-timing", b"guest;dur=0"),
            (b"wisp-fuel-used", b"0"),
            (b"set-cookie", b"a"),
            (b"set-cookie", b"b"),
        )
    )
    assert kept == [(b"content-type", b"text/plain"), (b"set-cookie", b"a"), (b"set-cookie", b"b")]

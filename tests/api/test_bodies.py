"""JSON from outside: strict, bounded, and refused in words."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from wisp.api.bodies import ClientGone, NewKey, NewTenant, TenantPatch, content_length, parse_json, read
from wisp.errors import InvalidRequest, RequestTimeout, RequestTooLarge


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "body"),
        (b'{"tenant": "a", "tenant": "b"}', "twice"),
        (b'{"tenant": "a", "klass": "free"}', "klass"),
        (b'{"tenant": 1}', "tenant"),
        (b'{"tenant": NaN}', "NaN"),
        (b'{"tenant": "\xff"}', "not JSON"),
        (b"[" * 60_000, "deeply"),
        (b'{"tenant": ' * 10_000, "not JSON"),
    ],
)
def test_what_is_no_new_tenant_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        parse_json(text, NewTenant)


def test_types_are_not_converted() -> None:
    for text in (b'{"suspended": "true"}', b'{"suspended": 1}', b'{"class": false}'):
        with pytest.raises(InvalidRequest):
            parse_json(text, TenantPatch)
    with pytest.raises(InvalidRequest, match="role"):
        parse_json(b'{"role": "operator"}', NewKey)
    assert parse_json(b'{"tenant": "a"}', NewTenant).class_name == "free"


def test_what_is_shown_back_is_one_printable_line() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_json(b'{"tenant": "a", "x\\n\\u001b[31mforged": 1}', NewTenant)
    assert refused.value.message.isprintable()


def test_only_one_plain_content_length_is_believed() -> None:
    assert content_length([b"12"]) == 12
    for values in ([], [b"1", b"1"], [b"-1"], [b"+1"], [b"1_0"], [b"9" * 30]):
        assert content_length(values) is None


async def test_a_body_is_cut_off_at_its_cap_and_its_time() -> None:
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    for _ in range(5):
        inbox.put_nowait({"type": "http.request", "body": b"x" * 10, "more_body": True})
    with pytest.raises(RequestTooLarge) as large:
        await read(inbox.get, length=None, limit_bytes=25, what="it", time_s=5)
    assert (large.value.limit, large.value.used) == (25, 30)
    with pytest.raises(RequestTimeout):
        await read(inbox.get, length=None, limit_bytes=100, what="it", time_s=0.01)
    with pytest.raises(RequestTooLarge):
        await read(inbox.get, length=101, limit_bytes=100, what="it", time_s=5)
    inbox.put_nowait({"type": "http.disconnect"})
    with pytest.raises(ClientGone):
        await read(inbox.get, length=None, limit_bytes=100, what="it", time_s=5)

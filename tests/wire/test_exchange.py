"""The exchange codec against the vectors that it shares with the SDK, and against anything else."""

from __future__ import annotations

import contextlib
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.wire.exchange import (
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    Headers,
    MalformedExchange,
    Response,
    ResponseDecoder,
    decode_request,
    decode_response,
    encode_request_head,
    encode_response,
)

VECTORS = Path(__file__).parents[1] / "exchange"
REQUESTS: dict[str, Any] = json.loads((VECTORS / "requests.json").read_text())
RESPONSES: dict[str, Any] = json.loads((VECTORS / "responses.json").read_text())
# What the message says of each fault. A count of headers that cannot be there is refused by its bound already.
SAYS = {
    "version": "version: .*, not 1",
    "truncated": "the message ends inside it|bytes announced|header count: .* at most",
    "not_utf8": "not UTF-8",
    "status": "status: .* not within 200 to 599",
    "header_name": "name: not a lower-case token",
    "header_value": "value: a control character",
}

header_names = st.from_regex(r"[a-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True).map(str.encode)
header_values = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[chr(code) for code in (*range(32), 127)]), max_size=30
).map(str.encode)
header_lists: st.SearchStrategy[Headers] = st.lists(st.tuples(header_names, header_values), max_size=8).map(tuple)
texts = st.text(max_size=40).map(str.encode)


def named(cases: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in cases]


def headers_of(case: dict[str, Any]) -> Headers:
    return tuple((name.encode(), value.encode()) for name, value in case["headers"])


@pytest.mark.parametrize("case", named(REQUESTS["valid"]))
def test_a_request_decodes_to_its_fields_and_encodes_to_its_bytes(case: dict[str, Any]) -> None:
    message, body = bytes.fromhex(case["hex"]), bytes.fromhex(case["body_hex"])
    request = decode_request(memoryview(message))
    fields = (case["method"].encode(), case["path"].encode(), case["query"].encode())
    assert (request.method, request.path, request.query) == fields
    assert (request.headers, request.body) == (headers_of(case), body)
    assert encode_request_head(*fields, headers_of(case)) + body == message


@pytest.mark.parametrize("case", named(RESPONSES["valid"]))
def test_a_response_decodes_to_its_fields_and_encodes_to_its_bytes(case: dict[str, Any]) -> None:
    message, body = bytes.fromhex(case["hex"]), bytes.fromhex(case["body_hex"])
    response = decode_response(memoryview(message))
    assert (response.status, response.headers, bytes(response.body)) == (case["status"], headers_of(case), body)
    assert encode_response(case["status"], headers_of(case), body) == message


@pytest.mark.parametrize("case", named(REQUESTS["malformed"]))
def test_a_malformed_request_is_refused_for_its_fault(case: dict[str, Any]) -> None:
    with pytest.raises(MalformedExchange) as refused:
        decode_request(memoryview(bytes.fromhex(case["hex"])))
    assert re.search(SAYS[case["fault"]], str(refused.value))


@pytest.mark.parametrize("case", named(RESPONSES["malformed"]))
def test_a_malformed_response_is_refused_for_its_fault(case: dict[str, Any]) -> None:
    with pytest.raises(MalformedExchange) as refused:
        decode_response(memoryview(bytes.fromhex(case["hex"])))
    assert re.search(SAYS[case["fault"]], str(refused.value))


def test_every_fault_of_the_vectors_is_one_that_the_codec_names() -> None:
    assert {case["fault"] for case in REQUESTS["malformed"] + RESPONSES["malformed"]} == SAYS.keys()


@given(texts, texts, texts, header_lists, st.binary(max_size=100))
def test_requests_survive_the_round_trip(
    method: bytes, path: bytes, query: bytes, headers: Headers, body: bytes
) -> None:
    request = decode_request(memoryview(encode_request_head(method, path, query, headers) + body))
    decoded = (request.method, request.path, request.query, request.headers, request.body)
    assert decoded == (method, path, query, headers, body)


@given(st.integers(200, 599), header_lists, st.binary(max_size=100))
def test_responses_survive_the_round_trip(status: int, headers: Headers, body: bytes) -> None:
    response = decode_response(memoryview(encode_response(status, headers, body)))
    assert (response.status, response.headers, bytes(response.body)) == (status, headers, body)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_decode_or_are_refused_and_nothing_else(data: bytes) -> None:
    for decode in (decode_request, decode_response):
        for message in (data, struct.pack("<I", 1) + data, struct.pack("<II", 1, 200) + data):
            with contextlib.suppress(MalformedExchange):
                decode(memoryview(message))


@given(st.integers(200, 599), header_lists, st.data())
def test_a_response_with_a_flipped_byte_decodes_or_is_refused(
    status: int, headers: Headers, data: st.DataObject
) -> None:
    message = bytearray(encode_response(status, headers, b"body"))
    at = data.draw(st.integers(0, len(message) - 1))
    message[at] ^= data.draw(st.integers(1, 255))
    try:
        response = decode_response(memoryview(message))
    except MalformedExchange:
        return
    assert encode_response(response.status, response.headers, bytes(response.body)) == bytes(message)


def decoded(decode: Callable[[Any], Response], message: bytes | memoryview) -> object:
    try:
        response = decode(message)
    except MalformedExchange as error:
        return str(error)
    return response.status, response.headers, bytes(response.body)


@given(st.lists(header_lists, min_size=1, max_size=2), st.data())
def test_a_decoder_that_remembers_the_last_head_decodes_as_one_that_does_not(
    heads: list[Headers], data: st.DataObject
) -> None:
    decoder = ResponseDecoder()
    for _ in range(4):
        head, body = data.draw(st.sampled_from(heads)), data.draw(st.binary(max_size=20))
        message = bytearray(encode_response(data.draw(st.sampled_from((200, 200, 404, 99))), head, body))
        if data.draw(st.booleans()):
            message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(0, 255))
        cut = bytes(message[: data.draw(st.sampled_from((len(message), len(message), len(message) - 1, 8)))])
        view = memoryview(cut)
        assert decoded(decoder.decode, cut) == decoded(decode_response, view) == decoded(decoder.decode, view)


def test_the_number_and_the_size_of_headers_are_bounded() -> None:
    most = ((b"x", b""),) * MAX_HEADERS
    assert len(decode_response(memoryview(encode_response(200, most, b""))).headers) == MAX_HEADERS
    large = ((b"x", b"v" * (MAX_HEADER_BYTES - 1)),)
    assert decode_response(memoryview(encode_response(200, large, b""))).headers == large
    for headers in ((*most, (b"x", b"")), (*large, (b"y", b""))):
        with pytest.raises(MalformedExchange):
            decode_response(memoryview(encode_response(200, headers, b"")))

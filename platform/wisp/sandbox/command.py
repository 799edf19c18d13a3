"""The `command` ABI: any WASI preview 1 program. CGI variables, the body on stdin, a head and a body on stdout.

The program is whatever its language makes of `_start`, or the export that the policy names. It ends by returning or
with code 0; what it wrote by then is read as an answer (`sandbox.cgi`) and becomes an exchange response, so that the
router decodes one format only.
"""

from __future__ import annotations

import ctypes
from typing import Final

from wisp.sandbox.capi import EXTERN_FUNC, EXTERN_MEMORY, RAW_BYTES
from wisp.sandbox.cgi import MalformedHead, parse_head, variables
from wisp.sandbox.handler import EMPTY, ENVELOPE_BYTES, Answer, initialize, required
from wisp.sandbox.invocation import Invocation
from wisp.sandbox.preview1 import STDIN, STDOUT
from wisp.sandbox.store import Store
from wisp.sandbox.streams import Input, Output
from wisp.sandbox.traps import EngineError, Trapped
from wisp.wire.exchange import decode_request_head, encode_response
from wisp.wire.invocations import INLINE_BYTES, FunctionLink
from wisp.wire.outcome import Outcome

START: Final = b"_start"
_values = (ctypes.c_char * RAW_BYTES)()
_values_at: Final = ctypes.addressof(_values)


def check_exports(store: Store, link: FunctionLink) -> None:
    required(store, b"memory", EXTERN_MEMORY)
    required(store, link.entrypoint.encode(), EXTERN_FUNC)


def run(
    store: Store, call: Invocation, head: bytes, body: bytes | memoryview, request_id: bytes, answer: memoryview
) -> Answer:
    """Raises `Trapped` or `EngineError`. An answer that is none, or too large, stops the invocation instead."""
    request = decode_request_head(head)
    told = variables(request, len(body), call.link, request_id)
    call.environment = [b"%b=%b\0" % item for item in told.items()]
    output = Output(call.link.response_bytes + ENVELOPE_BYTES, bytearray())
    descriptors = call.descriptors
    descriptors.set_stream(STDIN, Input(body))
    descriptors.set_stream(STDOUT, output)
    name = call.link.entrypoint.encode()
    entry = required(store, name, EXTERN_FUNC)
    try:
        if name != START:
            initialize(store)  # of a reactor; a program's _start does that itself
        store.call(entry, _values_at, 0)
    except (Trapped, EngineError):
        if not call.forgive_clean_exit():
            raise
    return _answer(call, output.data, answer)


def _answer(call: Invocation, output: bytearray, answer: memoryview) -> Answer:
    try:
        status, headers, at = parse_head(output)
    except MalformedHead as error:
        call.stop(Outcome.INVALID_GUEST_RESPONSE, str(error))
        return EMPTY
    body_bytes = len(output) - at
    most = min(call.link.response_bytes, len(answer) - call.link.log_bytes - ENVELOPE_BYTES)
    if body_bytes > most:
        call.stop(Outcome.RESPONSE_TOO_LARGE, f"a response body of {body_bytes} bytes, limits.response_body is {most}")
        return EMPTY
    head = encode_response(status, headers, b"")
    body = memoryview(output)[at:]
    if len(head) + body_bytes <= INLINE_BYTES:
        return b"".join((head, body)), 0
    answer[: len(head)] = head
    answer[len(head) : len(head) + body_bytes] = body
    return b"", len(head) + body_bytes

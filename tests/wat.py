"""Guests in the test's own text: small modules of the `handler` ABI, from WAT."""

from __future__ import annotations

import wasmtime

from wisp.wire.exchange import encode_response

RESPONSE_AT = 2048
REQUEST_AT = 65536


def handler(body: str, *, before: str = "", memory: str = '(memory (export "memory") 4)', data: str = "") -> bytes:
    """A module whose `wisp_handle` is `body`; its parameters are `$pointer` and `$length`, its result an i64."""
    text = f"""(module
      {before}
      {memory}
      {data}
      (func (export "wisp_alloc") (param $length i32) (result i32) (i32.const {REQUEST_AT}))
      (func (export "wisp_handle") (param $pointer i32) (param $length i32) (result i64) {body}))"""
    return bytes(wasmtime.wat2wasm(text))


def escaped(data: bytes) -> str:
    return "".join(f"\\{byte:02x}" for byte in data)


def answering(body: bytes, *, status: int = 200, work: str = "", before: str = "") -> bytes:
    """A module that does `work` and then answers with this body."""
    message = encode_response(status, ((b"content-type", b"text/plain"),), body)
    return handler(
        f"{work} (i64.const {RESPONSE_AT << 32 | len(message)})",
        before=before,
        data=f'(data (i32.const {RESPONSE_AT}) "{escaped(message)}")',
    )


LOOP = "(loop $again (br $again)) (unreachable)"
"""Never ends by itself."""

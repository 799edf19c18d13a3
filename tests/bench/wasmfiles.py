"""Modules of a wanted size: a `handler` that answers, and as much code beside it as it takes."""

from __future__ import annotations

from wisp.wire.exchange import encode_response

RESPONSE_AT, REQUEST_AT = 1024, 65536
I32, I64 = 0x7F, 0x7E
END = b"\x0b"


def uleb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        out.append(byte | 0x80 if value else byte)
        if not value:
            return bytes(out)


def sleb(value: int) -> bytes:
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        done = (value == 0 and not byte & 0x40) or (value == -1 and byte & 0x40)
        out.append(byte if done else byte | 0x80)
        if done:
            return bytes(out)


def vector(items: list[bytes]) -> bytes:
    return uleb(len(items)) + b"".join(items)


def section(number: int, content: bytes) -> bytes:
    return bytes([number]) + uleb(len(content)) + content


def function_type(params: list[int], results: list[int]) -> bytes:
    return b"\x60" + vector([bytes([each]) for each in params]) + vector([bytes([each]) for each in results])


def code(body: bytes) -> bytes:
    entry = uleb(0) + body + END
    return uleb(len(entry)) + entry


def filler(number: int) -> bytes:
    """(param i32) (result i32): ordinary arithmetic, different in each function, about 1 kB of code."""
    local = b"\x20\x00"
    body = local
    for step in range(120):
        constant = sleb((number * 2654435761 + step * 40503) % 2**31)
        body += local + b"\x41" + constant + (b"\x6a", b"\x73", b"\x6c")[step % 3] + b"\x6a"  # add xor mul, add
    return code(body)


def module_of(size_bytes: int, body: bytes, mark: int = 0) -> bytes:
    """About `size_bytes` of wasm that answers every request with `body`; `mark` makes its code another's."""
    message = encode_response(200, ((b"content-type", b"text/plain"),), body)
    one = len(filler(0))
    count = max(0, (size_bytes - 200 - len(message)) // one)
    types = [function_type([I32], [I32]), function_type([I32, I32], [I64])]
    bodies = [
        code(b"\x41" + sleb(REQUEST_AT)),
        code(b"\x42" + sleb(RESPONSE_AT << 32 | len(message))),
        *(filler(mark * count + number) for number in range(count)),
    ]
    exports = [(b"memory", 2, 0), (b"wisp_alloc", 0, 0), (b"wisp_handle", 0, 1)]
    return b"".join(
        (
            b"\0asm\1\0\0\0",
            section(1, vector(types)),
            section(3, vector([b"\0", b"\1", *[b"\0"] * count])),
            section(5, vector([b"\0" + uleb(4)])),
            section(7, vector([uleb(len(name)) + name + bytes([kind, index]) for name, kind, index in exports])),
            section(10, vector(bodies)),
            section(11, vector([b"\0\x41" + sleb(RESPONSE_AT) + END + uleb(len(message)) + message])),
        )
    )
